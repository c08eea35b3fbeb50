"""One mesh over every device of every process, and what is placed on it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


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
    return jax.jit(mapped, donate_argnums=0)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's rows of the global batch on its devices."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def replicate(tree: Any, mesh: Mesh) -> Any:
    return jax.device_put(tree, replicated(mesh))
