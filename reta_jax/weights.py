"""Folders of weights: params.safetensors with config.json, written whole or not at all."""

import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from data_pipeline.errors import InputError

PARAMS_FILE, CONFIG_FILE, CARD_FILE = "params.safetensors", "config.json", "README.md"
FORMAT = 1  # of the folder; raised when an older reader would misread a newer one


def save_weights(
    folder: Path, params: Any, config: dict[str, Any], dtype: str = "float32", card: str = ""
) -> None:
    """Writes a folder of weights to share, complete or not at all.

    Args:
      params: nested dict of arrays.
      config: JSON values; for RETA the resolved config, for an expert its kind and fields.
      dtype: storage type of floating arrays ("float32", "float16").
      card: text of a README.md beside them.

    Raises:
      InputError: it cannot be written there, or there is a folder of something else.
    """
    stored = lambda x: x.astype(dtype, copy=False) if np.issubdtype(x.dtype, np.floating) else x
    flat = {key: np.asarray(stored(x), order="C") for key, x in flatten(params).items()}
    config = config | {"format": FORMAT}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            save_file(flat, new / PARAMS_FILE, {"crc32": checksum(flat)})
            os.chmod(new / PARAMS_FILE, 0o644)  # written for its owner alone
            (new / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
            if card:
                (new / CARD_FILE).write_text(card)
            if folder.is_dir() and any(folder.iterdir()):
                if not (folder / PARAMS_FILE).is_file():
                    raise InputError(f"{folder} holds other files: name another folder for weights")
                os.replace(folder, old)
            try:
                os.replace(new, folder)
            except OSError:
                if old.exists():
                    os.replace(old, folder)
                raise
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write weights to {folder}: {error}") from error


def load_weights(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Reads a folder of weights: nested dict of float32 arrays, and its config.

    Raises InputError if it is no such folder, damaged, or of a later format.
    """
    for name in (PARAMS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise InputError(f"no {name} in {folder}: not a folder of weights")
    try:
        with safe_open(folder / PARAMS_FILE, "np") as file:
            flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("crc32")
        config = json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"cannot read the weights in {folder}: {error}") from error
    if config.get("format") != FORMAT:
        raise InputError(
            f"the weights in {folder} have format {config.get('format')!r}; this version reads "
            f"{FORMAT}"
        )
    if expected not in (None, checksum(flat)):
        raise InputError(f"the weights in {folder} are damaged: fetch or save them again")
    to_f32 = lambda x: x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x
    return nest({key: to_f32(value) for key, value in flat.items()}), config


def checksum(flat: dict[str, np.ndarray]) -> str:
    """CRC-32 of all numbers; safetensors itself notices no damage to them."""
    crc = 0
    for _, value in sorted(flat.items()):
        crc = zlib.crc32(np.ascontiguousarray(value), crc)
    return f"{crc:08x}"


def flatten(tree: Any) -> dict[str, Any]:
    """Nested dict to {"a/b/c": leaf}."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(k.key for k in path): np.asarray(leaf) for path, leaf in paths}


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
    want = {
        "/".join(k.key for k in path): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path(expected)[0]
    }
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
