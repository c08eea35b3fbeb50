"""PSNR and SSIM of uint8 images (D.4.1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

SSIM_WINDOW = 7


def psnr(a: UInt8[Array, "*n h w c"], b: UInt8[Array, "*n h w c"]) -> Float[Array, "*n"]:
    """Peak signal-to-noise ratio in dB of each image: 10 log10(255^2 / MSE); inf if equal."""
    error = jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)).mean((-3, -2, -1))
    return 10.0 * jnp.log10(255.0**2 / error)


def ssim(a: UInt8[Array, "*n h w c"], b: UInt8[Array, "*n h w c"]) -> Float[Array, "*n"]:
    """Structural similarity of each image, as scikit-image computes it by default.

    Uniform 7x7 windows, sample covariance, K1 = 0.01, K2 = 0.03, mean over channels and over the
    pixels whose window lies inside the image.
    """
    x, y = a.astype(jnp.float32), b.astype(jnp.float32)
    shift = 127.5  # variances do not change, float32 rounding does
    x, y = x - shift, y - shift
    mean_x, mean_y = _box_mean(x), _box_mean(y)
    pixels = SSIM_WINDOW**2
    unbiased = pixels / (pixels - 1)
    var_x = unbiased * (_box_mean(x * x) - mean_x * mean_x)
    var_y = unbiased * (_box_mean(y * y) - mean_y * mean_y)
    cov = unbiased * (_box_mean(x * y) - mean_x * mean_y)
    mean_x, mean_y = mean_x + shift, mean_y + shift
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return score.mean((-3, -2, -1))


def _box_mean(x: Float[Array, "*n h w c"]) -> Float[Array, "*n i j c"]:
    """Mean over every 7x7 window that lies inside the image."""
    window = (1,) * (x.ndim - 3) + (SSIM_WINDOW, SSIM_WINDOW, 1)
    strides = (1,) * x.ndim
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, "VALID") / SSIM_WINDOW**2
