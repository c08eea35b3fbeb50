"""Convolutions of NHWC images with HWIO kernels, all as cross-correlations.

Padding is explicit and outside the convolution: XLA's CPU convolution is faster without its own,
and XLA's GPU compiler folds it back in.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reta_jax.ops.blur import blur
from reta_jax.ops.maps import vary_with
from reta_jax.ops.platforms import by_platform

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
TAPS_FROM = 128  # input channels from which a CPU convolves bfloat16 by matrix products
COLOURS = 3  # input channels that a GPU weighs and adds up pixel by pixel
# Rows and outputs of a kernel from which a CPU convolves with a stride by matrix products.
ROWS_FROM, ROWS_FROM_OUTPUTS = 5, 64


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k l i o"],
    stride: int = 1,
    pad: tuple[int, int] = (0, 0),
) -> Float[Array, "b _ _ o"]:
    """Cross-correlation with `pad` zeros before and after, on both axes."""
    if pad != (0, 0):
        x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    return _conv(x, vary_with(kernel, x), stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Array, kernel: Array, stride: int) -> Array:
    forms = {"cpu": _cpu_form(kernel, stride), "cuda": _cuda_form(kernel, stride)}
    forms = {platform: _form(form, stride) for platform, form in forms.items()}
    return by_platform(x, kernel, default=_form(_whole, stride), **forms)


def _form(function: Callable, stride: int) -> Callable:
    return functools.partial(function, stride=stride)


def _whole(x: Array, kernel: Array, stride: int) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID", dimension_numbers=DIMENSIONS
    )


def _by_taps(x: Array, kernel: Array, stride: int) -> Array:
    """A matrix product a tap of the kernel, summed in float32."""
    rows, columns, _, _ = kernel.shape
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    taps = (
        jnp.einsum(
            "nhwi,io->nhwo",
            x[:, k : k + height, j : j + width],
            kernel[k, j],
            preferred_element_type=jnp.float32,
        )
        for k in range(rows)
        for j in range(columns)
    )
    return sum(taps).astype(x.dtype)


def _by_rows(x: Array, kernel: Array, stride: int) -> Array:
    """A matrix product a row of the kernel, of what its columns see beside each other."""
    rows, columns, inputs, outputs = kernel.shape
    height, width = (x.shape[1] - rows) // stride + 1, (x.shape[2] - columns) // stride + 1
    every = lambda first, count: slice(first, first + stride * (count - 1) + 1, stride)
    seen = jnp.concatenate([x[:, :, every(j, width)] for j in range(columns)], axis=-1)
    kernel = kernel.reshape(rows, columns * inputs, outputs)
    products = (
        jnp.matmul(seen[:, every(k, height)], kernel[k], preferred_element_type=jnp.float32)
        for k in range(rows)
    )
    return sum(products).astype(x.dtype)


def _whole_in_float32(x: Array, kernel: Array, stride: int) -> Array:
    return _whole(x.astype(jnp.float32), kernel.astype(jnp.float32), stride).astype(x.dtype)


def _cpu_form(kernel: Array, stride: int) -> Callable:
    """The form that is fastest on a CPU (docs/decisions.md).

    A 1x1 kernel is one matrix product. A larger one in bfloat16 with enough channels is a product a
    tap: XLA's products use a CPU's units for bfloat16, its convolutions do not. A large one with a
    stride and many outputs is a product a row. For all others a convolution is faster.
    """
    is_pointwise = kernel.shape[:2] == (1, 1)
    is_wide_bfloat16 = kernel.dtype == jnp.bfloat16 and kernel.shape[2] >= TAPS_FROM
    if stride > 1 and len(kernel) >= ROWS_FROM and kernel.shape[3] >= ROWS_FROM_OUTPUTS:
        return _by_rows
    return _by_taps if stride == 1 and (is_pointwise or is_wide_bfloat16) else _whole_in_float32


def _cuda_form(kernel: Array, stride: int) -> Callable:
    """Colours become maps where bias and activation are added; a library would write them first."""
    is_of_colours = kernel.shape[:2] == (1, 1) and kernel.shape[2] == COLOURS and stride == 1
    return _by_colours if is_of_colours else _whole


def _by_colours(x: Array, kernel: Array, stride: int) -> Array:
    """An outer product a colour, summed in float32."""
    colours = jnp.split(x.astype(jnp.float32), COLOURS, axis=-1)
    rows = jnp.split(kernel.astype(jnp.float32), COLOURS, axis=2)
    return sum(c * row[:, :, 0][None] for c, row in zip(colours, rows, strict=True)).astype(x.dtype)


def mix_channels(
    x: Float[Array, "n h w i"], kernel: Float[Array, "... i o"]
) -> Float[Array, "n h w o"]:
    """Each pixel times a float32 matrix, (i, o) or (n, i, o), exact whatever the type of x.

    A map in bfloat16 is not written out in float32, which would be most of what a level moves. It
    is multiplied by two bfloat16 halves of each weight, whose sum is exact to 2^-17 of it.
    """
    return _mix_channels(x, vary_with(kernel, x))


@jax.custom_vjp
def _mix_channels(x: Array, kernel: Array) -> Array:
    return _float32_product(f"nhwi,{_of_samples(kernel)}io->nhwo", x, kernel)


def _of_samples(kernel: Array) -> str:
    return "n" if kernel.ndim == 3 else ""


def _mix_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _mix_channels(x, kernel), (x, kernel)


def _mix_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    cotangent = jax.lax.optimization_barrier(cotangent)  # computed once, not in each channel
    kernels = kernel[:, None, None] if kernel.ndim == 3 else kernel[None, None, None]
    # A sum of a few outer products is computed where it is read.
    outputs = range(kernel.shape[-1])
    d_x = sum(cotangent[..., o : o + 1] * kernels[..., o] for o in outputs)
    d_kernel = _float32_product(f"nhwi,nhwo->{_of_samples(kernel)}io", x, cotangent)
    return d_x.astype(x.dtype), d_kernel


_mix_channels.defvjp(_mix_forward, _mix_backward)


def _float32_product(equation: str, x: Array, weights: Array) -> Array:
    """The einsum of x, in any type, with float32 weights, whose last axis is the result's last."""
    product = functools.partial(jnp.einsum, equation, preferred_element_type=jnp.float32)

    def whole(x: Array, weights: Array) -> Array:
        return product(x.astype(jnp.float32), weights, precision=jax.lax.Precision.HIGHEST)

    def by_halves(x: Array, weights: Array) -> Array:
        high = jax.lax.reduce_precision(weights, 8, 7)  # a cast there and back XLA would leave out
        halves = jnp.concatenate([high, weights - high], -1).astype(x.dtype)
        both = product(x, halves)
        return both[..., : weights.shape[-1]] + both[..., weights.shape[-1] :]

    if x.dtype != jnp.bfloat16:
        return whole(x, weights)
    return by_platform(x, weights, default=by_halves, cpu=whole, simple=whole)


def _conv_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, stride), (x, kernel)


def _conv_backward(
    stride: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    x, kernel = residuals

    def on_cpu(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        """XLA's form of the kernel's gradient is slow: three times as slow as ours."""
        form = _form(_cpu_form(kernel, stride), stride)
        (d_x,) = jax.vjp(lambda x: form(x, kernel), x)[1](cotangent)
        d_kernel = _kernel_gradient(x, cotangent, kernel.shape, stride)
        return d_x, d_kernel.astype(kernel.dtype)

    def elsewhere(x: Array, kernel: Array, cotangent: Array) -> tuple[Array, Array]:
        return jax.vjp(_form(_whole, stride), x, kernel)[1](cotangent)

    return by_platform(x, kernel, cotangent, default=elsewhere, cpu=on_cpu)


_conv.defvjp(_conv_forward, _conv_backward)


def _kernel_gradient(
    x: Array, cotangent: Array, shape: tuple[int, ...], stride: int
) -> Float[Array, "k l i o"]:
    """Sums x[row + k, column + l] * cotangent[row, column]: one matrix product an image.

    Rows are shifted in the image and columns in the cotangent, so that the product's sides, small
    enough for the cache, have three copies of a pixel each, where an image alone would need nine.
    With a stride the image bears all shifts.
    """
    rows, columns, inputs, outputs = shape
    height, width = (stride * (n - 1) + 1 for n in cotangent.shape[1:3])
    image_shifts, cotangent_shifts = (1, columns) if stride == 1 else (columns, 1)
    if stride == 1:
        width = x.shape[2]
    room = cotangent_shifts - 1

    def add_image(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
        x, cotangent = image
        patches = jnp.concatenate(
            [
                x[k : k + height : stride, j : j + width : stride]
                for k in range(rows)
                for j in range(image_shifts)
            ],
            axis=-1,
        )
        cotangent = jnp.pad(cotangent, ((0, 0), (room, room), (0, 0)))
        starts = (room - j for j in range(cotangent_shifts))
        shifted = jnp.concatenate([cotangent[:, s : s + patches.shape[1]] for s in starts], axis=-1)
        product = patches.reshape(-1, patches.shape[-1]).T @ shifted.reshape(-1, shifted.shape[-1])
        return total + product.astype(jnp.float32), None

    zeros = jnp.zeros((rows * image_shifts * inputs, cotangent_shifts * outputs), jnp.float32)
    total, _ = jax.lax.scan(add_image, vary_with(zeros, x), (x, cotangent))
    total = total.reshape(rows, image_shifts, inputs, cotangent_shifts, outputs)
    return total.transpose(0, 1, 3, 2, 4).reshape(shape)


def up_conv(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b _ _ o"]:
    """Doubles the size: zeros between the pixels, 3x3 convolution to 2h + 1, blur to 2h.

    This is StyleGAN2's transposed convolution with the kernel turned by 180 degrees.
    """
    return _up_conv(x, vary_with(kernel, x))


@jax.custom_vjp
def _up_conv(x: Array, kernel: Array) -> Array:
    return by_platform(x, kernel, default=_by_phases, cuda=_by_transposition)


def _up_conv_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _up_conv(x, kernel), (x, kernel)


def _up_conv_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    def of(form: Callable) -> Callable:
        return lambda x, kernel, cotangent: jax.vjp(form, x, kernel)[1](cotangent)

    forms = {"default": of(_by_phases), "cuda": of(_by_transposition)}
    return by_platform(*residuals, cotangent, **forms)


_up_conv.defvjp(_up_conv_forward, _up_conv_backward)


def _by_phases(x: Array, kernel: Array) -> Array:
    return up_conv_phases(x, kernel_phases(kernel))


def _by_transposition(x: Array, kernel: Array) -> Array:
    # The barrier keeps the compiler from taking back the turn by which it knows a transposition.
    return up_conv_transposed(x, jax.lax.optimization_barrier(transposed_kernel(kernel)))


def transposed_kernel(kernel: Float[Array, "3 3 i o"]) -> Float[Array, "i 3 3 o"]:
    """The kernel of the strided convolution whose transpose an up-convolution is."""
    return jax.lax.rev(kernel, (0, 1)).transpose(2, 0, 1, 3)


def up_conv_transposed(
    x: Float[Array, "b h w i"], kernel: Float[Array, "i 3 3 o"]
) -> Float[Array, "b _ _ o"]:
    """`up_conv` by the gradient of a strided convolution, which cuDNN has a kernel for.

    Args:
      kernel: of `transposed_kernel`.
    """
    return blur(_transposed(x, kernel.transpose(1, 2, 3, 0)), pad=(1, 1), gain=4.0)


@jax.custom_vjp
def _transposed(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 o i"]) -> Array:
    """The gradient of a convolution with a stride of two with respect to its input.

    JAX's own derivative of this is right, but slow: the compiler does not see that the kernel's
    gradient is that of a strided convolution, and transposes maps.
    """
    return jax.lax.conv_general_dilated(
        x,
        jax.lax.rev(kernel, (0, 1)).transpose(0, 1, 3, 2),
        window_strides=(1, 1),
        padding=((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=DIMENSIONS,
    )


def _transposed_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    d_x, of_kernel = jax.vjp(lambda kernel: _whole(cotangent, kernel, 2), kernel)
    return d_x, *of_kernel(x)


_transposed.defvjp(lambda x, kernel: (_transposed(x, kernel), (x, kernel)), _transposed_backward)


class Phases(NamedTuple):
    """What the pixels of an up-convolution see of its kernel, by the parity of row and column."""

    even_even: jax.Array  # (2, 2, i, o)
    even_odd: jax.Array  # (2, 1, i, o)
    odd_even: jax.Array  # (1, 2, i, o)
    odd_odd: jax.Array  # (1, 1, i, o)


def kernel_phases(kernel: Float[Array, "3 3 i o"]) -> Phases:
    """Even output rows see kernel rows 0 and 2, odd ones row 1; likewise the columns."""
    return Phases(*(kernel[row::2, column::2] for row in (0, 1) for column in (0, 1)))


def up_conv_phases(x: Float[Array, "b h w i"], phases: Phases) -> Float[Array, "b _ _ o"]:
    """Equal to `up_conv`, without multiplying by the zeros.

    The blur, too, works on the four phases, which are interleaved once at the end.
    """
    b, h, w, _ = x.shape
    bordered = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def phase(row: int, column: int) -> Array:
        return conv(bordered, phases[2 * row + column]).astype(jnp.float32)

    left, right = (_blur_phases(phase(0, column), phase(1, column), 1) for column in (0, 1))
    top, bottom = (_blur_phases(a, b, 2) for a, b in zip(left, right, strict=True))
    rows = [jnp.stack(pair, axis=3) for pair in (top, bottom)]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1).astype(x.dtype)


def _blur_phases(even: Array, odd: Array, axis: int) -> tuple[Array, Array]:
    """[1, 3, 3, 1] / 4 over the n + 2 odd and the n + 1 even samples between them: n of each."""
    n = odd.shape[axis] - 2
    before, here, after = (jax.lax.slice_in_dim(odd, i, i + n, axis=axis) for i in range(3))
    low, high = (jax.lax.slice_in_dim(even, i, i + n, axis=axis) for i in range(2))
    return 0.25 * (before + high) + 0.75 * (low + here), 0.25 * (low + after) + 0.75 * (here + high)
