"""Adaptive instance normalisation (Eq. 1) and the demodulation of StyleGAN2."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
    if x.dtype == jnp.bfloat16:
        # One pass: what is lost of the squares' difference is less than the map's own rounding.
        x = x.astype(jnp.float32)
        mean = x.mean((1, 2))
        variance = jnp.maximum(jnp.square(x).mean((1, 2)) - jnp.square(mean), 0)
    else:
        mean = x.mean((1, 2))
        variance = jnp.square(x - mean[:, None, None]).mean((1, 2))
    scale = alpha * jax.lax.rsqrt(variance + eps)
    return scale, beta - scale * mean


def modulate(
    x: Float[Array, "b h w c"],
    scale: Float[Array, "b c"],
    shift: Float[Array, "#b c"] | None = None,
) -> Float[Array, "b h w c"]:
    """Multiplies and shifts each channel of each sample in float32; keeps the dtype of x."""
    y = x.astype(jnp.float32) * scale[:, None, None]
    if shift is not None:
        y = y + shift[:, None, None]
    return y.astype(x.dtype)


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
