"""Folders of weights: params.safetensors with config.json, written whole or not at all."""

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open

from data_pipeline.errors import InputError, system_error
from data_pipeline.files import refuse_address
from reta_jax.config import upgraded

PARAMS_FILE, CONFIG_FILE, CARD_FILE = "params.safetensors", "config.json", "README.md"
_SHIPPED = Path(__file__).parents[1] / "weights"
SHIPPED_WEIGHTS = _SHIPPED / "corpus" / "reta"  # of filmed people
SYNTHETIC_WEIGHTS = _SHIPPED / "synthetic" / "reta"
FORMAT = 1  # of the folder; raised when an older reader would misread a newer one


def save_weights(
    folder: Path,
    params: Any,
    config: dict[str, Any],
    dtype: str = "float32",
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a folder of weights to share, complete or not at all.

    Args:
      params: nested dict of arrays.
      config: JSON values; for RETA the resolved config, for an expert its kind and fields.
      dtype: storage type of floating arrays ("float32", "float16").
      files: further files of the folder: a model card, programs.

    Raises:
      InputError: it cannot be written there, or there is a folder of something else.
    """
    config = config | {"format": FORMAT}
    with new_folder(folder) as new:
        _write_tensors(new / PARAMS_FILE, flatten(params), dtype)
        (new / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        for name, content in (files or {}).items():
            (new / name).write_bytes(content)


@contextlib.contextmanager
def new_folder(folder: Path, mark: str = PARAMS_FILE) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder` when the block ends well.

    Args:
      mark: a file of it; see `check_target`.

    Raises:
      InputError: it cannot be written there, or there is a folder of something else.
    """
    refuse_address(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Without the way over folders that are moved below, as in folder/../folder.
        place = folder.parent.resolve() / folder.name
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            yield new
            check_target(folder, mark=mark)
            try:
                if place.is_dir():
                    os.replace(place, old)
                os.replace(new, place)
            except BaseException:
                if os.path.lexists(old) and not os.path.lexists(place):
                    os.replace(old, place)
                raise
    except OSError as error:
        reason = error.strerror or error
        raise system_error(f"cannot write weights to {folder}: {reason}", error) from error


def check_target(folder: Path, kind: str | None = None, mark: str = PARAMS_FILE) -> None:
    """Raises InputError if `folder` is something else than weights that may be replaced.

    Nor may the current folder, or one above it, be replaced.

    Args:
      kind: of the weights that are to take its place, as in their config; None: it may be any.
      mark: a file that folders of such weights have.
    """
    refuse_address(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot write weights to {folder}: a file is in the way")
    here = Path.cwd()
    if folder.resolve() in (here, *here.parents):
        raise InputError(
            f"{folder} is the current folder or one above it: name another folder for weights"
        )
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / mark).is_file():
        raise InputError(f"{folder} holds other files: name another folder for weights")
    if kind is not None and (found := _kind_of(folder)) != kind:
        raise InputError(
            f"{folder} holds {found or 'unknown'} weights, which {kind} ones would replace: name "
            f"another folder"
        )


def _kind_of(folder: Path) -> str | None:
    """What a folder's config calls its weights; None where there is none to be read."""
    try:
        return json.loads((folder / CONFIG_FILE).read_text()).get("kind")
    except (OSError, ValueError, AttributeError):
        return None


def check_outside(path: Path, folder: Path) -> None:
    """Raises InputError if what is read lies in the folder that is written."""
    if folder.resolve() in (path.resolve(), *path.resolve().parents):
        raise InputError(
            f"{path} lies in {folder}, which is replaced: name another folder to write"
        )


def _write_tensors(path: Path, flat: dict[str, np.ndarray], dtype: str) -> None:
    """A safetensors file, one tensor at a time: published files are as large as the memory allows.

    The checksum stands before the numbers that it is of, so it is filled in at the end.
    """
    types = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64"}
    stored = {key: _stored_type(x, dtype) for key, x in sorted(flat.items())}
    entries, end = {}, 0
    for key, name in stored.items():
        begin, end = end, end + flat[key].size * np.dtype(name).itemsize
        facts = {"dtype": types[name], "shape": flat[key].shape, "data_offsets": (begin, end)}
        entries[key] = facts

    def header(crc: int) -> bytes:
        text = json.dumps({"__metadata__": {"crc32": f"{crc:08x}"}} | entries).encode()
        text += b" " * (-len(text) % 8)  # numbers are aligned
        return len(text).to_bytes(8, "little") + text

    crc = 0
    with path.open("wb") as file:
        file.write(header(crc))
        for key, name in stored.items():
            numbers = np.ascontiguousarray(flat[key], name)
            file.write(numbers)
            crc = zlib.crc32(numbers, crc)
        file.seek(0)
        file.write(header(crc))


def _stored_type(x: np.ndarray, dtype: str) -> str:
    """`dtype`, or float32 for numbers that would be infinite in it: variances of pixels are."""
    if not _is_floating(x):
        return x.dtype.name
    fits = np.abs(x).max(initial=0) <= np.finfo(dtype).max
    return dtype if fits else "float32"


def _is_floating(x: np.ndarray) -> bool:
    return x.dtype.kind == "f" or x.dtype.name == "bfloat16"


def load_weights(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Reads a folder of weights: nested dict of float32 arrays, and its config.

    Raises InputError if it is no such folder, damaged, or of a later format.
    """
    config = load_config(folder)
    try:
        with safe_open(folder / PARAMS_FILE, "np") as file:
            flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("crc32")
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"cannot read the weights in {folder}: {error}") from error
    if expected not in (None, checksum(flat)):
        raise InputError(f"the weights in {folder} are damaged: fetch or save them again")
    return as_float32(nest(flat)), config


def load_config(folder: Path) -> dict[str, Any]:
    """The config of a folder of weights, with every field of today's models.

    Raises InputError as `load_weights` does.
    """
    for name in (PARAMS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise InputError(f"no {name} in {folder}: not a folder of weights")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the weights in {folder}: {error}") from error
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise InputError(
            f"the weights in {folder} have format {found!r}; this version reads {FORMAT}"
        )
    return upgraded(config)


def as_float32(tree: Any) -> Any:
    """The nested dict with its floating arrays, of any type and layout, in plain float32."""
    if isinstance(tree, Mapping):
        return {key: as_float32(child) for key, child in tree.items()}
    return np.asarray(tree, np.float32, order="C") if _is_floating(tree) else tree


def checksum(flat: dict[str, np.ndarray]) -> str:
    """CRC-32 of all numbers; safetensors itself notices no damage to them."""
    crc = 0
    for _, value in sorted(flat.items()):
        crc = zlib.crc32(np.ascontiguousarray(value), crc)
    return f"{crc:08x}"


def flatten(tree: Any) -> dict[str, Any]:
    """Nested dict to {"a/b/c": leaf}: leaves as NumPy arrays, fetched from the device."""
    return {path: np.asarray(leaf) for path, leaf in _leaves(tree).items()}


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    found = {}
    for key in sorted(tree):
        if isinstance(tree[key], Mapping):
            found |= _leaves(tree[key], f"{prefix}{key}/")
        else:
            found[f"{prefix}{key}"] = tree[key]
    return found


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b/c": leaf} to nested dicts."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def check_params(params: Any, expected: Any, source: str) -> None:
    """Compares names and shapes with what the model expects; reports all differences at once."""
    have = {k: v.shape for k, v in flatten(params).items()}
    want = {path: leaf.shape for path, leaf in _leaves(expected).items()}
    problems = [f"missing {k}" for k in want.keys() - have.keys()]
    problems += [f"unexpected {k}" for k in have.keys() - want.keys()]
    problems += [
        f"{k} is {have[k]}, expected {want[k]}"
        for k in have.keys() & want.keys()
        if have[k] != want[k]
    ]
    if problems:
        raise InputError(f"{source} does not fit the model: {'; '.join(sorted(problems))}")


def config_to_dict(config: ConfigDict) -> dict[str, Any]:
    """Resolved config as JSON values."""
    return json.loads(config.to_json_best_effort())


def config_from_dict(values: dict[str, Any]) -> ConfigDict:
    def tuples(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: tuples(v) for k, v in x.items()}
        return tuple(tuples(v) for v in x) if isinstance(x, list) else x

    return ConfigDict(tuples(values))
