"""What a published checkpoint is, and what reading one gives."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from data_pipeline.errors import InputError
from reta_jax.pretrained.table import Params
from reta_jax.pretrained.torch_file import find_tensors, read_torch_file

State = dict[str, np.ndarray]


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
    """The tensors of a .safetensors file or a PyTorch checkpoint.

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
    try:
        state = find_tensors(loaded)
    except RecursionError as error:
        raise InputError(f"{path} is no checkpoint: its parts contain themselves") from error
    if not state:
        raise InputError(f"{path} holds no tensors")
    return state


def _read_safetensors(path: Path) -> State:
    if not path.is_file():
        raise InputError(f"cannot read {path}: no such file")
    try:
        # Through flax's view, because NumPy alone has no bfloat16.
        with safe_open(path, "flax") as file:
            return {key: np.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is no safetensors file, or not whole: {error}") from error


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
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
