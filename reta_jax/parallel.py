"""One mesh over every device of every process, what is placed on it, and how processes agree."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint.multihost import get_barrier_sync_fn

from data_pipeline.errors import InputError

AXIS = "data"
# What launchers leave in the environment of a process that is one of several; jax then finds the
# coordinator, the count and the number itself. Each of these alone says that there are several.
CLUSTER_VARIABLES = (
    "SLURM_STEP_NODELIST",
    "OMPI_MCA_orte_hnp_uri",
    "PMIX_NAMESPACE",
    "JOBSET_NAME",
    "TPU_WORKER_HOSTNAMES",
    "JAX_COORDINATOR_ADDRESS",
)
START_SECONDS = 300  # for all processes to appear
MEETING_SECONDS = 3600  # for the slowest to compile a step, or to make the data
_meetings = itertools.count()


def join_cluster(
    mode: str,
    coordinator: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
) -> None:
    """Makes this process one of a job's; to be called before anything asks for devices.

    Args:
      mode: "on", "off", or "auto": on if the launcher's environment or the arguments say so.
      coordinator: host:port of process 0, with the other two, where there is no known launcher.
      process_count: of the job.
      process_index: of this process.

    Raises:
      InputError: the arguments are incomplete, or the other processes did not appear.
    """
    given = (coordinator, process_count, process_index)
    explicit = [value for value in given if value is not None]
    if 0 < len(explicit) < len(given):
        raise InputError("give --coordinator, --num_processes and --process_id together, or none")
    found = any(os.environ.get(name) for name in CLUSTER_VARIABLES)
    if mode == "off" or (mode == "auto" and not explicit and not found):
        return
    try:
        jax.distributed.initialize(*given, initialization_timeout=START_SECONDS)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the job's processes did not come together: {reason}") from error


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


def first_then_others(work: Callable[[], None]) -> None:
    """Process 0 does the work while the others wait for it."""
    if jax.process_index() == 0:
        work()
    meet()


def check_shared(folder: Path) -> None:
    """Raises InputError on a process that does not see the folder that process 0 sees."""
    mark = folder / ".shared"
    first_then_others(mark.touch)
    if any_process(not mark.exists()):
        raise InputError(f"{folder} is not one folder for all processes: give a shared one")
    first_then_others(lambda: mark.unlink(missing_ok=True))


def make_mesh() -> Mesh:
    """A mesh of one axis, "data", over all devices of all processes."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def data_parallel(step: Callable, mesh: Mesh) -> Callable:
    """Maps a per-device `step(state, constants, batch) -> (state, metrics)` over the mesh.

    The state and the constants are replicated, the batch is split along its first axis, and the
    state is donated. Means over devices are taken inside the step's loss (`jax.lax.pmean`): the
    gradient of a mean with respect to a replicated input is then already the global gradient.
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
