"""`trpakov/vit-face-expression` (Apache-2.0): model.safetensors from the Hugging Face hub.

Its classes: angry, disgust, fear, happy, neutral, sad, surprise. Other ViT-B/16 classifiers of the
hub have the same keys and their own order of classes.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from reta_jax.experts.emotion_vit import EmotionViT
from reta_jax.pretrained.layers import conv_layer, linear_layer, norm
from reta_jax.pretrained.table import Entry, Params, Table, apply_table

ATTENTION = {
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "output.dense": "out",
}


def convert(state: Mapping[str, np.ndarray], network: EmotionViT = EmotionViT()) -> Params:
    """Variables of `network` from the published tensors.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    images = jax.ShapeDtypeStruct((1, network.size, network.size, 3), jnp.float32)
    like = jax.eval_shape(network.init, jax.random.key(0), images)
    return apply_table(state, table(network), like=like)


def table(network: EmotionViT) -> Table:
    embeddings = "vit.embeddings"
    entries = {
        f"{embeddings}.cls_token": Entry("params/class_token"),
        f"{embeddings}.position_embeddings": Entry("params/positions"),
        **conv_layer(f"{embeddings}.patch_embeddings.projection", "params/patches"),
        **norm("vit.layernorm", "params/norm"),
        **linear_layer("classifier", "params/classifier"),
    }
    for i in range(network.layers):
        key, path = f"vit.encoder.layer.{i}", f"params/layer_{i}"
        entries |= norm(f"{key}.layernorm_before", f"{path}/attention_norm")
        for old, new in ATTENTION.items():
            entries |= linear_layer(f"{key}.attention.{old}", f"{path}/attention/{new}")
        entries |= norm(f"{key}.layernorm_after", f"{path}/mlp_norm")
        entries |= linear_layer(f"{key}.intermediate.dense", f"{path}/mlp_in")
        entries |= linear_layer(f"{key}.output.dense", f"{path}/mlp_out")
    return entries
