"""Softmax attention; on a GPU without its scores in memory, where they are many."""

import functools
import math

import jax
import jax.numpy as jnp
from absl import logging
from jaxtyping import Array, Float

from reta_jax.ops.platforms import by_platform

# Bytes of scores in float32 up to which a GPU's cache holds them, so that little is gained.
MANY_SCORES = 2**24


def attend(
    query: Float[Array, "b n heads d"],
    key: Float[Array, "b n heads d"],
    value: Float[Array, "b n heads d"],
) -> Float[Array, "b n heads d"]:
    """softmax(query key^T / sqrt(d)) value, of every position to every position."""
    return by_platform(query, key, value, default=jax.nn.dot_product_attention, cudnn=_by_cudnn)


def _by_cudnn(query: Array, key: Array, value: Array) -> Array:
    b, n, heads, _ = query.shape
    pays = query.dtype == jnp.bfloat16 and 4 * b * heads * n**2 >= MANY_SCORES
    if pays and _is_there(query.shape):
        return _in_tiles(query, key, value)
    return jax.nn.dot_product_attention(query, key, value)


def _in_tiles(query: Array, key: Array, value: Array) -> Array:
    """cuDNN's, which takes no odd length: one more position is there, and not looked at."""
    b, n, *_ = query.shape
    if n % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    query, key, value = (
        jnp.pad(part, ((0, 0), (0, 1), (0, 0), (0, 0))) for part in (query, key, value)
    )
    lengths = jnp.full(b, n, jnp.int32)
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return mixed[:, :n]


@functools.cache
def _is_there(shape: tuple[int, ...]) -> bool:
    """Whether cuDNN has it for bfloat16 of this shape, with its gradient.

    A GPU is asked by compiling it: what is too old, or too new for the library, is not worth a run.
    Of one that is not here (reta_jax/absent.py) the library's presence has to do.
    """
    part = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    total = lambda *parts: _in_tiles(*parts).astype(jnp.float32).sum()
    gradient = jax.jit(jax.grad(total, (0, 1, 2)))
    try:
        traced = gradient.trace(part, part, part)
        if jax.default_backend() == "gpu":
            traced.lower().compile()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        size = 4e-6 * math.prod(shape[:1] + shape[2:3]) * shape[1] ** 2
        logging.warning("Attention writes its scores, %.0f MB a layer: %s", size, reason)
        return False
    return True
