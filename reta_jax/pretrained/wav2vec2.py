"""`facebook/wav2vec2-base-960h` (Apache-2.0): model.safetensors from the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.errors import InputError
from reta_jax.pretrained.layers import conv_layer, linear_layer, norm
from reta_jax.pretrained.source import Source, Weights, config_beside, read_state
from reta_jax.pretrained.table import Entry, Params, Table, apply_table, conv

POSITIONS = "encoder.pos_conv_embed.conv"
# torch's two names for the parts of a weight norm.
RENAMED = {
    f"{POSITIONS}.parametrizations.weight.original0": f"{POSITIONS}.weight_g",
    f"{POSITIONS}.parametrizations.weight.original1": f"{POSITIONS}.weight_v",
}
# Our fields, as the published config.json calls them.
FIELDS = {
    "conv_features": "conv_dim", "conv_kernels": "conv_kernel", "conv_strides": "conv_stride",
    "width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
    "mlp_dim": "intermediate_size", "position_kernel": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
}  # fmt: skip
# The one architecture that Wav2Vec2 is; the large models differ.
ARCHITECTURE = {
    "feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False,
    "hidden_act": "gelu", "feat_extract_activation": "gelu",
}  # fmt: skip
# Of speech recognition, and of the training on voices alone that comes before.
HEADS = (r"lm_head\..*", r"project_hid\..*", r"project_q\..*", r"quantizer\..*")
ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}


class Sizes(NamedTuple):
    """The fields of `Wav2Vec2` that a published file decides on; these are the base model's."""

    conv_features: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    position_kernel: int = 128
    position_groups: int = 16


def convert(state: Mapping[str, np.ndarray], network: Any = Sizes()) -> Params:
    """Parameters of a `Wav2Vec2` from the published tensors, whatever head they have.

    network: anything with the fields of `Sizes`, such as the module itself.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    state = {key.removeprefix("wav2vec2."): weight for key, weight in state.items()}
    state = {RENAMED.get(key, key): weight for key, weight in state.items()}
    # The published file has no mask vector, which only masked training reads.
    state.setdefault("masked_spec_embed", np.zeros(network.width, np.float32))
    return apply_table(state, table(network), HEADS)


def read(path: Path) -> Weights:
    """Weights from the published file, built as the config.json beside it says."""
    fields = network_fields(config_beside(path, "config.json"), path)
    if not config_beside(path, "preprocessor_config.json").get("do_normalize", True):
        raise InputError(f"{path} wants audio that is not normalised, which this network is not")
    params = convert(read_state(path), Sizes(**fields))
    return Weights("wav2vec2", params, fields)


def network_fields(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Fields of `Wav2Vec2` from the published config.json; {} gives the base model."""
    other = {k: config[k] for k, v in ARCHITECTURE.items() if config.get(k, v) != v}
    if other:
        raise InputError(f"{path} is another architecture than wav2vec 2.0 base: {other}")
    base = Sizes()._asdict()
    found = {ours: config.get(theirs, base[ours]) for ours, theirs in FIELDS.items()}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def table(network: Any) -> Table:
    width, features = network.width, network.conv_features
    taps = network.position_kernel
    entries = {
        "masked_spec_embed": Entry("mask_vector", (width,)),
        f"{POSITIONS}.weight_g": Entry("positional_conv/g", (1, 1, taps), conv),
        f"{POSITIONS}.weight_v": Entry(
            "positional_conv/v", (width, width // network.position_groups, taps), conv
        ),
        f"{POSITIONS}.bias": Entry("positional_conv/bias", (width,)),
        **norm("feature_extractor.conv_layers.0.layer_norm", "feature_encoder/norm_0", features[0]),
        **norm("feature_projection.layer_norm", "feature_norm", features[-1]),
        **linear_layer(
            "feature_projection.projection", "feature_projection", (width, features[-1])
        ),
        **norm("encoder.layer_norm", "norm", width),
    }
    inputs = (1, *features[:-1])
    for i, shape in enumerate(zip(features, inputs, network.conv_kernels, strict=True)):
        key, path = f"feature_extractor.conv_layers.{i}.conv", f"feature_encoder/conv_{i}"
        entries |= conv_layer(key, path, shape, bias=False)
    for i in range(network.layers):
        key, path = f"encoder.layers.{i}", f"layer_{i}"
        inward, outward = (network.mlp_dim, width), (width, network.mlp_dim)
        for old, new in ATTENTION.items():
            names = f"{key}.attention.{old}", f"{path}/attention/{new}"
            entries |= linear_layer(*names, (width, width))
        entries |= norm(f"{key}.layer_norm", f"{path}/attention_norm", width)
        entries |= linear_layer(f"{key}.feed_forward.intermediate_dense", f"{path}/mlp_in", inward)
        entries |= linear_layer(f"{key}.feed_forward.output_dense", f"{path}/mlp_out", outward)
        entries |= norm(f"{key}.final_layer_norm", f"{path}/mlp_norm", width)
    return entries


SOURCE = Source(
    name="wav2vec2",
    gives="audio encoder E_A",
    published=("model.safetensors", "pytorch_model.bin"),
    where="facebook/wav2vec2-base-960h",
    licence="Apache-2.0",
    is_commercial=True,
    megabytes=378,
    read=read,
)
