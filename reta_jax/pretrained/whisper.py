"""The encoder of `openai/whisper-tiny` (MIT) and its larger kin, from the hub or CTranslate2."""

import itertools
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.errors import InputError
from reta_jax.pretrained.layers import conv_layer, linear_layer, norm
from reta_jax.pretrained.source import Source, State, Weights, config_beside, read_state
from reta_jax.pretrained.table import Params, Table, apply_table

POSITIONS = "embed_positions.weight"
ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
# Our fields, as the published config.json calls them.
FIELDS = {
    "width": "d_model", "layers": "encoder_layers", "heads": "encoder_attention_heads",
    "mlp_dim": "encoder_ffn_dim", "bins": "num_mel_bins",
}  # fmt: skip


class Sizes(NamedTuple):
    """The fields of `Whisper` that a published file decides on; these are the tiny model's."""

    width: int = 384
    layers: int = 4
    heads: int = 6
    mlp_dim: int = 1536
    bins: int = 80


def convert(state: Mapping[str, np.ndarray], network: Any = Sizes()) -> Params:
    """Parameters of a `Whisper` from the published tensors; the decoder's are left.

    network: anything with the fields of `Sizes`, such as the module itself.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    prefix = "encoder."
    state = {key.removeprefix("model."): weight for key, weight in state.items()}
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    for i in range(network.layers):  # The published keys have no bias; softmax would cancel one.
        state.setdefault(f"layers.{i}.self_attn.k_proj.bias", np.zeros(network.width, np.float32))
    return apply_table(state, table(network), ignore=[POSITIONS])


def table(network: Any) -> Table:
    width, inward = network.width, (network.mlp_dim, network.width)
    entries = {
        **conv_layer("conv1", "conv_0", (width, network.bins, 3)),
        **conv_layer("conv2", "conv_1", (width, width, 3)),
        **norm("layer_norm", "norm", width),
    }
    for i in range(network.layers):
        key, path = f"layers.{i}", f"layer_{i}"
        for old, new in ATTENTION.items():
            names = f"{key}.self_attn.{old}", f"{path}/attention/{new}"
            entries |= linear_layer(*names, (width, width))
        entries |= norm(f"{key}.self_attn_layer_norm", f"{path}/attention_norm", width)
        entries |= norm(f"{key}.final_layer_norm", f"{path}/mlp_norm", width)
        entries |= linear_layer(f"{key}.fc1", f"{path}/mlp_in", inward)
        entries |= linear_layer(f"{key}.fc2", f"{path}/mlp_out", inward[::-1])
    return entries


def read(path: Path) -> Weights:
    """Weights from the hub's file with the config.json beside it, or from CTranslate2's."""
    if path.suffix == ".bin" and path.is_file() and (found := read_ctranslate2(path)) is not None:
        state, fields = found
    else:
        config = config_beside(path, "config.json")
        if config.get("model_type", "whisper") != "whisper":
            raise InputError(f"{path} is {config['model_type']!r}, not Whisper")
        state, fields = read_state(path), network_fields(config)
    return Weights("whisper", convert(state, Sizes(**fields)), fields)


def network_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Whisper` from the published config.json; {} gives the tiny model."""
    base = Sizes()._asdict()
    return {ours: config.get(theirs, base[ours]) for ours, theirs in FIELDS.items()}


# CTranslate2's names of a layer's parts; its first attention matrix is query, key and value.
LAYER = {
    "self_attention/layer_norm": "self_attn_layer_norm", "self_attention/linear_1":
    "self_attn.out_proj", "ffn/layer_norm": "final_layer_norm", "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}  # fmt: skip
PARTS = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(path: Path) -> tuple[State, dict[str, Any]] | None:
    """(tensors under the hub's names, fields of `Whisper`) of a model.bin; None: another format.

    Raises InputError if the file is cut short, or holds quantised weights.
    """
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    if b"WhisperSpec" not in bytes(data[:64]):
        return None
    try:
        tensors = _tensors(data)
    except (struct.error, ValueError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no whole CTranslate2 model: {error}") from error
    state = {}
    for name, tensor in tensors.items():
        if not name.startswith("encoder/") or not name.endswith(tuple(PARTS)):
            continue
        if tensor.dtype.kind != "f":
            raise InputError(f"{path} is quantised: convert it with --quantization float16")
        place, _, part = name.removeprefix("encoder/").rpartition("/")
        state |= _published(place, PARTS[part], tensor)
    count = itertools.takewhile(lambda i: f"layers.{i}.fc1.weight" in state, itertools.count())
    width, bins, _ = state["conv1.weight"].shape
    fields = {
        "width": width,
        "layers": len(list(count)),
        "heads": int(tensors["encoder/num_heads"]),
        "mlp_dim": len(state["layers.0.fc1.bias"]),
        "bins": bins,
    }
    return {f"encoder.{key}": value for key, value in state.items()}, fields


def _tensors(data: np.ndarray) -> State:
    """Every variable of a CTranslate2 file of version 6, as views."""
    at = 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(form)
        return value

    def text() -> str:
        nonlocal at
        size = take("H")
        at += size
        return bytes(data[at - size : at - 1]).decode()

    take("I"), text(), take("I")  # version of the format, name and revision of the model
    tensors = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        dtype, size = np.dtype(TYPES[take("B")]), take("I")
        tensors[name] = data[at : at + size].view(dtype).reshape(shape)
        at += size
    return tensors


def _published(place: str, part: str, tensor: np.ndarray) -> State:
    """A tensor of CTranslate2 under the hub's names."""
    inside = re.fullmatch(r"layer_(\d+)/(.+)", place)
    if inside is None:
        return {f"{place}.{part}": tensor}
    key, rest = f"layers.{inside[1]}", inside[2]
    if rest == "self_attention/linear_0":
        names = ("q_proj", "k_proj", "v_proj")
        parts = zip(names, np.split(tensor, 3), strict=True)
        return {f"{key}.self_attn.{name}.{part}": value for name, value in parts}
    return {f"{key}.{LAYER[rest]}.{part}": tensor}


SOURCE = Source(
    name="whisper",
    gives="audio encoder E_A",
    published=("model.safetensors", "pytorch_model.bin", "model.bin"),
    where="openai/whisper-tiny",
    licence="MIT",
    is_commercial=True,
    megabytes=151,
    read=read,
)
