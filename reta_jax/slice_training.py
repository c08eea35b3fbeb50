"""Trains one slice: the same code as any run, in a process that is given some minutes.

The slice is unpacked to a checkpoint, and a process of its own goes on from there, is asked to
save in time, and is ended if it does not. What it saved is packed (reta_jax.slices).
scripts/train_gpu.py is the command.
"""

import json
import math
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from data_pipeline.records import list_clips
from reta_jax import parallel
from reta_jax.checkpoint import FOLDER as CHECKPOINTS
from reta_jax.checkpoint import Checkpoints
from reta_jax.commands import (
    EXIT_BAD_INPUT,
    sentences_for_errors,
    set_up_xla,
)
from reta_jax.slices import (
    METRICS_FILE,
    Layout,
    Slice,
    check_same_config,
    check_size,
    layout_of,
    pack_state,
    read_slice,
    unpack_state,
    write_slice,
)
from reta_jax.stopping import EXIT_INTERRUPTED, stop_signals
from reta_jax.train import PROVENANCE_FILE, run
from reta_jax.weights import config_from_dict, config_to_dict

EXIT_BROKEN = 1
# Seconds before the end at which the trainer is asked to save, and at which it is ended.
SAVE_SECONDS, PACK_SECONDS = 60.0, 30.0
_ROOT = Path(__file__).parents[1]
_ASK_EVERY = 0.5  # seconds


def train_slice(
    config: ConfigDict,
    folder: Path,
    minutes: float,
    started: float,
    exact: bool = False,
    changes: Sequence[str] = (),
) -> int:
    """Goes on from the slice in `folder` for some minutes and leaves the next one there.

    Args:
      minutes: of wall time from `started` on, everything counted.
      started: a time.monotonic().
      exact: see `pack_state`.
      changes: see `check_same_config`.

    Returns:
      The command's exit code: 0 when the minutes or the steps are over, EXIT_INTERRUPTED when a
      signal ended it, EXIT_BROKEN when training broke off (what it had saved is packed), and
      EXIT_BAD_INPUT when it refused, with its own sentence.

    Raises:
      InputError: the slice is damaged, of another config or too large, there is no data, or the
        minutes were over before anything was saved.
    """
    _check_data(config)
    before = read_slice(folder)
    if before:
        check_same_config(before, config, changes)
    layout = layout_of(config)
    check_size(layout, exact)
    with tempfile.TemporaryDirectory(prefix="slice-", ignore_cleanup_errors=True) as scratch:
        workdir = Path(scratch)
        if before:
            unpack_slice(before, layout, workdir)
        end = started + 60 * minutes
        stop_at = end - min(SAVE_SECONDS, 60 * minutes / 3)
        kill_at = end - min(PACK_SECONDS, 60 * minutes / 6)
        with Trainer(config, workdir, stop_at - time.monotonic()) as trainer:
            code = trainer.wait(stop_at, kill_at)
            if code == EXIT_BAD_INPUT:
                return code
            new = pack_slice(before, layout, workdir, exact)
            if new is not None:
                write_slice(folder, new)
    step = (new or before).step if new or before else 0
    if new is not None:
        print(_describe(folder, new, config.train.steps), flush=True)
    elif code == 0 and step >= config.train.steps:
        print(f"{folder}: done, all {step} steps are trained", flush=True)
    if trainer.is_broken(code):
        print(f"error: training broke off with exit code {code}, see above", file=sys.stderr)
        return EXIT_BROKEN
    if new is None and step < config.train.steps and not trainer.signals:
        raise InputError(
            f"the {minutes:g} minutes were over before a step was saved: give more --minutes"
        )
    return EXIT_INTERRUPTED if trainer.signals else 0


class Trainer:
    """A process that trains in a workdir, as reta_jax.train does.

    Inside, `stop_signals` are passed on to it, the first to save, the second to end it.

    Args:
      seconds: after which it stops by itself, should it be left alone.
    """

    def __init__(self, config: ConfigDict, workdir: Path, seconds: float):
        values = config_to_dict(config)
        own = values["train"]["max_minutes"]
        values["train"]["max_minutes"] = min(own or math.inf, max(seconds / 60, 0.01))
        file = workdir / "config.json"
        file.write_text(json.dumps(values))
        self.command = [sys.executable, "-m", "reta_jax.slice_training", str(file), str(workdir)]
        self.signals = 0  # of a person or a machine that is taken back
        self.was_ended = False

    def __enter__(self) -> "Trainer":
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            self.command,
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,  # A terminal's Ctrl-C comes to it once, from here.
        )
        self._previous = {number: signal.signal(number, self._pass_on) for number in stop_signals()}
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def wait(self, stop_at: float, kill_at: float) -> int:
        """The exit code; asks it to save at one time.monotonic() and ends it at another."""
        is_told = False
        while True:
            try:
                return self._process.wait(_ASK_EVERY)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            if now > kill_at and not self.was_ended:
                print("the time is over: what was saved before is packed", file=sys.stderr)
                self._end()
            elif now > stop_at and not is_told:
                is_told = True
                print("the time is nearly over: saving", flush=True)
            if is_told or self.signals:
                self._process.terminate()  # Again: it does not listen while it starts.

    def is_broken(self, code: int) -> bool:
        """Whether an exit code says that training failed, and was not ended from here."""
        asked_early = code == -signal.SIGTERM  # before it could take notice
        return not (code in (0, EXIT_INTERRUPTED) or self.was_ended or asked_early)

    def _end(self) -> None:
        self.was_ended = True
        self._process.kill()

    def _pass_on(self, number: int, _: Any) -> None:
        if number == signal.SIGHUP:  # A terminal that is lost sends it again.
            signal.signal(number, signal.SIG_IGN)
        self.signals += 1
        if self._process.poll() is not None:
            return  # What it left is being packed, which takes seconds.
        if self.signals > 1:
            self._end()


def _check_data(config: ConfigDict) -> None:
    made = config.data.dirs[0] if config.data.synthetic_identities else None
    for place in config.data.dirs:
        if place == made:
            continue
        if not Path(place).is_dir():
            raise InputError(f"there is no data folder {place}: name a prepared one with --data")
        list_clips(place, "train")


def unpack_slice(found: Slice, layout: Layout, workdir: Path) -> None:
    """Makes the workdir of a run that stopped at this slice."""
    checkpoints = Checkpoints(workdir, layout.config)
    checkpoints.save(unpack_state(found, layout), found.data)
    checkpoints.close()
    (workdir / METRICS_FILE).write_bytes(found.metrics)
    (workdir / PROVENANCE_FILE).write_text(json.dumps(found.provenance))


def pack_slice(before: Slice | None, layout: Layout, workdir: Path, exact: bool) -> Slice | None:
    """The slice of the workdir's last checkpoint; None if it has none but that of `before`."""
    if not any(path.name.isdecimal() for path in (workdir / CHECKPOINTS).glob("*")):
        return None
    checkpoints = Checkpoints(workdir, layout.config)
    try:
        if checkpoints.latest_step in (None, before.step if before else None):
            return None
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        state, data = checkpoints.restore(parallel.placed(layout.state, here))
    finally:
        checkpoints.close()
    step = int(state.step)
    tensors, left_out = pack_state(state, layout, exact)
    preview_step, preview = last_picture(workdir / "tensorboard", "preview", step) or (
        (before.preview_step, before.preview) if before else (0, b"")
    )
    return Slice(
        number=before.number + 1 if before else 1,
        step=step,
        data=data,
        config=config_to_dict(layout.config),
        provenance=json.loads((workdir / PROVENANCE_FILE).read_text()),
        left_out=left_out,
        tensors=tensors,
        metrics=_metrics(workdir / METRICS_FILE, step),
        preview=preview,
        preview_step=preview_step,
    )


def _metrics(path: Path, last_step: int) -> bytes:
    """The rows up to a step, each step once; a trainer that was ended may have logged more."""
    rows: dict[int, bytes] = {}
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n") and (step := json.loads(line)["step"]) <= last_step:
            rows[step] = line
    return b"".join(rows[step] for step in sorted(rows))


def last_picture(board: Path, tag: str, last_step: int) -> tuple[int, bytes] | None:
    """Step and PNG of the last picture of a name in a folder of TensorBoard events."""
    from tensorboardX.proto.event_pb2 import Event

    found = None
    for path in sorted(board.glob("events.*")):
        content, at = path.read_bytes(), 0
        while at + 12 <= len(content):  # Length, its checksum, the event, its checksum.
            (length,) = struct.unpack_from("<Q", content, at)
            record, at = content[at + 12 : at + 12 + length], at + 16 + length
            if at > len(content):
                break  # Cut off.
            event = Event.FromString(record)
            for value in event.summary.value:
                is_later = found is None or event.step >= found[0]
                if value.tag == tag and event.step <= last_step and is_later:
                    found = event.step, value.image.encoded_image_string
    return found


def _describe(folder: Path, new: Slice, steps: int) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    return (
        f"{folder / f'slice-{new.number:03d}'}: step {new.step} of {steps}, {size:.1f} MB in "
        f"{len(files)} files"
    )


def _train(config_file: str, workdir: str) -> int:
    """The trainer's process; returns its exit code."""
    for number in stop_signals():  # Before and after its steps it is not to be stopped:
        signal.signal(number, lambda *_: None)  # at the end it saves.
    flags.FLAGS.mark_as_parsed()  # Libraries read absl flags, which only a command parses.
    with sentences_for_errors():
        config = config_from_dict(json.loads(Path(config_file).read_text()))
        return 0 if run(config, Path(workdir)) else EXIT_INTERRUPTED


if __name__ == "__main__":
    set_up_xla()
    sys.exit(_train(*sys.argv[1:]))
