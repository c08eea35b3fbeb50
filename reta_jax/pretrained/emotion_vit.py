"""`trpakov/vit-face-expression` (Apache-2.0): model.safetensors from the Hugging Face hub.

Its classes: angry, disgust, fear, happy, neutral, sad, surprise. Other ViT-B/16 classifiers of the
hub have the same keys and their own order of classes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.emotions import emotion_of
from data_pipeline.errors import InputError
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


class Sizes(NamedTuple):
    """The fields of `EmotionViT` that a published file decides on; these are ViT-B/16's."""

    size: int = 224
    patch: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    classes: int = 7
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


def convert(state: Mapping[str, np.ndarray], network: Any = Sizes()) -> Params:
    """Variables of an `EmotionViT` from the published tensors.

    network: anything with the fields of `Sizes`, such as the module itself.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    state = {published_name(key): weight for key, weight in state.items()}
    return apply_table(state, table(network))


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
    return Weights("emotion_vit", convert(read_state(path), Sizes(**fields)), fields, labels)


def emotion_labels(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Names of the classes in the order of the logits, as MEAD spells the emotions."""
    names = config.get("id2label")
    if not names:
        raise InputError(
            f"{path}: the order of its classes is unknown; put the config.json that is published "
            f"with it (id2label) beside it"
        )
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
    default = Sizes()
    fields = {ours: config.get(theirs, getattr(default, ours)) for ours, theirs in FIELDS.items()}
    mean = processor.get("image_mean", default.mean)
    std = processor.get("image_std", default.std)
    if not processor.get("do_normalize", True):
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    # They are of what becomes of a pixel's 255, ours of 1.
    is_scaled = processor.get("do_rescale", True)
    white = 255 * processor.get("rescale_factor", 1 / 255) if is_scaled else 255
    fields["mean"], fields["std"] = [x / white for x in mean], [x / white for x in std]
    return fields


def table(network: Any) -> Table:
    embeddings, width, patch = "vit.embeddings", network.width, network.patch
    places = 1 + (network.size // patch) ** 2
    projection = f"{embeddings}.patch_embeddings.projection"
    entries = {
        f"{embeddings}.cls_token": Entry("params/class_token", (1, 1, width)),
        f"{embeddings}.position_embeddings": Entry("params/positions", (1, places, width)),
        **conv_layer(projection, "params/patches", (width, 3, patch, patch)),
        **norm("vit.layernorm", "params/norm", width),
        **linear_layer("classifier", "params/classifier", (network.classes, width)),
    }
    for i in range(network.layers):
        key, path = f"vit.encoder.layer.{i}", f"params/layer_{i}"
        inward, outward = (network.mlp_dim, width), (width, network.mlp_dim)
        entries |= norm(f"{key}.layernorm_before", f"{path}/attention_norm", width)
        for old, new in ATTENTION.items():
            names = f"{key}.attention.{old}", f"{path}/attention/{new}"
            entries |= linear_layer(*names, (width, width))
        entries |= norm(f"{key}.layernorm_after", f"{path}/mlp_norm", width)
        entries |= linear_layer(f"{key}.intermediate.dense", f"{path}/mlp_in", inward)
        entries |= linear_layer(f"{key}.output.dense", f"{path}/mlp_out", outward)
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
