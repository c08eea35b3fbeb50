"""Large maps: what of them is written, read and summed, and over which devices they vary.

Most of a layer's time on a GPU is what its maps move. A compiler that is free to keep a bfloat16
map in float32 does so, a derivative that JAX makes keeps what could be computed from the layer's
output, and each sum reads its map again. What is here says what is kept, and sums at once. All of
it is exact: in float32 nothing but the order of some sums is another than without.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def written(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x, of which a bfloat16 map is what its readers read: no float32 map that it is rounded from.

    Its gradient stays as it is: JAX's own derivative of a barrier is one, too.
    """
    return jax.lax.optimization_barrier(x) if x.dtype == jnp.bfloat16 else x


written.defvjp(lambda x: (written(x), None), lambda _, cotangent: (cotangent,))


@jax.custom_vjp
def shared(x: Float[Array, "*b"]) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """x for two readers, whose gradients are added in float32.

    Added in bfloat16, as JAX would, the sum is written: a compiler does not join that with what
    reads it.
    """
    return x, x


def _shared_backward(_: None, cotangents: tuple[Array, Array]) -> tuple[Array]:
    one, other = (cotangent.astype(jnp.float32) for cotangent in cotangents)
    return ((one + other).astype(cotangents[0].dtype),)


shared.defvjp(lambda x: (shared(x), None), _shared_backward)


def pixel_sums(*maps: Float[Array, "n h w c"]) -> tuple[Float[Array, "n c"], ...]:
    """Sums over height and width. They stay sums of samples, so that one pass makes them all."""
    return jax.lax.optimization_barrier(tuple(x.sum((1, 2)) for x in maps))


@jax.custom_vjp
def blend(
    mask: Float[Array, "n h w 1"], x: Float[Array, "n h w c"], y: Float[Array, "n h w c"]
) -> Float[Array, "n h w c"]:
    """mask * x + (1 - mask) * y in float32, in the type of y."""
    wide = mask * x.astype(jnp.float32) + (1 - mask) * y.astype(jnp.float32)
    return wide.astype(y.dtype)


def _blend_forward(mask: Array, x: Array, y: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return blend(mask, x, y), (mask, written(x), written(y))


def _blend_backward(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    mask, x, y = residuals
    cotangent = cotangent.astype(jnp.float32)
    difference = x.astype(jnp.float32) - y.astype(jnp.float32)
    d_mask = (cotangent * difference).sum(-1, keepdims=True)
    d_y = written(((1 - mask) * cotangent).astype(y.dtype))
    return d_mask, (mask * cotangent).astype(x.dtype), d_y


blend.defvjp(_blend_forward, _blend_backward)


def vary_with(array: Array, x: Array) -> Array:
    """Inside shard_map: marks what is alike on all devices as varying like x.

    The transpose of that mark is the sum over devices that the array's gradient needs, and that a
    custom gradient would lack.
    """
    varying = (jax.typeof(a).manual_axis_type.varying for a in (x, array))
    axes = tuple(functools.reduce(frozenset.difference, varying))
    return jax.lax.pcast(array, axes, to="varying") if axes else array
