"""Checkpoints of a training run (Orbax): state, data position and resolved config.

Orbax makes a checkpoint appear whole or not at all, but it reads a flipped bit of an array as
another number. So each holds the checksums of its files, and none is used that they do not fit.
"""

import contextlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from data_pipeline.errors import InputError, system_error
from reta_jax import parallel
from reta_jax.config import upgraded
from reta_jax.differences import FREE_FIELDS, changes_the_model, differences, told
from reta_jax.weights import config_to_dict

State = TypeVar("State")  # a pytree with a field `step`: a run's TrainState, or an expert's
FOLDER = "checkpoints"
PROVENANCE_FILE = "provenance.json"  # beside it: whose weights and people are behind the run
CHECKSUMS_FILE = "checksums.json"  # {file: [bytes, CRC-32]}
CORRUPT_FOLDER = "corrupt_checkpoints"  # what could not be used, for a person to look at
_KEPT_OF_EXPERTS = 2  # of which the second is there should the first be damaged
_BLOCK = 1 << 20
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in what tensorstore raises: no OSError


class Checkpoints:
    """State, data position and resolved config of a run, saved while training goes on.

    Args:
      workdir: of the run.
      config: of the run, or of an expert's training (configs/judges).
      elsewhere: what may be given instead of the same config, should that be another.

    Raises:
      InputError: there are checkpoints, and all of them are damaged.
    """

    def __init__(self, workdir: Path, config: ConfigDict, elsewhere: str = "another --workdir"):
        policies = ocp.training
        self._config, self._elsewhere = config, elsewhere
        self._folder = workdir.absolute() / FOLDER
        parallel.first_then_others(lambda: _set_corrupt_aside(self._folder))
        # Orbax calls this "post finalization", but it comes last before the checkpoint's rename to
        # its final name: the checksums are a part of the whole that appears.
        context = ocp.Context()
        context.asynchronous.post_finalization_callback = self._write_checksums
        self._checkpointer = policies.Checkpointer(
            self._folder,
            context=context,
            save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=_kept(config),
            cleanup_tmp_directories=True,  # of a process that was killed while it saved
        )

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: Any, data_state: dict[str, Any]) -> None:
        """Starts an asynchronous save of this step; nothing happens if it is saved already.

        Raises:
          InputError: the disk refuses this save, or the one before, which was still under way.
        """
        step = int(state.step)
        if self.latest_step == step:
            return
        with self._sentence_of_the_disk():
            self._checkpointer.save_checkpointables_async(
                step, {"state": state, "data": data_state, "config": config_to_dict(self._config)}
            )

    def restore(self, abstract: State) -> tuple[State, dict[str, Any]]:
        """The latest checkpoint, placed as `abstract` says (any number of devices).

        Prints what the config sets otherwise than that of the checkpoint.

        Raises:
          InputError: it is of another model, or has other arrays than `abstract`.
        """
        changes = self._changes()
        load = self._checkpointer.load_checkpointables
        try:
            loaded = load(None, {"state": abstract, "data": None})
        except (KeyError, TypeError, ValueError) as error:
            raise self._misfit(changes) from error
        if _arrays(loaded["state"]) != _arrays(abstract):  # what a checkpoint lacks comes as None
            raise self._misfit(changes)
        return loaded["state"], loaded["data"]

    def _misfit(self, changes: dict[str, tuple[Any, Any]]) -> InputError:
        elsewhere = self._elsewhere
        if "train.only" in changes:  # a part has moments only where it was trained
            elsewhere = f"a new --workdir and --config.init_from={self._folder.parent / 'weights'}"
        return InputError(
            f"step {self.latest_step} in {self._folder} does not fit the config "
            f"({told(changes) or 'of another version'}): give the same config, or {elsewhere}"
        )

    def _changes(self) -> dict[str, tuple[Any, Any]]:
        """Fields that are others than in the latest checkpoint; refuses those of the model."""
        saved = self._checkpointer.load_checkpointables(None, {"config": None})["config"]
        found = differences(upgraded(saved), self._config)
        changes = {field: found[field] for field in found if field not in FREE_FIELDS}
        if refused := {field: changes[field] for field in changes if changes_the_model(field)}:
            raise InputError(
                f"{self._folder.parent} holds a run of another model: {told(refused)} (give the "
                f"same config, or {self._elsewhere})"
            )
        if changes and jax.process_index() == 0:
            print(f"going on with other settings: {told(changes)}", flush=True)
        return changes

    def close(self) -> None:
        """Waits for saves under way; raises InputError if the disk refuses them."""
        with self._sentence_of_the_disk():
            self._checkpointer.close()

    @contextlib.contextmanager
    def _sentence_of_the_disk(self) -> Iterator[None]:
        """Around what writes, or waits for Orbax's threads that write."""
        try:
            yield
        except (OSError, ValueError) as error:
            code = _OS_ERROR.search(str(error))
            if not code and not isinstance(error, OSError):
                raise
            cause = OSError(int(code[1]), os.strerror(int(code[1]))) if code else error
            step = max(_steps(self._folder), default=None)
            good = "there is none yet" if step is None else f"the last good one is of step {step}"
            raise system_error(
                f"cannot write a checkpoint to {self._folder}: {cause.strerror or cause} ({good})",
                cause,
            ) from error

    def _write_checksums(self) -> None:
        """On process 0 alone, in Orbax's thread."""
        for folder in self._folder.glob("*.orbax-checkpoint-tmp*"):  # one; older ones are removed
            write_checksums(folder)


def _kept(config: ConfigDict) -> Any:
    """Orbax's policy of which checkpoints stay."""
    policies = ocp.training.preservation_policies
    if "train" not in config:
        return policies.LatestN(_KEPT_OF_EXPERTS)
    train = config.train
    latest, every = policies.LatestN(train.keep_checkpoints), policies.EveryNSteps(train.keep_every)
    return policies.AnyPreservationPolicy([latest, every])


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run has saved a step here."""
    return bool(_steps(workdir / FOLDER))


def latest_ema(workdir: Path) -> tuple[Any, dict[str, Any]]:
    """EMA parameters and config of a run's latest good checkpoint, as NumPy arrays.

    The config has the run's "provenance" and every field of today's models in it, as that of a
    folder of weights has.

    Raises:
      InputError: there is none.
    """
    folder = workdir.absolute() / FOLDER
    step, damages = _latest_good(folder)
    if step is None:
        raise InputError(f"no finished checkpoint in {workdir}: train first, or name another")
    if damages:
        _warn(f"taking step {step} of {workdir}: {_told(damages)}")
    with ocp.training.Checkpointer(folder) as checkpointer:
        ema = load_part(checkpointer, step, "ema")
        config = checkpointer.load_checkpointables(step, {"config": None})["config"]
    return ema, upgraded(config) | {"provenance": read_provenance(workdir)}


def read_provenance(workdir: Path) -> list[dict[str, Any]]:
    """A run's records of the weights and people behind it."""
    file = workdir / PROVENANCE_FILE
    try:
        return json.loads(file.read_text()) if file.is_file() else []
    except ValueError as error:
        raise InputError(
            f"{file} is damaged ({error}): it says whose weights and people are behind the run; "
            "put a copy of it there, or take it away"
        ) from error


def load_part(checkpointer: ocp.training.Checkpointer, step: int, part: str) -> Any:
    """A field of a checkpoint's state as NumPy arrays, whatever devices it was saved from."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    saved = checkpointer.metadata(step).metadata[part]
    abstract = parallel.placed(saved, here)
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        loaded = ocp.load_checkpointables(
            checkpointer.directory / str(step), {"state": {part: abstract}}
        )
    return jax.tree.map(np.asarray, loaded["state"][part])


def write_checksums(checkpoint: Path) -> None:
    """Adds CHECKSUMS_FILE to a folder, of everything in its folders."""
    sums = {
        file.relative_to(checkpoint).as_posix(): _size_and_crc(file)
        for folder in checkpoint.iterdir()
        if folder.is_dir()  # Orbax still changes the files beside them
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    (checkpoint / CHECKSUMS_FILE).write_text(json.dumps(sums, indent=1) + "\n")


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None if it is as it was written."""
    try:
        sums = json.loads((checkpoint / CHECKSUMS_FILE).read_text())
        for name, (size, crc) in sums.items():
            found = (checkpoint / name).stat().st_size
            if found != size:
                return f"{name} has {found} of {size} bytes"
            if _size_and_crc(checkpoint / name)[1] != crc:
                return f"{name} does not fit its checksum"
        return None if sums else f"{CHECKSUMS_FILE} names no file"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(checkpoint)} is missing"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, TypeError, AttributeError):
        return f"{CHECKSUMS_FILE} is damaged"


def _size_and_crc(file: Path) -> tuple[int, int]:
    size = crc = 0
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def _arrays(state: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """What two states that fit each other have in common."""
    return jax.tree.structure(state), [leaf.shape for leaf in jax.tree.leaves(state)]


def _steps(folder: Path) -> list[int]:
    """Of the checkpoints that are finished."""
    return [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]


def _latest_good(folder: Path) -> tuple[int | None, dict[int, str]]:
    """The latest step that is as it was written, and what is wrong with each later one.

    Raises:
      InputError: there are checkpoints, but no such step.
    """
    damages: dict[int, str] = {}
    for step in sorted(_steps(folder), reverse=True):
        damage = find_damage(folder / str(step))
        if damage is None:
            return step, damages
        damages[step] = damage
    if damages:
        raise InputError(
            f"no checkpoint in {folder} can be used ({_told(damages)}): bring one back from a "
            "copy, or move the folder away to start from the first step"
        )
    return None, {}


def _set_corrupt_aside(folder: Path) -> None:
    """Moves what is newer than the latest good checkpoint out of the way, with a warning."""
    good, damages = _latest_good(folder)
    if not damages:
        return
    aside = folder.parent / CORRUPT_FOLDER
    aside.mkdir(exist_ok=True)
    for step in damages:
        names = [str(step), *(f"{step}-{again}" for again in range(2, 1_000))]
        free = next(aside / name for name in names if not (aside / name).exists())
        os.replace(folder / str(step), free)
    _warn(f"going back to step {good}: {_told(damages)}; moved to {aside}")


def _told(damages: dict[int, str]) -> str:
    return ", ".join(
        f"the checkpoint of step {step} is damaged: {damages[step]}" for step in damages
    )


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr, flush=True)
