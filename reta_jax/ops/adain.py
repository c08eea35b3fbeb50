"""Adaptive instance normalisation (Eq. 1) and the demodulation of StyleGAN2."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reta_jax.ops.maps import pixel_sums, vary_with, written


def adain_affine(
    x: Float[Array, "b h w c"],
    alpha: Float[Array, "b c"],
    beta: Float[Array, "b c"],
    eps: float = 1e-5,
) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
    """Eq. 1 as `scale * x + shift`, so that a 1x1 convolution can take it into its weights.

    It is alpha * (x - mean) / std + beta, with mean and std over height and width. Statistics are
    float32, with the biased variance: of float32 maps about the mean (two passes), of bfloat16 in
    one pass.
    """
    mean, inverse_std = _moments(x, eps)
    scale = alpha * inverse_std
    return scale, beta - scale * mean


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _moments(x: Array, eps: float) -> tuple[Array, Array]:
    """Mean and 1 / std over height and width, (b, c) float32 each."""
    if x.dtype == jnp.bfloat16:
        # One pass: what is lost of the squares' difference is less than the map's own rounding.
        x = x.astype(jnp.float32)
        mean = x.mean((1, 2))
        variance = jnp.maximum(jnp.square(x).mean((1, 2)) - jnp.square(mean), 0)
    else:
        mean = x.mean((1, 2))
        variance = jnp.square(x - mean[:, None, None]).mean((1, 2))
    return mean, jax.lax.rsqrt(variance + eps)


def _moments_forward(
    x: Array, eps: float
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    mean, inverse_std = _moments(x, eps)
    return (mean, inverse_std), (written(x), mean, inverse_std)


def _moments_backward(
    eps: float, residuals: tuple[Array, Array, Array], cotangents: tuple[Array, Array]
) -> tuple[Array]:
    x, mean, inverse_std = residuals
    d_mean, d_inverse_std = (cotangent / (x.shape[1] * x.shape[2]) for cotangent in cotangents)
    slope = -(inverse_std**3) * d_inverse_std
    offset = d_mean - slope * mean
    d_x = x.astype(jnp.float32) * slope[:, None, None] + offset[:, None, None]
    return (d_x.astype(x.dtype),)


_moments.defvjp(_moments_forward, _moments_backward)


def modulate(
    x: Float[Array, "b h w c"],
    scale: Float[Array, "b c"],
    shift: Float[Array, "b c"] | None = None,
) -> Float[Array, "b h w c"]:
    """Multiplies and shifts each channel of each sample in float32; keeps the dtype of x."""
    return _modulate(vary_with(x, scale), scale, shift)


@jax.custom_vjp
def _modulate(x: Array, scale: Array, shift: Array | None) -> Array:
    y = x.astype(jnp.float32) * scale[:, None, None]
    if shift is not None:
        y = y + shift[:, None, None]
    return y.astype(x.dtype)


def _modulate_forward(
    x: Array, scale: Array, shift: Array | None
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return _modulate(x, scale, shift), (written(x), scale, shift)


def _modulate_backward(
    residuals: tuple[Array, Array, Array | None], cotangent: Array
) -> tuple[Array, Array, Array | None]:
    x, scale, shift = residuals
    cotangent = cotangent.astype(jnp.float32)
    d_scale, d_shift = pixel_sums(cotangent * x.astype(jnp.float32), cotangent)
    d_x = (cotangent * scale[:, None, None]).astype(x.dtype)
    return d_x, d_scale, None if shift is None else d_shift


_modulate.defvjp(_modulate_forward, _modulate_backward)


def kernel_energy(kernel: Float[Array, "k l i o"]) -> Float[Array, "i o"]:
    """Sum of squares over a kernel's taps, float32."""
    taps = kernel.astype(jnp.float32).reshape(-1, *kernel.shape[2:])
    return sum(jnp.square(tap) for tap in taps)  # XLA's CPU reduction takes ten times as long


def demodulation(
    energy: Float[Array, "i o"], style: Float[Array, "b i"], eps: float = 1e-8
) -> Float[Array, "b o"]:
    """1 / the norm of the kernel whose input channels are scaled by `style`, per output channel.

    Scaling the activations before the convolution and by this after it equals StyleGAN2's
    convolution with a modulated kernel for each sample.

    Args:
      energy: of the kernel (`kernel_energy`).
    """
    squares = jnp.matmul(jnp.square(style), energy, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.rsqrt(squares + eps)
