"""Training in slices, on machines that you have for minutes at a time: what travels.

Between two machines only a slice travels: a folder of small files from which training goes on.

    slices/manifest.json                       its name, step, config, and SHA-256 of each file
    slices/slice-003/state-00.safetensors …    16 MB at most, 60 MB together
    slices/slice-003/metrics.jsonl             of all slices so far, each step once
    slices/slice-003/preview.png               the last one

The manifest is written last, so that whatever ends a pack half-way leaves the slice before it.
Parameters travel in float32, Adam's moments and the average's difference to the parameters as
logarithms of 16 bits, three times as near as bfloat16 would be. What a config gives again does not
travel: a frozen audio encoder that is still the published one, and a discriminator that has not
learned yet.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from safetensors import safe_open
from safetensors.numpy import save

from data_pipeline.errors import InputError
from reta_jax.config import upgraded
from reta_jax.differences import FREE_FIELDS, differences, flat_fields, told
from reta_jax.experts.load import KINDS, wanted_experts
from reta_jax.files import write_json
from reta_jax.initial import initial_weights
from reta_jax.models.morphable import MorphableModel
from reta_jax.pretrained.load import RANDOM, load, load_morphable
from reta_jax.pretrained.reta import save_reta
from reta_jax.state import (
    Networks,
    TrainState,
    build_networks,
    create_state,
    first_key,
    only_trained,
    state_shapes,
    teacher_width,
)
from reta_jax.weights import config_from_dict, config_to_dict, flatten

MANIFEST_FILE, METRICS_FILE, PREVIEW_FILE = "manifest.json", "metrics.jsonl", "preview.png"
FORMAT = 2  # of the folder; raised when an older reader would misread a newer one
MAX_FILE, MAX_SLICE = 16_000_000, 60_000_000  # bytes

_DIFFERENCE = "ema_minus_params/"  # in place of ema/
_TOP = "top/"  # before the name of an array of logarithms: that of its largest value
_TOP_BYTES = 8
_LARGEST = 2**15 - 1  # of a logarithm's code; 0 is the code of 0
_OCTAVES = 64  # below the largest value of an array that its codes reach
_BESIDE = 3_000_000  # bytes of a slice that are kept for metrics, preview and headers
_HEADER = 4_096  # bytes of a piece beside its tensors and their entries, at most
_SMALLER = "lower model.channel_multiplier, model.style_dim or model.tcn.features"


class Slice(NamedTuple):
    """What travels."""

    number: int  # of slices so far, from 1
    step: int
    data: dict[str, Any]  # the loader's position
    config: dict[str, Any]  # resolved
    provenance: list[dict[str, Any]]
    left_out: dict[str, Any]  # what the config gives again, see `pack_state`
    tensors: dict[str, np.ndarray]
    metrics: bytes
    preview: bytes  # PNG; empty before the first
    preview_step: int


class Layout(NamedTuple):
    """A config with what its state is made of: read once, for a 3DMM and a teacher are files."""

    config: ConfigDict
    networks: Networks
    morphable: MorphableModel
    state: TrainState  # shapes


def layout_of(config: ConfigDict) -> Layout:
    networks = build_networks(config, teacher_width(config, _teacher(config)))
    morphable, _ = load_morphable(config.model)
    return Layout(config, networks, morphable, state_shapes(config, networks, morphable))


def _teacher(config: ConfigDict) -> nn.Module | None:
    """As train.run has it, without loading the other experts."""
    teacher = config.experts.teacher
    kind, is_needed = wanted_experts(config)["teacher"]
    if not is_needed:
        return None
    fields = teacher.fields
    if teacher.weights != RANDOM:
        fields = load(kind, teacher.weights).config["fields"]
    return KINDS[kind](**fields)


# State to tensors and back.


def pack_state(
    state: TrainState, layout: Layout, exact: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a state that have to travel, and what the config gives again.

    Args:
      exact: moments and average travel in float32 too.

    Returns:
      {path: array}, and {"frozen": SHA-256 of the frozen leaves that are the published ones or
      None, "discriminator": whether it is still at its start}.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in _named(state).items()}
    frozen = _frozen(layout)
    published = _published(layout) if frozen else {}
    known = {
        name: leaves[name]
        for name in sorted(frozen)
        if name in published and np.array_equal(published[name], leaves[name])
    }
    rests = _has_not_learned(leaves)
    tensors = {}
    for name, value in leaves.items():
        if name in known or (rests and name.startswith("d_")):
            continue
        if name.startswith("ema/"):
            params = leaves[_averaged(name)]
            if np.array_equal(value, params):
                continue
            if not exact:
                value = value - params
        stored, dtype = _form(name, value.dtype, exact)
        if dtype == np.int16:
            tensors[stored], tensors[_TOP + stored] = _logarithms(value)
        else:
            tensors[stored] = value
    return tensors, {"frozen": _sha(known) if known else None, "discriminator": rests}


def unpack_state(found: Slice, layout: Layout) -> TrainState:
    """The state that was packed.

    Raises:
      InputError: it does not fit the config's model, or the published weights are missing or not
        those that it was trained with.
    """
    filled = _what_config_gives(found, layout)
    named = _named(layout.state)
    for name, leaf in named.items():
        stored, _ = _form(name, leaf.dtype, exact=False)
        if name.startswith("ema/") and name not in found.tensors:
            value = filled[_averaged(name)]
            if stored in found.tensors:
                value = value + _values(found.tensors, stored)
        elif name in found.tensors:
            value = _values(found.tensors, name)
        elif name in filled:
            value = filled[name]
        else:
            raise InputError(f"the slice does not fit the config's model: it has no {name}")
        if value.shape != leaf.shape:
            raise InputError(
                f"the slice does not fit the config's model: {name} is {value.shape}, expected "
                f"{leaf.shape}"
            )
        filled[name] = np.asarray(value, leaf.dtype)
    values = [jnp.asarray(filled[name]) for name in named]
    return jax.tree.unflatten(jax.tree.structure(layout.state), values)


def packed_bytes(layout: Layout, exact: bool = False) -> dict[str, int]:
    """Bytes of the parts of a config's slices once everything learns, without making any array."""
    config = layout.config
    given = _frozen(layout) if _names_weights(config) else set()
    sizes = dict.fromkeys(("parameters", "moments", "average", "discriminator"), 0)
    parts = {"d_params": "discriminator", "d_opt_state": "discriminator"}
    parts |= {"opt_state": "moments", "ema": "average"}
    for name, leaf in _named(layout.state).items():
        field = name.split("/")[0]
        is_idle = field.startswith("d_") and not config.loss.adversarial
        if (_averaged(name) if field == "ema" else name) in given or is_idle:
            continue
        _, dtype = _form(name, leaf.dtype, exact)
        size = leaf.size * np.dtype(dtype).itemsize + (_TOP_BYTES if dtype == np.int16 else 0)
        sizes[parts.get(field, "parameters")] += size
    return sizes


def check_size(layout: Layout, exact: bool = False) -> None:
    """Raises InputError if the config's slices would be too large to travel."""
    sizes = packed_bytes(layout, exact)
    most = MAX_SLICE - _BESIDE
    if sum(sizes.values()) <= most:
        return
    parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items() if size)
    raise InputError(
        f"a slice's state would be {sum(sizes.values()) / 1e6:.1f} MB ({parts}), at most "
        f"{most / 1e6:.0f} MB travel: {_SMALLER}{', or leave out --exact' if exact else ''}"
    )


def _form(name: str, dtype: Any, exact: bool) -> tuple[str, Any]:
    """Under which name and in which type a leaf travels."""
    field, _, rest = name.partition("/")
    if exact or field not in ("opt_state", "d_opt_state", "ema") or dtype != np.float32:
        return name, dtype
    return (_DIFFERENCE + rest if field == "ema" else name), np.dtype(np.int16)


def _logarithms(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sign and logarithm in 16 bits, and the logarithm of the largest value; to 0.07 % of each."""
    exact = np.float64(values)
    nonzero = exact != 0
    logarithms = np.log2(np.abs(exact), where=nonzero, out=np.full(exact.shape, -np.inf))
    top = np.max(logarithms, initial=-np.inf)
    top = top if np.isfinite(top) else 0.0
    codes = np.round((logarithms - top) * (_LARGEST / _OCTAVES)) + _LARGEST
    codes = np.sign(exact) * np.where(nonzero, np.maximum(codes, 1), 0)
    return codes.astype(np.int16), np.array([top])


def _values(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    if _TOP + name not in tensors:
        return tensors[name]
    codes, top = np.float64(tensors[name]), tensors[_TOP + name][0]
    values = np.exp2(top + (np.abs(codes) - _LARGEST) * (_OCTAVES / _LARGEST))
    return np.float32(np.sign(codes) * values)


def _averaged(name: str) -> str:
    """The parameter that a leaf of the EMA is the average of."""
    return f"params/reta/{name.removeprefix('ema/')}"


def _named(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{path: leaf} in the order of jax.tree.leaves."""
    return {
        prefix + "/".join(_text(key) for key in path): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _text(key: Any) -> str:
    for field in ("name", "key", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    raise TypeError(f"no path has {key!r}")


def _frozen(layout: Layout) -> set[str]:
    params = layout.state.params
    trained = _named(only_trained(layout.config)(params), "params/")
    return set(_named(params, "params/").keys() - trained.keys())


def _names_weights(config: ConfigDict) -> bool:
    audio = config.model.audio_encoder
    return bool(config.init_from) or (audio.kind != "mel" and audio.weights != RANDOM)


def _published(layout: Layout) -> dict[str, np.ndarray]:
    """Leaves of the state's parameters that the config's start takes from named weights."""
    given = flatten(initial_weights(layout.config, layout.state).reta)
    return {f"params/reta/{name}": np.asarray(x, np.float32) for name, x in given.items()}


def _has_not_learned(leaves: dict[str, np.ndarray]) -> bool:
    counts = [x for name, x in leaves.items() if name.startswith("d_opt") and x.dtype == np.int32]
    return not np.any(counts)


def _what_config_gives(found: Slice, layout: Layout) -> dict[str, np.ndarray]:
    """The leaves that did not travel."""
    config, filled = layout.config, {}
    if found.left_out["frozen"]:
        published = _published(layout)
        absent = sorted(_frozen(layout) - found.tensors.keys())
        filled = {name: published[name] for name in absent if name in published}
        if _sha(filled) != found.left_out["frozen"]:
            source = config.init_from or config.model.audio_encoder.weights
            raise InputError(
                f"the frozen weights of {source} are not those that the slice was trained with: "
                "bring the same ones"
            )
    if found.left_out["discriminator"]:
        filled |= _first_discriminator(layout)
    return filled


def _first_discriminator(layout: Layout) -> dict[str, np.ndarray]:
    """As `create_state` makes it of the config's seed and start."""
    config, networks, morphable, abstract = layout
    given = initial_weights(config, abstract).discriminator

    def start(key: jax.Array, given: Any) -> dict[str, Any]:
        state = create_state(config, networks, morphable, key, {}, given)
        return {"d_params": state.d_params, "d_opt_state": state.d_opt_state}

    first = jax.jit(start)(first_key(config), given)
    return {name: np.asarray(leaf) for name, leaf in _named(first).items()}


def _sha(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


# Slices on disk.


def write_slice(folder: Path, new: Slice) -> None:
    """Puts a slice in the place of the one before, which is valid until this one is whole.

    Raises:
      InputError: it is too large to travel, or cannot be written there.
    """
    files = _split(new.tensors) | {METRICS_FILE: new.metrics}
    if new.preview:
        files[PREVIEW_FILE] = new.preview
    _check_files(files)
    place = folder / f"slice-{new.number:03d}"
    manifest = {
        "format": FORMAT,
        "slice": place.name,
        "number": new.number,
        "step": new.step,
        "data": new.data,
        "preview_step": new.preview_step,
        "left_out": new.left_out,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
        "provenance": new.provenance,
        "config": new.config,
    }
    building = folder / f".{place.name}.building"
    try:
        building.parent.mkdir(parents=True, exist_ok=True)
        for left in (*folder.glob(".slice-*.building"), place):  # of a pack that was killed
            shutil.rmtree(left, ignore_errors=True)
        building.mkdir()
        for name, content in files.items():
            (building / name).write_bytes(content)
        os.replace(building, place)
    except OSError as error:
        raise InputError(f"cannot write {place}: {error.strerror or error}") from error
    write_json(folder / MANIFEST_FILE, manifest)
    for old in folder.glob("slice-*"):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)


def read_slice(folder: Path) -> Slice | None:
    """The slice in a folder; None if there is none yet.

    Raises:
      InputError: a file is missing or damaged, or of a later format.
    """
    if not (folder / MANIFEST_FILE).is_file():
        if any(folder.glob("slice-*")):
            raise InputError(
                f"{folder} has a slice but no {MANIFEST_FILE}: bring it too, or move the folder "
                "away to start from the first step"
            )
        return None
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        version, names = manifest["format"], manifest["files"]
        place = folder / manifest["slice"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST_FILE} is damaged: bring the slice again") from error
    if version != FORMAT:
        raise InputError(f"{folder} has slice format {version!r}; this version reads {FORMAT}")
    for name, facts in names.items():
        _check_file(place / name, facts)
    manifest["config"] = upgraded(manifest["config"])
    fields = (f for f in Slice._fields if f not in ("tensors", "metrics", "preview"))
    return Slice(
        **{field: manifest[field] for field in fields},
        tensors=_join([place / name for name in names if name.endswith(".safetensors")]),
        metrics=(place / METRICS_FILE).read_bytes(),
        preview=(place / PREVIEW_FILE).read_bytes() if PREVIEW_FILE in names else b"",
    )


def check_same_config(found: Slice, config: ConfigDict, changes: Sequence[str] = ()) -> None:
    """Raises InputError if the slice was trained with another config.

    Args:
      changes: fields that are meant to be others from now on.
    """
    unknown = sorted(set(changes) - flat_fields(config_to_dict(config)).keys())
    if unknown:
        raise InputError(f"--change names {unknown[0]}, which no field of the config is")
    differing = differences(found.config, config)
    allowed = FREE_FIELDS | set(changes)
    if refused := {field: differing[field] for field in differing if field not in allowed}:
        raise InputError(
            f"the slice of step {found.step} is of another config: {told(refused)} (give the "
            "same config, say --change FIELD if it is meant so, or name another --slice)"
        )


def export_slice(folder: Path, out: Path) -> None:
    """Writes the EMA of a slice as a model's folder, in float16.

    Raises:
      InputError: there is no slice, or it is damaged, or `out` holds something else.
    """
    found = read_slice(folder)
    if found is None:
        raise InputError(f"no slice in {folder}: train first, or name another --slice")
    ema = jax.device_get(unpack_state(found, layout_of(config_from_dict(found.config))).ema)
    save_reta(out, ema, found.config, found.provenance, "float16")


def _split(tensors: dict[str, np.ndarray]) -> dict[str, bytes]:
    """{file: content} of as few pieces as a first fit of the largest first gives."""
    pieces: list[dict[str, np.ndarray]] = []
    room: list[int] = []
    for name, value in sorted(tensors.items(), key=lambda item: (-item[1].nbytes, item[0])):
        needed = value.nbytes + len(name) + 128
        if needed > MAX_FILE - _HEADER:
            raise InputError(
                f"{name} alone is {value.nbytes / 1e6:.1f} MB, at most {MAX_FILE / 1e6:.0f} MB a "
                f"file travel: {_SMALLER}"
            )
        index = next((i for i, free in enumerate(room) if free >= needed), len(pieces))
        if index == len(pieces):
            pieces.append({})
            room.append(MAX_FILE - _HEADER)
        pieces[index][name] = value
        room[index] -= needed
    return {f"state-{i:02d}.safetensors": save(piece) for i, piece in enumerate(pieces)}


def _join(files: Sequence[Path]) -> dict[str, np.ndarray]:
    tensors = {}
    for path in files:
        with safe_open(path, "np") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def _check_files(files: dict[str, bytes]) -> None:
    sizes = {name: len(content) for name, content in files.items()}
    largest = max(sizes, key=sizes.get)
    total, size = sum(sizes.values()), sizes[largest]
    if total > MAX_SLICE or size > MAX_FILE:
        raise InputError(
            f"the slice would be {total / 1e6:.1f} MB and its largest file ({largest}) "
            f"{size / 1e6:.1f} MB, at most {MAX_SLICE / 1e6:.0f} and {MAX_FILE / 1e6:.0f} MB "
            f"travel: {_SMALLER}"
        )


def _check_file(path: Path, facts: dict[str, Any]) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"the slice lacks {path} ({reason}): bring it again") from error
    if len(content) != facts["bytes"]:
        raise InputError(
            f"{path} is damaged: it has {len(content)} of {facts['bytes']} bytes; bring it again"
        )
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise InputError(f"{path} is damaged: it does not fit its SHA-256; bring it again")
