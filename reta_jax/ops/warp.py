"""Bilinear grid sampling with zeros outside: PyTorch's `grid_sample` in its default convention.

Coordinates are (x, y) in [-1, 1]. There are two readings of where -1 and 1 lie, and the reference
networks mix them:

    align_corners=False (the sampler): the outer *edges* of the border pixels. x samples column
        ((x + 1) w - 1) / 2.
    align_corners=True (`identity_grid`): the *centres* of the border pixels. Column j is at
        x = 2 j / (w - 1) - 1.

So the "identity" grid magnifies by w / (w - 1) about the centre: the border samples half a pixel
outside, and a corner keeps a quarter of its value. The published weights expect exactly that.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def identity_grid(h: int, w: int) -> Float[Array, "{h} {w} 2"]:
    """(x, y) of every pixel, from -1 to 1 inclusive on both axes (see above)."""
    return jnp.stack(jnp.meshgrid(jnp.linspace(-1, 1, w), jnp.linspace(-1, 1, h)), -1)


def grid_sample(
    features: Float[Array, "b h w c"], grid: Float[Array, "b *points 2"]
) -> Float[Array, "b *points c"]:
    """Samples `features` at `grid`; a sample beyond the border counts as zero.

    All points of a batch row share its features: (b, t, h, w, 2) warps one map to t frames without
    copying it. Coordinates and weights are float32, the result has the dtype of the features.
    """
    points = grid.reshape(grid.shape[0], -1, 2).astype(jnp.float32)
    sampled = jax.vmap(_sample)(features, points)
    return sampled.reshape(*grid.shape[:-1], features.shape[-1])


class _Corner(NamedTuple):
    """One of the four pixels around each point. Weights and slopes are zero outside the map."""

    index: jax.Array  # (n,) row of the flattened map, always in bounds
    x_weight: jax.Array  # (n,)
    y_weight: jax.Array  # (n,)
    x_slope: jax.Array  # (n,) d x_weight / d x, x in pixels
    y_slope: jax.Array  # (n,)


def _corners(points: Array, h: int, w: int) -> Iterator[_Corner]:
    columns, rows = (_neighbours(points[:, axis], size) for axis, size in ((0, w), (1, h)))
    for row, y_weight, y_slope in rows:
        for column, x_weight, x_slope in columns:
            yield _Corner(row * w + column, x_weight, y_weight, x_slope, y_slope)


def _neighbours(coordinate: Array, size: int) -> list[tuple[Array, Array, Array]]:
    """Index, weight and slope of the pixel before and the pixel after, along one axis."""
    position = ((coordinate + 1) * size - 1) / 2
    floor = jnp.floor(position)
    after = position - floor
    neighbours = []
    for step, weight, slope in ((0, 1 - after, -1.0), (1, after, 1.0)):
        inside = (floor + step >= 0) & (floor + step < size)
        # Clipped as an integer: any coordinate, NaN too, gives a row that exists.
        index = jnp.clip((floor + step).astype(jnp.int32), 0, size - 1)
        neighbours.append((index, jnp.where(inside, weight, 0), jnp.where(inside, slope, 0.0)))
    return neighbours


def _take(flat: Array, index: Array) -> Array:
    return flat.at[index].get(mode="promise_in_bounds").astype(jnp.float32)


@jax.custom_vjp
def _sample(features: Float[Array, "h w c"], points: Float[Array, "n 2"]) -> Float[Array, "n c"]:
    h, w, c = features.shape
    flat = features.reshape(h * w, c)
    sampled = sum(
        (corner.x_weight * corner.y_weight)[:, None] * _take(flat, corner.index)
        for corner in _corners(points, h, w)
    )
    return sampled.astype(features.dtype)


def _sample_forward(features: Array, points: Array) -> tuple[Array, tuple[Array, Array]]:
    return _sample(features, points), (features, points)


def _sample_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    """Scatter-adds the cotangent to the four corners, and differentiates their weights."""
    features, points = residuals
    h, w, c = features.shape
    flat = features.reshape(h * w, c)
    cotangent = cotangent.astype(jnp.float32)
    d_flat = jnp.zeros((h * w, c), jnp.float32)
    d_x = d_y = 0.0
    for index, x_weight, y_weight, x_slope, y_slope in _corners(points, h, w):
        share = (x_weight * y_weight)[:, None] * cotangent
        d_flat = d_flat.at[index].add(share, mode="promise_in_bounds")
        along = jnp.sum(cotangent * _take(flat, index), -1)
        d_x += x_slope * y_weight * along
        d_y += x_weight * y_slope * along
    d_features = d_flat.reshape(features.shape).astype(features.dtype)
    return d_features, jnp.stack([d_x * w / 2, d_y * h / 2], -1)


_sample.defvjp(_sample_forward, _sample_backward)
