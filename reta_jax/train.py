"""Trains RETA: python -m reta_jax.train --config configs/synthetic.py [--workdir DIR].

The same command with the same workdir goes on where it stopped, with the same next batch. Ctrl-C
and SIGTERM save and leave with exit code 75 ("run me again"); bad input leaves with 2.

On several hosts the launcher gives the same command to every process; SLURM, Open MPI, JobSet and
TPU pods are recognised, elsewhere say --coordinator HOST:PORT --num_processes N --process_id I.
"""

import functools
import json
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from data_pipeline.errors import InputError
from data_pipeline.prepare import prepare_synthetic
from reta_jax import parallel
from reta_jax.batches import open_batches
from reta_jax.checkpoint import Checkpoints
from reta_jax.commands import enable_compilation_cache, run_with_flags
from reta_jax.experts.load import load_experts
from reta_jax.initial import initial_weights
from reta_jax.pretrained.licences import print_licences
from reta_jax.pretrained.load import load_morphable
from reta_jax.pretrained.reta import save_reta
from reta_jax.preview import make_preview
from reta_jax.state import Networks, TrainState, build_networks, create_state
from reta_jax.step import Constants, make_step
from reta_jax.weights import config_to_dict
from reta_jax.writers import Writer

PROVENANCE_FILE = "provenance.json"
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: saved, to be run again

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, e.g. configs/synthetic.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; default runs/<config.name>.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", ["auto", "on", "off"], "One process of several?"
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the job.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this one.")
AGREE_EVERY = 10  # steps between which processes do not ask each other whether to stop


class DivergenceError(RuntimeError):
    """A loss is no longer a number."""


def run(config: ConfigDict, workdir: Path) -> bool:
    """Trains until `train.steps` or `train.max_minutes`, or until asked to stop.

    Returns:
      True when this call's work is done, False when a signal stopped it early. Both leave a
      checkpoint; the first also leaves the EMA weights in workdir/weights.

    Raises:
      InputError: bad config, data or weights.
      DivergenceError: a loss became NaN or infinite; its name is in the message.
    """
    check_config(config)
    parallel.first_then_others(lambda: make_synthetic_data(config))
    workdir.mkdir(parents=True, exist_ok=True)
    parallel.check_shared(workdir)
    mesh = parallel.make_mesh()
    experts, provenance = load_experts(config)
    teacher_width = experts.teacher.width if experts.teacher else config.model.style_dim
    networks = build_networks(config, teacher_width)
    morphable, records = load_morphable(config.model)
    constants = parallel.replicate(Constants(experts, morphable), mesh)
    batches = open_batches(config)  # before the start, which takes longer to fail
    state, checkpoints, data_state, initial = start(config, workdir, networks, constants, mesh)
    provenance = keep_provenance(workdir, [*provenance, *records, *initial])
    if data_state is not None:
        batches.set_state(data_state)
    writer = Writer(workdir)
    try:
        with StopRequest() as stop:
            state, finished = loop(
                config, networks, constants, mesh, state, batches, checkpoints, writer, stop
            )
        checkpoints.save(state, batches.get_state())
    finally:
        checkpoints.close()
        writer.close()
    if finished and jax.process_index() == 0:
        params, resolved = jax.device_get(state.ema), config_to_dict(config)
        save_reta(workdir / "weights", params, resolved, provenance)
    return finished


def check_config(config: ConfigDict) -> None:
    """Refuses settings that cannot work, with the numbers."""
    devices, expected = jax.device_count(), config.train.expected_devices
    batch = config.train.batch_size
    if expected and devices != expected:
        raise InputError(f"train.expected_devices={expected}, but the job has {devices} devices")
    if batch % devices:
        raise InputError(f"train.batch_size={batch} does not divide over {devices} devices")
    if config.train.eds and config.model.emotion and batch // devices < 2:
        raise InputError(
            f"train.eds swaps emotions within a device and needs 2 clips on each; "
            f"train.batch_size={batch} gives {batch // devices} (set train.eds=False or raise it)"
        )
    if config.loss.sync and config.train.frames < 5:
        raise InputError(f"loss.sync needs train.frames >= 5, not {config.train.frames}")
    if config.train.frames > config.model.window.chunk:
        raise InputError(
            f"train.frames={config.train.frames} exceeds model.window.chunk="
            f"{config.model.window.chunk}"
        )
    if len(config.data.dirs) != len(config.data.weights):
        raise InputError(
            f"data.dirs names {len(config.data.dirs)} folders, data.weights has "
            f"{len(config.data.weights)} numbers: give one each"
        )
    if config.train.decay and config.train.steps <= config.train.warmup_steps:
        raise InputError(
            f"train.steps={config.train.steps} ends within train.warmup_steps="
            f"{config.train.warmup_steps}: nothing is left to decay (set train.decay=False)"
        )


def make_synthetic_data(config: ConfigDict) -> None:
    """Makes the synthetic world's clips where an experiment wants them and has none yet."""
    data = config.data
    if data.synthetic_identities and not (Path(data.dirs[0]) / "records").exists():
        prepare_synthetic(
            data.dirs[0],
            identities=data.synthetic_identities,
            clips_per_identity=data.synthetic_clips_per_identity,
            seconds=data.synthetic_seconds,
            size=config.model.size,
        )


def start(
    config: ConfigDict, workdir: Path, networks: Networks, constants: Constants, mesh: Any
) -> tuple[TrainState, Checkpoints, dict[str, Any] | None, list[dict[str, Any]]]:
    """The workdir's latest checkpoint, else the weights that the config names, else from scratch.

    Returns also the data position, None at the first step, and the records of weights just loaded.
    """
    create = functools.partial(create_state, config, networks)
    key = jax.random.key(config.train.seed, impl="rbg")  # threefry takes a minute to compile
    replicated = parallel.replicated(mesh)
    abstract = jax.eval_shape(create, constants.morphable, key)
    checkpoints = Checkpoints(workdir, config)
    if checkpoints.latest_step is not None:
        print(f"going on from step {checkpoints.latest_step} of {workdir}", flush=True)
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), abstract
        )
        state, data_state = checkpoints.restore(placed)
        return state, checkpoints, data_state, []
    initial = initial_weights(config, abstract)
    given = (initial.reta, initial.discriminator)
    state = jax.jit(create, out_shardings=replicated)(constants.morphable, key, *given)
    return state, checkpoints, None, initial.provenance


def keep_provenance(workdir: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds to the run's record of the published weights behind it, and prints their licences."""
    file = workdir / PROVENANCE_FILE
    known = json.loads(file.read_text()) if file.is_file() else []
    known += [record for record in records if record not in known]
    if jax.process_index() == 0:
        file.write_text(json.dumps(known, indent=1) + "\n")
        print_licences(known)
    return known


def loop(
    config: ConfigDict,
    networks: Networks,
    constants: Constants,
    mesh: Any,
    state: TrainState,
    batches: Any,
    checkpoints: Checkpoints,
    writer: Writer,
    stop: "StopRequest",
) -> tuple[TrainState, bool]:
    """Steps, logs, previews and saves; returns the state and whether the work is finished."""
    train = config.train
    steps = {
        adversarial: parallel.data_parallel(make_step(config, networks, adversarial), mesh)
        for adversarial in (False, True)
    }
    is_first = jax.process_index() == 0
    preview = make_preview(config, networks.reta, constants.morphable) if is_first else None
    progress = Progress(train.steps, train.batch_size)
    deadline = time.monotonic() + 60 * train.max_minutes if train.max_minutes else math.inf
    step = int(state.step)
    due = last = None  # step and metrics: to be reported, and of the latest step
    stopped = False
    while step < train.steps and not stopped:
        with progress.waiting_for_data():
            batch = next(batches)
        adversarial = bool(config.loss.adversarial) and step >= train.adversarial_start
        state, metrics = steps[adversarial](state, constants, parallel.shard_batch(batch, mesh))
        step += 1
        if due is not None:  # read one step late, so that the device never waits for the host
            report(progress, writer, *due)
        last = (step, metrics)
        due = last if step % train.log_every == 0 or step == 1 else None
        if step % train.preview_every == 0:
            if preview:
                writer.picture(step, "preview", preview(state.ema))
            parallel.meet()
        if step % train.save_every == 0:
            report(progress, writer, *last)  # first: what has diverged must not be saved
            due = last = None
            checkpoints.save(state, batches.get_state())
        if jax.process_count() == 1 or step % AGREE_EVERY == 0:
            stopped = parallel.any_process(stop.requested or time.monotonic() > deadline)
    if last is not None:
        report(progress, writer, *last)
    return state, step >= train.steps or not parallel.any_process(stop.requested)


def report(progress: "Progress", writer: Writer, step: int, metrics: dict[str, jax.Array]) -> None:
    """One line and one row of scalars; stops the run when a loss is not finite."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise DivergenceError(
            f"{', '.join(broken)} is not finite at step {step}; the last checkpoint is good: "
            f"lower train.learning_rate, or start the adversarial loss later"
        )
    rates = progress.lap(step)
    writer.scalars(step, values | rates)
    losses = " ".join(f"{name} {value:.4g}" for name, value in sorted(values.items()))
    progress.show(step, losses, rates)


class Progress:
    """Measures the rate and the share of time spent waiting for data."""

    def __init__(self, steps: int, batch_size: int):
        self._steps, self._batch_size = steps, batch_size
        self._last_step: int | None = None
        self._last_time = time.monotonic()
        self._waited = 0.0

    def waiting_for_data(self):
        return _Stopwatch(self)

    def add_wait(self, seconds: float) -> None:
        self._waited += seconds

    def lap(self, step: int) -> dict[str, float]:
        """Rates since the last lap; the first lap holds the compilation and has none."""
        now = time.monotonic()
        elapsed = now - self._last_time
        rates: dict[str, float] = {}
        if self._last_step is not None and step > self._last_step:
            per_second = (step - self._last_step) / elapsed
            rates = {
                "clips_per_second": per_second * self._batch_size,
                "data_wait_share": min(self._waited / elapsed, 1.0),
                "eta_minutes": (self._steps - step) / per_second / 60,
            }
        self._last_step, self._last_time, self._waited = step, now, 0.0
        return rates

    def show(self, step: int, losses: str, rates: dict[str, float]) -> None:
        if jax.process_index() != 0:
            return
        line = f"step {step}/{self._steps} | {losses}"
        if rates:
            line += (
                f" | {rates['clips_per_second']:.1f} clips/s, data wait "
                f"{100 * rates['data_wait_share']:.0f} %, ETA {rates['eta_minutes']:.1f} min"
            )
        print(line, flush=True)


class _Stopwatch:
    def __init__(self, progress: Progress):
        self._progress = progress

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: Any) -> None:
        self._progress.add_wait(time.monotonic() - self._start)


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a flag; a second one acts at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._previous = {s: signal.signal(s, self._handle) for s in self.SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: Any) -> None:
        self.requested = True
        print(f"{signal.Signals(number).name}: saving after this step", file=sys.stderr, flush=True)
        for other, handler in self._previous.items():
            signal.signal(other, handler)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}")
    parallel.join_cluster(
        _DISTRIBUTED.value, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    config = _CONFIG.value
    if config is None:
        raise InputError("no experiment given: say --config configs/synthetic.py")
    workdir = Path(_WORKDIR.value or f"runs/{config.name}")
    if not run(config, workdir):
        print(f"stopped and saved; the same command goes on ({workdir})", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    print(f"done: weights in {workdir / 'weights'}")


if __name__ == "__main__":
    enable_compilation_cache()
    run_with_flags(main)
