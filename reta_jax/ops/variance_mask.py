"""Temporal Variance Masking (Algorithm 1): where a clip moves."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Stages(NamedTuple):
    """What Algorithm 1 comes by, in its order; all but the mask in feature pixels."""

    variance: jax.Array  # (b, h, w) in [0, 1]
    coarse: jax.Array  # (b, h, w) thresholded at tau_init
    opened: jax.Array  # (b, h, w)
    smooth: jax.Array  # (b, h, w) blurred
    mask: jax.Array  # (b, size, size, 1)


def temporal_variance_mask(
    features: Float[Array, "b t h w c"],
    size: int,
    tau_init: float = 0.2,
    kernel: int = 3,
    sigma: float = 1.5,
    tau_final: float = 0.5,
) -> Stages:
    """Its mask is 1 where a clip's features vary over time, 0 elsewhere and if it stands still.

    The variance is averaged over the channels, scaled to [0, 1] per clip, thresholded at tau_init,
    opened with a kernel x kernel square, blurred (sigma in feature pixels), resized bilinearly to
    size x size and thresholded at tau_final. No gradient flows through any stage.
    """
    variance = _normalised_variance(jax.lax.stop_gradient(features))
    coarse = (variance > tau_init).astype(jnp.float32)
    opened = _opening(coarse, kernel)
    smooth = _gaussian_blur(opened, sigma)
    shape = (len(features), size, size)
    resized = jax.image.resize(smooth, shape, "bilinear", antialias=False)
    mask = (resized > tau_final).astype(jnp.float32)[..., None]
    return Stages(variance, coarse, opened, smooth, mask)


def _normalised_variance(features: Array) -> Array:
    features = features.astype(jnp.float32)
    # About the first frame: a clip that stands still has a variance of exactly zero.
    motion = features - features[:, :1]
    variance = motion.var(axis=1).mean(-1)
    low = variance.min((1, 2), keepdims=True)
    span = variance.max((1, 2), keepdims=True) - low
    return (variance - low) / jnp.where(span > 0, span, 1.0)


def _opening(mask: Array, kernel: int) -> Array:
    """Erosion, then dilation. Pixels beyond the border take no part.

    An even kernel has no centre: dilation mirrors the kernel of erosion, so that nothing moves.
    """
    before, after = (kernel - 1) // 2, kernel // 2
    eroded = _slide(mask, jnp.inf, jax.lax.min, before, after)
    return _slide(eroded, -jnp.inf, jax.lax.max, after, before)


def _slide(mask: Array, start: float, reduce: Callable, before: int, after: int) -> Array:
    """Reduces, about each pixel, the square from `before` pixels before it to `after` behind it."""
    size, pad = before + 1 + after, (before, after)
    return jax.lax.reduce_window(
        mask, start, reduce, (1, size, size), (1, 1, 1), ((0, 0), pad, pad)
    )


def _gaussian_blur(mask: Array, sigma: float) -> Array:
    rows, columns = (jnp.asarray(_gaussian_matrix(n, sigma)) for n in mask.shape[1:])
    precision = jax.lax.Precision.HIGHEST  # it is thresholded
    return jnp.einsum("ih,bhw,jw->bij", rows, mask, columns, precision=precision)


def _gaussian_matrix(n: int, sigma: float) -> np.ndarray:
    """(n, n): a Gaussian of four sigmas along one axis; the border pixel repeats outside."""
    radius = round(4 * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    matrix = np.zeros((n, n), np.float32)
    for i in range(n):
        for offset, tap in zip(range(-radius, radius + 1), taps / taps.sum(), strict=True):
            matrix[i, np.clip(i + offset, 0, n - 1)] += tap
    return matrix
