"""The [1, 3, 3, 1] filter of StyleGAN2 on NHWC images, as shifted adds.

The kernel is outer([1, 3, 3, 1]) / 64. On CPU two passes of four shifted adds take a tenth of the
time of a depthwise convolution. A GPU would write the map between them: it takes all sixteen taps
in one pass, which the compiler joins with what comes before and after.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reta_jax.ops.platforms import by_platform

TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def blur(
    x: Float[Array, "b h w c"], pad: tuple[int, int], gain: float = 1.0, stride: int = 1
) -> Float[Array, "b _ _ c"]:
    """Puts `pad` zeros before and after on both axes, filters, keeps every `stride`-th pixel."""
    return _filter(jnp.pad(x, ((0, 0), pad, pad, (0, 0))), gain, stride)


def _blur_forward(
    x: Array, pad: tuple[int, int], gain: float, stride: int
) -> tuple[Array, tuple[int, int]]:
    return blur(x, pad, gain, stride), x.shape[1:3]


def _blur_backward(
    pad: tuple[int, int], gain: float, stride: int, sides: tuple[int, int], cotangent: Array
) -> tuple[Array]:
    """The filter is its own mirror image: what it has spread, it gathers."""

    def spread(side: int, count: int) -> tuple[int, int, int]:
        before = 3 - pad[0]
        return before, side + 3 - before - (stride * (count - 1) + 1), stride - 1

    places = (*map(spread, sides, cotangent.shape[1:3]),)
    zero = jnp.zeros((), cotangent.dtype)
    return (_filter(jax.lax.pad(cotangent, zero, ((0, 0, 0), *places, (0, 0, 0))), gain, 1),)


blur.defvjp(_blur_forward, _blur_backward)


def _filter(x: Array, gain: float, stride: int) -> Array:
    """The filter wherever all its taps lie in x; every `stride`-th pixel of that."""
    taps = [tap * gain**0.5 for tap in TAPS]

    def shifted(x: Array, tap: int, axis: int) -> Array:
        last = tap + x.shape[axis] - 3
        return jax.lax.slice_in_dim(x, tap, last, stride=stride, axis=axis)

    def in_two_passes(x: Array) -> Array:
        for axis in (1, 2):
            x = sum(taps[i] * shifted(x, i, axis) for i in range(4))
        return x

    def at_once(x: Array) -> Array:
        parts = (
            taps[i] * taps[j] * shifted(shifted(x, i, 1), j, 2).astype(jnp.float32)
            for i, j in itertools.product(range(4), range(4))
        )
        return sum(parts).astype(x.dtype)

    return by_platform(x, default=in_two_passes, cuda=at_once)


@jax.custom_vjp
def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
    """Doubles the size: zeros between the pixels, padding (2, 1), filter of gain 4.

    In the type of x, which is float32 for frames and flows. Beyond the border is zero, so the edge
    is darker.
    """
    return by_platform(x, default=_double_by_axis, cuda=_double_at_once)


def _upsample_backward(_: None, cotangent: Array) -> tuple[Array]:
    return (blur(cotangent, (1, 1), 4.0, 2),)


upsample.defvjp(lambda x: (upsample(x), None), _upsample_backward)


def _double_by_axis(x: Array) -> Array:
    """Of the four taps only two ever meet a pixel that is not zero."""
    for axis in (1, 2):
        n = x.shape[axis]
        pads = [(0, 0)] * x.ndim
        pads[axis] = (1, 1)
        padded = jnp.pad(x, pads)
        before, after = (jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i in (0, 2))
        pair = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)
        shape = list(x.shape)
        shape[axis] = 2 * n
        x = pair.reshape(shape)
    return x


def _double_at_once(x: Array) -> Array:
    b, h, w, c = x.shape
    # Rows: what an even and an odd pixel take of the pixel before theirs, theirs, and the next.
    taps = jnp.array([[0.25, 0.75, 0], [0, 0.75, 0.25]], x.dtype)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = (
        x[:, i : i + h, None, j : j + w, None]
        * taps[:, i][None, None, :, None, None, None]
        * taps[:, j][None, None, None, None, :, None]
        for i, j in itertools.product(range(3), range(3))
    )
    return sum(near).reshape(b, 2 * h, 2 * w, c)
