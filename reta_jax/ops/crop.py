"""Differentiable crop and resize by a box, separable and bilinear."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Weights of TF32 or bfloat16, which GPUs and TPUs would take, sum to 1 in three digits only.
mix = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def crop_resize(
    images: Float[Array, "n h w c"], box: Float[Array, "n 4"], size: int
) -> Float[Array, "n {size} {size} c"]:
    """Resamples the box (y0, x0, y1, x1 in [0, 1]) of each image to a square of `size` pixels.

    Antialiased where it shrinks; parts outside the image repeat its border.
    """
    height, width = images.shape[1:3]
    rows = jax.vmap(lambda b: resample_weights(b[0], b[2], height, size))(box)
    columns = jax.vmap(lambda b: resample_weights(b[1], b[3], width, size))(box)
    images = mix("nsh,nhwc->nswc", rows, images.astype(jnp.float32))
    return mix("ntw,nswc->nstc", columns, images)


def resample_weights(
    start: Float[Array, ""], stop: Float[Array, ""], size: int, samples: int
) -> Float[Array, "{samples} {size}"]:
    """Rows that resample [start, stop] in [0, 1] of an axis of `size` pixels to `samples`."""
    scale = (stop - start) * size / samples  # source pixels per output pixel
    centres = start * size + (jnp.arange(samples) + 0.5) * scale - 0.5
    centres = jnp.clip(centres, 0, size - 1)
    distance = jnp.abs(centres[:, None] - jnp.arange(size)[None, :])
    weights = jnp.maximum(0, 1 - distance / jnp.maximum(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)
