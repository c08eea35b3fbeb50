"""`trpakov/vit-face-expression` (Apache-2.0): model.safetensors from the Hugging Face hub.

Its classes: angry, disgust, fear, happy, neutral, sad, surprise. Other ViT-B/16 classifiers of the
hub have the same keys and their own order of classes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.emotions import emotion_of
from data_pipeline.errors import InputError
from reta_jax.experts.emotion_vit import EmotionViT
from reta_jax.pretrained.layers import conv_layer, linear_layer, norm
from reta_jax.pretrained.source import Source, Weights, config_beside, read_state
from reta_jax.pretrained.table import Entry, Params, Table, apply_table

LABELS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
FIELDS = {
    "size": "image_size", "patch": "patch_size", "width": "hidden_size",
    "layers": "num_hidden_layers", "heads": "num_attention_heads", "mlp_dim": "intermediate_size",
}  # fmt: skip
# The one architecture that EmotionViT is; no tensor's shape tells it from the others.
ARCHITECTURE = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_channels": 3}
# transformers 5 calls the same tensors otherwise.
RENAMED = (
    (r"\bvit\.layers\.(\d+)\.", r"vit.encoder.layer.\1."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
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
    state = {published_name(key): weight for key, weight in state.items()}
    images = jax.ShapeDtypeStruct((1, network.size, network.size, 3), jnp.float32)
    like = jax.eval_shape(network.init, jax.random.key(0), images)
    return apply_table(state, table(network), like=like)


def published_name(key: str) -> str:
    for pattern, name in RENAMED:
        key = re.sub(pattern, name, key)
    return key


def read(path: Path) -> Weights:
    """Weights from the published file; size, labels and pixel statistics from the JSON beside it.

    Raises InputError also if the labels are no emotions.
    """
    config = config_beside(path, "config.json")
    other = {k: config[k] for k, v in ARCHITECTURE.items() if config.get(k, v) != v}
    if other:
        raise InputError(f"{path} is another architecture than the published ViT: {other}")
    labels = emotion_labels(config, path)
    fields = network_fields(config, config_beside(path, "preprocessor_config.json"))
    fields["classes"] = len(labels)
    return Weights("emotion_vit", convert(read_state(path), EmotionViT(**fields)), fields, labels)


def emotion_labels(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Names of the classes in the order of the logits, as MEAD spells the emotions."""
    names = config.get("id2label") or dict(enumerate(LABELS))
    ordered = [str(names[key]) for key in sorted(names, key=int)]
    labels = tuple(emotion_of(name) for name in ordered)
    if None in labels or len(set(labels)) != len(labels):
        raise InputError(
            f"{path}: the classes {', '.join(ordered)} are not all emotions; expected names like "
            f"{', '.join(LABELS)} in id2label of config.json"
        )
    return labels


def network_fields(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `EmotionViT` from the published JSON files; {} gives ViT-B/16 as published."""
    default = EmotionViT()
    fields = {ours: config.get(theirs, getattr(default, ours)) for ours, theirs in FIELDS.items()}
    fields["mean"] = list(processor.get("image_mean", default.mean))
    fields["std"] = list(processor.get("image_std", default.std))
    return fields


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


SOURCE = Source(
    name="emotion_vit",
    gives="emotion teacher T",
    published=("model.safetensors", "pytorch_model.bin"),
    where="trpakov/vit-face-expression",
    licence="Apache-2.0",
    is_commercial=True,
    megabytes=343,
    read=read,
)
