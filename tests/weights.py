"""Random weights without compiling an initialiser, which takes longer than most tests."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np


def random_variables(network: nn.Module, *inputs: jax.Array, seed: int = 0) -> dict[str, Any]:
    """Variables of `network`: kernels of variance 1 / fan-in, unit scales, all else zero."""
    random = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[-1].key in ("scale", "spread", "var"):
            return jax.numpy.ones(leaf.shape)
        if len(leaf.shape) < 2:
            return jax.numpy.zeros(leaf.shape)
        values = random.standard_normal(leaf.shape, np.float32)
        return jax.numpy.asarray(values / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32))

    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(draw, shapes)
