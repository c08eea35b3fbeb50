"""Trains RETA: python -m reta_jax.train --config configs/synthetic.py [--workdir DIR].

The same command with the same workdir goes on where it stopped, with the same next batch. Ctrl-C,
SIGTERM and a terminal that is lost (SIGHUP, but for nohup) save and leave with exit code 75 ("run
me again"); bad input leaves with 2. A loss that is no number leaves with 70: what is saved is good,
but the same command would diverge again.

On several hosts the launcher gives the same command to every process; SLURM, Open MPI up to 4 and
GKE's TPU slices are recognised, Kubernetes' Indexed Jobs (JobSet) with jax[k8s], Cloud TPU VMs with
--distributed=on; elsewhere say --coordinator HOST:PORT --num_processes N --process_id I.
When one of them dies, the others end with 75 too, within --peer_timeout seconds.

--profile_steps 10:15 leaves a trace of these steps in workdir/profile. workdir/heartbeat says when
each process last finished a step. Of a step whose loss is no number, workdir/nan_step_N keeps the
batch, the losses and what the gradients were. launch/README.md says how to read all of it.

--dry-run takes --devices, --mfu, --price and --compile: reta_jax/cost.py.
"""

import functools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from data_pipeline.errors import InputError
from data_pipeline.records import (
    decode_picture,
    list_clips,
    list_splits,
    open_records,
    read_record,
    trained_people,
)
from reta_jax import parallel
from reta_jax.batches import open_batches
from reta_jax.checkpoint import PROVENANCE_FILE, Checkpoints, has_checkpoint, read_provenance
from reta_jax.checks import check_config
from reta_jax.commands import DivergenceError, check_device, run_with_flags, set_up_xla
from reta_jax.cost import dry_run
from reta_jax.experts.load import load_experts
from reta_jax.experts.teachers import Experts
from reta_jax.files import make_folder, write_json
from reta_jax.forensics import dump_step
from reta_jax.initial import initial_weights
from reta_jax.needed import check_at_hand
from reta_jax.observe import Heartbeat, Hosts, Profile, Progress, parse_steps, tell
from reta_jax.pretrained.licences import print_licences
from reta_jax.pretrained.load import load_morphable
from reta_jax.pretrained.reta import save_reta
from reta_jax.preview import Preview, make_preview
from reta_jax.state import (
    Networks,
    TrainState,
    build_networks,
    create_state,
    first_key,
    state_shapes,
    teacher_width,
)
from reta_jax.step import GRADIENT_NORMS, Constants, make_step
from reta_jax.stopping import EXIT_INTERRUPTED, StopRequest
from reta_jax.weights import config_to_dict
from reta_jax.writers import Writer

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, e.g. configs/synthetic.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; default runs/<config.name>.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", ["auto", "on", "off"], "One process of several?"
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the job.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this one.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only say what the run would take (reta_jax.cost).")
flags.DEFINE_alias("dry-run", "dry_run")
_START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout", parallel.START_SECONDS, "Seconds for all processes to appear."
)
_PEER_TIMEOUT = flags.DEFINE_integer(
    "peer_timeout", parallel.PEER_SECONDS, "Silent seconds after which a process is taken for dead."
)
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "First and last step to trace, e.g. 10:15."
)
SYNTHETIC_SIZE = 64  # pixels of the synthetic world's clips, at least
AGREE_EVERY = 10  # steps between which processes do not ask each other whether to stop


def run(config: ConfigDict, workdir: Path, profile_steps: range | None = None) -> bool:
    """Trains until `train.steps` or `train.max_minutes`, or until asked to stop.

    Args:
      profile_steps: of which a trace is left in workdir/profile.

    Returns:
      True when this call's work is done, False when a signal stopped it early. Both leave a
      checkpoint; the first also leaves the EMA weights in workdir/weights.

    Raises:
      InputError: bad config, data or weights, or another run is in the workdir.
      DivergenceError: a loss became NaN or infinite; its name is in the message, and the folder
        where the step's batch is.
    """
    check_config(config, jax.device_count())
    check_at_hand(config, is_start=not has_checkpoint(workdir))
    experts, provenance = load_experts(config)  # before the data, which takes long to make
    parallel.first_then_others(lambda: make_synthetic_data(config))
    check_pictures(config)
    make_folder(workdir)
    with parallel.job_alone_in(workdir):
        parallel.check_shared(workdir)
        return train_in(workdir, config, experts, provenance, profile_steps)


def train_in(
    workdir: Path,
    config: ConfigDict,
    experts: Experts,
    provenance: list[dict[str, Any]],
    profile_steps: range | None,
) -> bool:
    """`run`, when everything is at hand and nobody else is in the workdir."""
    mesh = parallel.make_mesh()
    networks = build_networks(config, teacher_width(config, experts.teacher))
    morphable, records = load_morphable(config.model)
    constants = parallel.replicate(Constants(experts, morphable), mesh)
    batches = open_batches(config)  # before the start, which takes longer to fail
    training = Training(config, workdir, networks, constants, mesh)
    state, checkpoints, data_state, initial = start(training)
    seen = [{"source": dir, "people": trained_people([dir])} for dir in config.data.dirs]
    provenance = keep_provenance(workdir, [*provenance, *records, *initial, *seen])
    if data_state is not None:
        batches.set_state(data_state)
    writer = Writer(workdir)
    try:
        with StopRequest() as stop:
            state, finished = loop(
                training, state, batches, checkpoints, writer, stop, profile_steps
            )
        checkpoints.save(state, batches.get_state())
    finally:
        checkpoints.close()
        writer.close()
    if finished and jax.process_index() == 0:
        params, resolved = jax.device_get(state.ema), config_to_dict(config)
        save_reta(workdir / "weights", params, resolved, provenance)
    return finished


class Training(NamedTuple):
    """What stays as it is from a run's first step to its last."""

    config: ConfigDict
    workdir: Path
    networks: Networks
    constants: Constants
    mesh: Mesh


def make_synthetic_data(config: ConfigDict) -> None:
    """Makes the synthetic world's clips where an experiment wants them and has none yet.

    Smaller models read the clips of the one of 64 px, whose folder theirs is.
    """
    data = config.data
    if data.synthetic_identities and not (Path(data.dirs[0]) / "records").exists():
        from data_pipeline.prepare import prepare_synthetic  # Not above: it takes a second.

        prepare_synthetic(
            data.dirs[0],
            identities=data.synthetic_identities,
            clips_per_identity=data.synthetic_clips_per_identity,
            seconds=data.synthetic_seconds,
            size=max(SYNTHETIC_SIZE, config.model.size),
        )


def check_pictures(config: ConfigDict) -> None:
    """Raises InputError if a data set's pictures are smaller than those that the model makes."""
    wanted = config.model.size
    for dir in config.data.dirs:
        records, clip = open_records(dir, "train"), list_clips(dir, "train")[0]["clip"]
        jpeg = read_record(records, 0, clip)["frames"][0]
        size = len(decode_picture(records, 0, clip, jpeg))
        if size < wanted:
            anew = f"prepare another folder with --size {wanted}"
            if config.data.synthetic_identities:
                anew = "move it away, and the same command makes it anew"
            raise InputError(
                f"{dir} has pictures of {size} px, which model.size={wanted} would magnify: {anew}"
            )


def start(
    training: Training,
) -> tuple[TrainState, Checkpoints, dict[str, Any] | None, list[dict[str, Any]]]:
    """The workdir's latest checkpoint, else the weights that the config names, else from scratch.

    Returns also the data position, None at the first step, and the records of weights just loaded.
    """
    config, workdir, networks, constants, mesh = training
    replicated = parallel.replicated(mesh)
    abstract = state_shapes(config, networks, constants.morphable)
    checkpoints = Checkpoints(workdir, config)
    if checkpoints.latest_step is not None:
        tell(f"going on from step {checkpoints.latest_step} of {workdir}")
        state, data_state = checkpoints.restore(parallel.placed(abstract, replicated))
        return state, checkpoints, data_state, []
    initial = initial_weights(config, abstract)
    if initial.otherwise and jax.process_index() == 0:
        tell(initial.otherwise)
    create = jax.jit(functools.partial(create_state, config, networks), out_shardings=replicated)
    given = parallel.of_the_first((initial.reta, initial.discriminator))
    state = create(constants.morphable, first_key(config), *given)
    return state, checkpoints, None, initial.provenance


def keep_provenance(workdir: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds to the run's record of weights and people behind it, and prints the licences."""
    known = read_provenance(workdir)
    for record in records:  # of which weights of one source have the same
        known += [record] if record not in known else []
    if jax.process_index() == 0:
        write_json(workdir / PROVENANCE_FILE, known)
        print_licences(known)
    return known


class Pending(NamedTuple):
    """A step that nobody has looked at yet."""

    step: int
    metrics: dict[str, Any]  # on the devices
    batch: dict[str, np.ndarray]  # as this process drew it
    is_due: bool  # to be reported
    held_out: dict[str, float]  # the preview's figures; none without one, and on other processes


def loop(
    training: Training,
    state: TrainState,
    batches: Any,
    checkpoints: Checkpoints,
    writer: Writer,
    stop: StopRequest,
    profile_steps: range | None,
) -> tuple[TrainState, bool]:
    """Steps, logs, previews and saves; returns the state and whether the work is finished."""
    config, workdir, networks, constants, mesh = training
    train = config.train
    steps = {
        adversarial: parallel.data_parallel(make_step(config, networks, adversarial), mesh)
        for adversarial in (False, True)
    }
    is_first = jax.process_index() == 0
    preview = open_preview(config, networks, constants) if is_first else None
    progress = Progress(train.steps, train.batch_size, Hosts(workdir / "heartbeat"))
    deadline = time.monotonic() + 60 * train.max_minutes if train.max_minutes else math.inf
    step = int(state.step)
    pending: Pending | None = None
    stopped = False

    def settle(pending: Pending) -> None:
        """Looks at a step: stops the run if it broke, reports it if that is due."""
        values, norms = read(progress, pending.metrics)
        if not all(map(math.isfinite, values.values())):
            diverge(training, pending, values, norms, state, checkpoints.latest_step)
        heartbeat.beat(pending.step)
        if pending.is_due:
            report(progress, writer, pending.step, values | pending.held_out)

    with (
        Heartbeat(workdir / "heartbeat", step) as heartbeat,
        Profile(workdir / "profile", profile_steps) as profile,
    ):
        while step < train.steps and not stopped:
            with progress.waiting_for("data"):
                batch = next(batches)
            adversarial = bool(config.loss.adversarial) and step >= train.adversarial_start
            step += 1
            with profile.begin(step):
                placed = parallel.shard_batch(batch, mesh)
                state, metrics = steps[adversarial](state, constants, placed)
            profile.end(step, metrics)
            if pending is not None:  # one step late, so that the device never waits for the host
                settle(pending)
            shows = step % train.preview_every == 0
            # A preview's step is due on every process, for its figures go into the step's one line.
            is_due = step % train.log_every == 0 or step == 1 or shows
            held_out: dict[str, float] = {}
            if shows:
                with progress.waiting_for("pictures"):
                    if preview:
                        picture, held_out = preview(state.ema)
                        writer.picture(step, "preview", picture)
                    parallel.meet()
            pending = Pending(step, metrics, batch, is_due, held_out)
            if step % train.save_every == 0:
                settle(pending._replace(is_due=True))  # what has diverged must not be saved
                pending = None
                checkpoints.save(state, batches.get_state())
            if jax.process_count() == 1 or step % AGREE_EVERY == 0:
                with progress.waiting_for("processes"):
                    wanted = stop.requested or time.monotonic() > deadline
                    stopped = parallel.any_process(wanted)
        if pending is not None:
            settle(pending._replace(is_due=True))
    return state, step >= train.steps or not parallel.any_process(stop.requested)


def open_preview(
    config: ConfigDict, networks: Networks, constants: Constants
) -> Callable[[Any], Preview] | None:
    """Previews of people who are not trained on; None, and a sentence, where there are none."""
    if any("test" in list_splits(dir) for dir in config.data.dirs):
        return make_preview(config, networks.reta, constants.morphable)
    tell(
        f"no previews: {', '.join(config.data.dirs)} has no test split, for its people are too few "
        "(prepare tells them apart by --identity-from)"
    )
    return None


def read(
    progress: Progress, metrics: dict[str, Any]
) -> tuple[dict[str, float], dict[str, jax.Array]]:
    """A step's metrics, once the devices have them, and its gradients' norms, left there."""
    norms = metrics.get(GRADIENT_NORMS, {})
    with progress.waiting_for("devices"):
        scalars = jax.device_get({k: v for k, v in metrics.items() if k != GRADIENT_NORMS})
    return {name: float(value) for name, value in scalars.items()}, norms


def diverge(
    training: Training,
    pending: Pending,
    values: dict[str, float],
    norms: dict[str, jax.Array],
    state: TrainState,
    saved_step: int | None,
) -> None:
    """Keeps what is left of a broken step, and raises DivergenceError."""
    config, workdir = training.config, training.workdir
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    try:
        folder = dump_step(workdir, pending.step, values, norms, pending.batch, state, config)
        where = f"its batch, losses and gradients are in {folder}"
    except (OSError, InputError) as error:
        where = f"its batch could not be kept: {error}"
    good = "nothing was saved before it"
    if saved_step is not None:
        good = f"the last checkpoint, of step {saved_step}, is good"
    raise DivergenceError(
        f"{', '.join(broken)} is not finite at step {pending.step}; {where}; {good}: lower "
        "train.learning_rate, or start the adversarial loss later"
    )


def report(progress: Progress, writer: Writer, step: int, values: dict[str, float]) -> None:
    """One line and one row of scalars."""
    rates = progress.lap(step)
    writer.scalars(step, values | rates)
    losses = " ".join(f"{name} {value:.4g}" for name, value in sorted(values.items()))
    progress.show(step, losses, rates)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}")
    with parallel.one_of_several(_PEER_TIMEOUT.value):
        parallel.join_cluster(
            _DISTRIBUTED.value, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value,
            _START_TIMEOUT.value, _PEER_TIMEOUT.value,
        )  # fmt: skip
        check_device()
        config = _CONFIG.value
        if config is None:
            raise InputError("no experiment given: say --config configs/synthetic.py")
        if _DRY_RUN.value:
            return dry_run(config)
        workdir = Path(_WORKDIR.value or f"runs/{config.name}")
        finished = run(config, workdir, parse_steps(_PROFILE_STEPS.value))
    if not finished:
        tell(f"stopped and saved; the same command goes on ({workdir})", sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    tell(f"done: weights in {workdir / 'weights'}")


if __name__ == "__main__":
    set_up_xla()
    run_with_flags(main)
