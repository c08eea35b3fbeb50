"""PSNR and SSIM of uint8 images (D.4.1)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from reta_jax.metrics.blocks import in_blocks

SSIM_WINDOW = 7
EQUAL = 100.0  # dB, said of equal pictures


def compare_pixels(
    frames: UInt8[np.ndarray, "t h w 3"], truth: UInt8[np.ndarray, "t h w 3"]
) -> dict[str, float]:
    """PSNR in dB, 100 of equal frames, and SSIM: means over frames; and the PSNR of the clip.

    "psnr_clip" is 10 log10(255^2 / mean over frames of their mean square error). One frame that is
    exact, as a still portrait's first, raises it hardly, and `psnr` by its share of 100 dB.
    """
    if all(map(np.array_equal, frames, truth)):
        return {"psnr": EQUAL, "psnr_clip": EQUAL, "ssim": 1.0}
    decibels = in_blocks(_psnr, frames, truth).astype(np.float64)
    error = (255.0**2 * 10 ** (-decibels / 10)).mean()
    return {
        "psnr": float(np.minimum(decibels, EQUAL).mean()),
        "psnr_clip": float(min(10 * np.log10(255.0**2 / error), EQUAL)),
        "ssim": float(in_blocks(_ssim, frames, truth).mean()),
    }


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


_psnr = jax.jit(psnr)
# Frame by frame: the window sums of a block of 256 px are 20 MB each, and leave a CPU's caches.
_ssim = jax.jit(lambda a, b: jax.lax.map(lambda pair: ssim(*pair), (a, b)))
