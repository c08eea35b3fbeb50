"""`facebook/wav2vec2-base-960h` (Apache-2.0): model.safetensors from the Hugging Face hub."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from reta_jax.models.wav2vec2 import Wav2Vec2
from reta_jax.pretrained.layers import conv_layer, linear_layer, norm
from reta_jax.pretrained.table import Entry, Params, Table, apply_table, conv

POSITIONS = "encoder.pos_conv_embed.conv"
# torch's two names for the parts of a weight norm.
RENAMED = {
    f"{POSITIONS}.parametrizations.weight.original0": f"{POSITIONS}.weight_g",
    f"{POSITIONS}.parametrizations.weight.original1": f"{POSITIONS}.weight_v",
}
ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}


def convert(state: Mapping[str, np.ndarray], network: Wav2Vec2 = Wav2Vec2()) -> Params:
    """Parameters of `network` from the published tensors, with or without the CTC head.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    state = {key.removeprefix("wav2vec2."): weight for key, weight in state.items()}
    state = {RENAMED.get(key, key): weight for key, weight in state.items()}
    # The published file has no mask vector, which only masked training reads.
    state.setdefault("masked_spec_embed", np.zeros(network.width, np.float32))
    audio = jax.ShapeDtypeStruct((1, 3200), jnp.float32)
    like = jax.eval_shape(network.init, jax.random.key(0), audio)["params"]
    return apply_table(state, table(network), ignore=[r"lm_head\..*"], like=like)


def table(network: Wav2Vec2) -> Table:
    entries = {
        "masked_spec_embed": Entry("mask_vector"),
        f"{POSITIONS}.weight_g": Entry("positional_conv/g", conv),
        f"{POSITIONS}.weight_v": Entry("positional_conv/v", conv),
        f"{POSITIONS}.bias": Entry("positional_conv/bias"),
        **norm("feature_extractor.conv_layers.0.layer_norm", "feature_encoder/norm_0"),
        **norm("feature_projection.layer_norm", "feature_norm"),
        **linear_layer("feature_projection.projection", "feature_projection"),
        **norm("encoder.layer_norm", "norm"),
    }
    for i in range(len(network.conv_features)):
        key, path = f"feature_extractor.conv_layers.{i}.conv", f"feature_encoder/conv_{i}"
        entries |= conv_layer(key, path, bias=False)
    for i in range(network.layers):
        key, path = f"encoder.layers.{i}", f"layer_{i}"
        for old, new in ATTENTION.items():
            entries |= linear_layer(f"{key}.attention.{old}", f"{path}/attention/{new}")
        entries |= norm(f"{key}.layer_norm", f"{path}/attention_norm")
        entries |= linear_layer(f"{key}.feed_forward.intermediate_dense", f"{path}/mlp_in")
        entries |= linear_layer(f"{key}.feed_forward.output_dense", f"{path}/mlp_out")
        entries |= norm(f"{key}.final_layer_norm", f"{path}/mlp_norm")
    return entries
