"""PSNR and SSIM of uint8 images (D.4.1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

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
    # Window sums are whole numbers below 2^31: variances come without float32's cancellation.
    x, y = a.astype(jnp.int32), b.astype(jnp.int32)
    n = SSIM_WINDOW**2
    sum_x, sum_y = _box_sum(x), _box_sum(y)
    unbiased = 1 / (n * (n - 1))
    variances = unbiased * (n * _box_sum(x * x + y * y) - (sum_x * sum_x + sum_y * sum_y))
    covariance = unbiased * (n * _box_sum(x * y) - sum_x * sum_y)
    mean_x, mean_y = sum_x / n, sum_y / n
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    )
    return score.mean((-3, -2, -1))


def _box_sum(x: Int[Array, "*n h w c"]) -> Int[Array, "*n i j c"]:
    """Sum over every 7x7 window that lies inside the image: of columns, then of rows."""
    for axis in (-3, -2):
        window = [1] * x.ndim
        window[axis] = SSIM_WINDOW
        x = jax.lax.reduce_window(x, 0, jax.lax.add, window, (1,) * x.ndim, "VALID")
    return x
