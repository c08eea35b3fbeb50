"""One mesh over every device of every process, what is placed on it, and how processes agree."""

import contextlib
import itertools
import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from orbax.checkpoint.multihost import get_barrier_sync_fn

from data_pipeline.errors import InputError, TransientError, system_error
from data_pipeline.lock import alone_in
from reta_jax import last_words
from reta_jax.commands import sentences_for_errors

T = TypeVar("T")
AXIS = "data"
# What launchers leave in the environment of a process that is one of several. Each of these alone
# says so; jax finds coordinator, count and number by those that jax._src.clusters knows.
CLUSTER_VARIABLES = (
    "SLURM_STEP_NODELIST",
    "OMPI_MCA_orte_hnp_uri",  # Open MPI up to 4
    "PMIX_NAMESPACE",  # Open MPI 5, which jax does not know
    "JOB_COMPLETION_INDEX",  # Kubernetes' Indexed Jobs, JobSet's too: jax asks its API (jax[k8s])
    "TPU_WORKER_HOSTNAMES",  # GKE
    "TPU_PROCESS_ADDRESSES",
    "JAX_COORDINATOR_ADDRESS",
)
START_SECONDS = 300  # for all processes to appear
PEER_SECONDS = 60  # without a sign of life, after which a process is taken for dead
FAREWELL_SECONDS = 10  # for the others to fail too, if they do for the same reason
MEETING_SECONDS = 3600  # for the slowest to compile a step, or to make the data
_VERDICT_BYTES = 1 << 15  # what process 0 may have to say
_meetings = itertools.count()


def join_cluster(
    mode: str,
    coordinator: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
    start_seconds: int = START_SECONDS,
    peer_seconds: int = PEER_SECONDS,
) -> None:
    """Makes this process one of a job's; to be called before anything asks for devices.

    Args:
      mode: "on", "off", or "auto": on if the launcher's environment or the arguments say so.
      coordinator: host:port of process 0, with the other two, where there is no known launcher.
      process_count: of the job.
      process_index: of this process.
      start_seconds: for all processes to appear.
      peer_seconds: without a sign of life, after which a process is taken for dead and the others
        end with exit code 75; it cannot be seen earlier unless it is process 0.

    Raises:
      InputError: the arguments are incomplete, or wrong for this job, or jax cannot find them in
        what the launcher left. Where other processes do not appear, JAX aborts; `last_words` makes
        a sentence and exit code 2 of it.
    """
    given = (coordinator, process_count, process_index)
    explicit = [value for value in given if value is not None]
    if 0 < len(explicit) < len(given):
        raise InputError("give --coordinator, --num_processes and --process_id together, or none")
    found = [name for name in CLUSTER_VARIABLES if os.environ.get(name)]
    if mode == "off" or (mode == "auto" and not explicit and not found):
        return
    last_words.listen()
    try:
        jax.distributed.initialize(
            *given,
            initialization_timeout=start_seconds,
            heartbeat_timeout_seconds=peer_seconds,
        )
    except Exception as error:  # Kubernetes' client and the metadata server's have their own
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        told = f" ({', '.join(found)} in the environment)" if found and not explicit else ""
        raise InputError(
            f"the job's processes did not come together: {reason}{told}; say --coordinator "
            "HOST:PORT --num_processes N --process_id I to each of them, or --distributed=off to "
            "one that trains alone"
        ) from error


@contextlib.contextmanager
def one_of_several(peer_seconds: int = PEER_SECONDS) -> Iterator[None]:
    """Around a job's work: a process that fails leaves at once, or the others would wait for it.

    A process that fails because another one died is ended by JAX, and `last_words` says why.
    Outside of a job this does nothing.
    """
    try:
        with sentences_for_errors(is_terminable=False):
            yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        code = error.code if isinstance(error, SystemExit) else 1
        if code == 1:
            if _is_of_a_collective(error):
                time.sleep(1.5 * peer_seconds)  # within which JAX ends this process
            traceback.print_exception(error)
        _leave(code)


def _is_of_a_collective(error: BaseException | None) -> bool:
    if error is None:
        return False
    is_one = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
    return is_one or _is_of_a_collective(error.__context__)


def _leave(code: int) -> None:
    """Ends this process without JAX's long wait for the others at a regular end."""
    with contextlib.suppress(Exception):  # What all do wrong, each of them says.
        get_barrier_sync_fn()(key="farewell", timeout_ms=1000 * FAREWELL_SECONDS)
        if jax.process_index() == 0:  # Whoever still writes would take its end for a death.
            time.sleep(2)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def meet() -> None:
    """Waits for every process.

    A collective does not wait long for a process that comes late (Gloo: 30 s), so processes meet
    over the coordinator wherever one may be minutes behind another: compilation, files, pictures.
    """
    if jax.process_count() > 1:
        key = f"meeting {next(_meetings)}"
        get_barrier_sync_fn()(key=key, timeout_ms=1000 * MEETING_SECONDS)


def any_process(flag: bool) -> bool:
    """Whether any process says so; every process has to ask at the same step."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def of_the_first(tree: Any) -> Any:
    """Process 0's arrays on every process.

    What each computes by itself may differ in its last digits, and as replicas would for good.
    """
    if jax.process_count() == 1:
        return tree
    meet()
    return multihost_utils.broadcast_one_to_all(tree)


def first_then_others(work: Callable[[], T]) -> T:
    """Process 0 does the work while the others wait for it.

    Returns:
      On every process what `work` returned, which has to be JSON.

    Raises:
      InputError: on every process, if `work` raised it.
    """
    if jax.process_count() == 1:
        return work()
    verdict = {}
    if jax.process_index() == 0:
        try:
            verdict = {"returned": work()}
        except InputError as error:
            verdict = {"refused": str(error)[: _VERDICT_BYTES // 8]}
            verdict["may_pass"] = isinstance(error, TransientError)
    meet()
    text = np.frombuffer(json.dumps(verdict).encode().ljust(_VERDICT_BYTES), np.uint8)
    verdict = json.loads(multihost_utils.broadcast_one_to_all(text).tobytes())
    if "refused" in verdict:
        raise (TransientError if verdict["may_pass"] else InputError)(verdict["refused"])
    return verdict["returned"]


@contextlib.contextmanager
def job_alone_in(folder: Path) -> Iterator[None]:
    """Process 0 keeps other jobs out of a folder (`data_pipeline.lock.alone_in`).

    Raises:
      InputError: on every process, if another job is in there, or it cannot be written to.
    """
    with contextlib.ExitStack() as held:

        def hold() -> None:
            try:
                held.enter_context(alone_in(folder))
            except OSError as error:
                sentence = f"cannot write to {folder}: {error.strerror}"
                raise system_error(sentence, error) from error

        first_then_others(hold)
        yield


def check_shared(folder: Path) -> None:
    """Raises InputError on a process that does not see the folder that process 0 sees."""
    mark = folder / ".shared"
    token = first_then_others(lambda: _leave_token(mark))
    if any_process(not mark.exists() or mark.read_text() != token):
        raise InputError(f"{folder} is not one folder for all processes: give a shared one")
    first_then_others(lambda: mark.unlink(missing_ok=True))


def _leave_token(mark: Path) -> str:
    token = uuid.uuid4().hex  # a mark that another start left behind is not taken for this one's
    mark.write_text(token)
    return token


def make_mesh() -> Mesh:
    """A mesh of one axis, "data", over all devices of all processes."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def data_parallel(step: Callable, mesh: Mesh) -> Callable:
    """Maps a per-device `step(state, constants, batch) -> (state, metrics)` over the mesh.

    The state and the constants are replicated, the batch is split along its first axis, and the
    state is donated. The step averages its gradients itself, once (`reta_jax.step.mean_gradient`).
    """
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=(PartitionSpec(), PartitionSpec()),
    )
    mapped = jax.jit(mapped, donate_argnums=0)
    return mapped if jax.process_count() == 1 else _compiled_together(mapped)


def _compiled_together(function: Callable) -> Callable:
    """Compiles at the first call, which no process makes before all have compiled."""
    compiled = None

    def call(*arguments: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            compiled = function.lower(*arguments).compile()
            meet()
        return compiled(*arguments)

    return call


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's rows of the global batch on its devices."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def replicate(tree: Any, mesh: Mesh) -> Any:
    return jax.device_put(tree, replicated(mesh))


def placed(tree: Any, sharding: Sharding) -> Any:
    """Shapes and types of arrays, with the sharding that they are to have."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
