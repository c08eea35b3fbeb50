"""What a published checkpoint is, and what reading one gives."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from data_pipeline.errors import InputError
from reta_jax.files import file_digest
from reta_jax.pretrained.table import Params
from reta_jax.pretrained.torch_file import DTYPES, find_tensors, read_torch_file

State = dict[str, np.ndarray]

# The types of safetensors by their names in torch.
SAFETENSORS_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16",
    "U32": "uint32", "U64": "uint64",
}  # fmt: skip


class Weights(NamedTuple):
    """A network's variables with what is needed to build it."""

    kind: str  # of network, as in the `kind` of its config.json
    variables: Params
    fields: dict[str, Any] = {}  # of the Flax module
    labels: tuple[str, ...] = ()  # of a classifier, in the order of its logits


class Source(NamedTuple):
    """A published set of weights."""

    name: str
    gives: str  # which networks
    published: tuple[str, ...]  # names of the files
    where: str  # page or hub id
    licence: str
    is_commercial: bool  # whether the licence lets one use it so
    megabytes: int
    read: Callable[[Path], Weights]  # of a file or a folder


def read_state(path: Path, *rooms: str) -> State:
    """The tensors of a .safetensors file or a PyTorch checkpoint: views of the mapped file.

    rooms: names of the parts that may hold the wanted tensors, e.g. "gen"; the first that is there
      is entered. Without one, the file is the state dict itself.

    Raises InputError if the file cannot be read, or holds no tensors there.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file in it")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    loaded = read_torch_file(path)
    for room in rooms:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(room), Mapping):
            loaded = loaded[room]
            break
    state = find_tensors(loaded)
    if not state:
        raise InputError(f"{path} holds no tensors")
    return state


def _read_safetensors(path: Path) -> State:
    if not path.is_file():
        raise InputError(f"cannot read {path}: no such file")
    try:
        with safe_open(path, "np"):  # refuses a header that lies, and a file that is not whole
            mapped = np.memmap(path, np.uint8, "r")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is no safetensors file, or not whole: {error}") from error
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    header = json.loads(mapped[8:start].tobytes())
    header.pop("__metadata__", None)
    return {key: _tensor(mapped[start:], facts, path) for key, facts in header.items()}


def _tensor(data: np.ndarray, facts: dict[str, Any], path: Path) -> np.ndarray:
    """A view of the bytes that one entry of the header describes."""
    if facts["dtype"] not in SAFETENSORS_TYPES:
        raise InputError(f"{path} has numbers of type {facts['dtype']}: save it as F32 or BF16")
    begin, end = facts["data_offsets"]
    dtype = np.dtype(DTYPES[SAFETENSORS_TYPES[facts["dtype"]]])
    return data[begin:end].view(dtype).reshape(facts["shape"])


def config_beside(path: Path, name: str) -> dict[str, Any]:
    """The JSON file `name` in the folder of `path`; {} if there is none."""
    file = path.parent / name
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} holds no JSON object")
    return values


def file_facts(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of a file, for the record of where weights come from."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path)}
