"""Convolutions of NHWC images with HWIO kernels, all as cross-correlations.

Padding is explicit and outside the convolution: XLA's CPU convolution is faster without its own,
and XLA's GPU compiler folds it back in.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reta_jax.ops.blur import blur

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k l i o"],
    stride: int = 1,
    pad: tuple[int, int] = (0, 0),
) -> Float[Array, "b _ _ o"]:
    """Cross-correlation with `pad` zeros before and after, on both axes."""
    if pad != (0, 0):
        x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=DIMENSIONS
    )


def up_conv(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b _ _ o"]:
    """Doubles the size: zeros between the pixels, 3x3 convolution to 2h + 1, blur to 2h.

    This is StyleGAN2's transposed convolution with the kernel turned by 180 degrees. Its gradients
    are ordinary convolutions: the form for training.
    """
    x = jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=DIMENSIONS,
    )
    return blur(x, pad=(1, 1), gain=4.0)


def up_conv_polyphase(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]
) -> Float[Array, "b _ _ o"]:
    """Equal to `up_conv`, without multiplying by the zeros: the form for inference.

    Even output rows see kernel rows 0 and 2, odd ones row 1; likewise the columns. The blur, too,
    works on the four phases, which are interleaved once at the end.
    """

    def phase(row: int, column: int) -> Array:
        pads = ((0, 0), (1 - row, 1 - row), (1 - column, 1 - column), (0, 0))
        return conv(jnp.pad(x, pads), kernel[row::2, column::2])

    left, right = (_blur_phases(phase(0, column), phase(1, column), 1) for column in (0, 1))
    top, bottom = (_blur_phases(a, b, 2) for a, b in zip(left, right, strict=True))
    rows = [jnp.stack(pair, axis=3) for pair in (top, bottom)]
    b, h, w, _ = x.shape
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, kernel.shape[-1])


def _blur_phases(even: Array, odd: Array, axis: int) -> tuple[Array, Array]:
    """[1, 3, 3, 1] / 4 over n + 1 even and n odd samples of one axis: n even and n odd results."""
    n = odd.shape[axis]
    pads = [(0, 0)] * odd.ndim
    pads[axis] = (1, 1)
    odd = jnp.pad(odd, pads)
    before, here, after = (jax.lax.slice_in_dim(odd, i, i + n, axis=axis) for i in range(3))
    low, high = (jax.lax.slice_in_dim(even, i, i + n, axis=axis) for i in range(2))
    return 0.25 * (before + high) + 0.75 * (low + here), 0.25 * (low + after) + 0.75 * (here + high)
