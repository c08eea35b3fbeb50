"""Bilinear grid sampling with zeros outside: PyTorch's `grid_sample` in its default convention.

Coordinates are (x, y) in [-1, 1]. There are two readings of where -1 and 1 lie, and the reference
networks mix them:

    align_corners=False (the sampler): the outer *edges* of the border pixels. x samples column
        ((x + 1) w - 1) / 2.
    align_corners=True (`identity_grid`): the *centres* of the border pixels. Column j is at
        x = 2 j / (w - 1) - 1.

So the "identity" grid magnifies by w / (w - 1) about the centre: the border samples half a pixel
outside, and a corner keeps a quarter of its value. The published weights expect exactly that.

Each point reads the 2x2 pixels around it. That has three forms of equal results, chosen by the
platform that the program is compiled for (docs/scaling.md has the figures):

    windows, on CPU and GPU: a gather of a 2x2 window a point, and a scatter of as many.
    rows, on TPU: four gathers and scatters of a pixel each. A TPU has both in hardware, while a
        window's scatter becomes a loop of as many turns as there are points.
    dense, on TPU, for maps of up to 32 x 32: a matrix product with a weight for every pixel of the
        map, most of them zero. Nothing is gathered.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import GatherDimensionNumbers, GatherScatterMode, ScatterDimensionNumbers
from jaxtyping import Array, Float

from reta_jax.ops.platforms import by_platform

DENSE_PIXELS = 32 * 32  # of a map: up to here TPUs take the dense form
IN_BOUNDS = GatherScatterMode.PROMISE_IN_BOUNDS
# A (2, 2, c) window of an (h, w, c) map for each (row, column).
GATHER = GatherDimensionNumbers((1, 2, 3), collapsed_slice_dims=(), start_index_map=(0, 1))
SCATTER = ScatterDimensionNumbers(
    (1, 2, 3), inserted_window_dims=(), scatter_dims_to_operand_dims=(0, 1)
)


def identity_grid(h: int, w: int) -> Float[Array, "{h} {w} 2"]:
    """(x, y) of every pixel, from -1 to 1 inclusive on both axes (see above)."""
    return jnp.stack(jnp.meshgrid(jnp.linspace(-1, 1, w), jnp.linspace(-1, 1, h)), -1)


def inherited_grid(size: int, born: int) -> Float[Array, "{size} {size} 2"]:
    """The identity grid of born^2 pixels, continued to the pixels of a finer map.

    The published grid magnifies a map of n^2 pixels by n / (n - 1), which flows learn to undo, for
    each size by another amount. On this grid a flow that is right at born^2 is right at size^2.
    """
    return identity_grid(size, size) * ((size - 1) / size * born / (born - 1))


def grid_sample(
    features: Float[Array, "b h w c"], grid: Float[Array, "b *points 2"]
) -> Float[Array, "b *points c"]:
    """Samples `features`, 2x2 pixels or more, at `grid`; beyond the border all counts as zero.

    All points of a batch row share its features: (b, t, h, w, 2) warps one map to t frames without
    copying it. Coordinates and weights are float32, the result has the dtype of the features.
    """
    points = grid.reshape(grid.shape[0], -1, 2).astype(jnp.float32)
    sampled = jax.vmap(_sample)(features, points)
    return sampled.reshape(*grid.shape[:-1], features.shape[-1])


class _Windows(NamedTuple):
    """The 2x2 pixels around each point, or the nearest where some of those are beyond the border.

    The weight of a pixel falls from 1 to 0 over one pixel's distance. So the nearest 2x2 of the map
    give the sum that a map with zeros around it would give, and no such map is made.
    """

    corner: jax.Array  # (n, 2) row and column of the first pixel
    rows: tuple[jax.Array, jax.Array]  # (n,) weight of each row
    columns: tuple[jax.Array, jax.Array]  # (n,) weight of each column
    row_slopes: tuple[jax.Array, jax.Array]  # (n,) change of a row's weight per unit of the grid
    column_slopes: tuple[jax.Array, jax.Array]  # (n,) likewise


def _windows(points: Array, h: int, w: int) -> _Windows:
    row, rows, row_slopes = _pair(points[:, 1], h)
    column, columns, column_slopes = _pair(points[:, 0], w)
    return _Windows(jnp.stack([row, column], -1), rows, columns, row_slopes, column_slopes)


def _pair(
    x: Float[Array, " n"], size: int
) -> tuple[Array, tuple[Array, Array], tuple[Array, Array]]:
    """The first of two neighbours on an axis, their weights, and the slopes of those; (n,) each."""
    position = ((x + 1) * size - 1) / 2
    # Clipped as an integer: any coordinate, NaN too, gives a window that exists.
    first = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, size - 2)
    weights, slopes = [], []
    for pixel in (first, first + 1):
        beyond = position - pixel
        before, after = (beyond >= -1) & (beyond < 0), (beyond >= 0) & (beyond < 1)
        weights.append(jnp.where(before, 1 + beyond, jnp.where(after, 1 - beyond, 0)))
        slopes.append((before.astype(jnp.float32) - after) * size / 2)
    return first, tuple(weights), tuple(slopes)


@jax.custom_vjp
def _sample(features: Float[Array, "h w c"], points: Float[Array, "n 2"]) -> Float[Array, "n c"]:
    return _by_platform("forward", features, points)


def _sample_forward(features: Array, points: Array) -> tuple[Array, tuple[Array, Array]]:
    return _sample(features, points), (features, points)


def _sample_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    return _by_platform("backward", *residuals, cotangent)


_sample.defvjp(_sample_forward, _sample_backward)


def _by_platform(direction: str, features: Array, *arrays: Array) -> Any:
    on_tpu = DENSE if features.shape[0] * features.shape[1] <= DENSE_PIXELS else ROWS
    windows, plain = (getattr(form, direction) for form in (WINDOWS, on_tpu))
    return by_platform(features, *arrays, default=windows, simple=plain, tpu=plain)


class Form(NamedTuple):
    """How to sample; all are equal.

    forward: of features (h, w, c) and points (n, 2), the samples (n, c).
    backward: of features, points and the samples' cotangent, the cotangents of both.
    """

    forward: Callable[[Array, Array], Array]
    backward: Callable[[Array, Array, Array], tuple[Array, Array]]


def _mix(windows: _Windows, pixels: Float[Array, "n 2 2 c"]) -> Float[Array, "n c"]:
    """Weighs the four pixels of each point."""
    return sum(
        (windows.rows[i] * windows.columns[j])[:, None] * pixels[:, i, j]
        for i in (0, 1)
        for j in (0, 1)
    )


def _slope(windows: _Windows, along: Float[Array, "n 2 2"]) -> Float[Array, "n 2"]:
    """Cotangent of the points, from each pixel's product with the cotangent of the sample."""
    d_y = jnp.sum(along * _outer(windows.row_slopes, windows.columns), (1, 2))
    d_x = jnp.sum(along * _outer(windows.rows, windows.column_slopes), (1, 2))
    return jnp.stack([d_x, d_y], -1)


def _outer(rows: tuple[Array, Array], columns: tuple[Array, Array]) -> Float[Array, "n 2 2"]:
    return jnp.stack(rows, -1)[:, :, None] * jnp.stack(columns, -1)[:, None]


# Windows


def _gather_windows(features: Array, corner: Array) -> Float[Array, "n 2 2 c"]:
    size = (2, 2, features.shape[-1])
    found = jax.lax.gather(features, corner, GATHER, size, mode=IN_BOUNDS)
    return found.astype(jnp.float32)


def _windows_forward(features: Array, points: Array) -> Array:
    windows = _windows(points, *features.shape[:2])
    return _mix(windows, _gather_windows(features, windows.corner)).astype(features.dtype)


def _windows_backward(features: Array, points: Array, cotangent: Array) -> tuple[Array, Array]:
    """Scatter-adds the cotangent to the windows, and differentiates their weights.

    One 2x2 window a point: three to four times as fast on CPU as a row for each of four corners.
    """
    h, w, c = features.shape
    windows = _windows(points, h, w)
    cotangent = cotangent.astype(jnp.float32)

    shares = _outer(windows.rows, windows.columns)[..., None] * cotangent[:, None, None]
    zeros = jnp.zeros((h, w, c), jnp.float32)
    d_features = jax.lax.scatter_add(zeros, windows.corner, shares, SCATTER, mode=IN_BOUNDS)

    along = jnp.einsum("nijc,nc->nij", _gather_windows(features, windows.corner), cotangent)
    return d_features.astype(features.dtype), _slope(windows, along)


WINDOWS = Form(_windows_forward, _windows_backward)


# Rows: the map as a list of pixels


def _places(windows: _Windows, w: int) -> list[list[Array]]:
    """Where in the list the four pixels of each point are."""
    row, column = windows.corner[:, 0], windows.corner[:, 1]
    return [[(row + i) * w + column + j for j in (0, 1)] for i in (0, 1)]


def _take_rows(features: Array, windows: _Windows) -> Float[Array, "n 2 2 c"]:
    _, w, c = features.shape
    pixels = features.reshape(-1, c)
    take = lambda place: pixels.at[place].get(mode="promise_in_bounds").astype(jnp.float32)
    return jnp.stack([jnp.stack(list(map(take, row)), 1) for row in _places(windows, w)], 1)


def _rows_forward(features: Array, points: Array) -> Array:
    windows = _windows(points, *features.shape[:2])
    return _mix(windows, _take_rows(features, windows)).astype(features.dtype)


def _rows_backward(features: Array, points: Array, cotangent: Array) -> tuple[Array, Array]:
    h, w, c = features.shape
    windows = _windows(points, h, w)
    cotangent = cotangent.astype(jnp.float32)
    pixels = jnp.zeros((h * w, c), jnp.float32)
    for i, row in enumerate(_places(windows, w)):
        for j, place in enumerate(row):
            share = (windows.rows[i] * windows.columns[j])[:, None] * cotangent
            pixels = pixels.at[place].add(share, mode="promise_in_bounds")
    d_features = pixels.reshape(features.shape).astype(features.dtype)
    along = jnp.einsum("nijc,nc->nij", _take_rows(features, windows), cotangent)
    return d_features, _slope(windows, along)


ROWS = Form(_rows_forward, _rows_backward)


# Dense: a weight for every pixel


def _spread(corner: Array, weights: tuple[Array, Array], size: int) -> Float[Array, "n {size}"]:
    """The two weights of an axis at their places among all its pixels."""
    place = corner[:, None]
    pixels = jnp.arange(size)[None]
    return jnp.where(pixels == place, weights[0][:, None], 0) + jnp.where(
        pixels == place + 1, weights[1][:, None], 0
    )


def _axes(windows: _Windows, h: int, w: int) -> tuple[Array, Array]:
    rows = _spread(windows.corner[:, 0], windows.rows, h)
    return rows, _spread(windows.corner[:, 1], windows.columns, w)


def _product(equation: str, a: Array, b: Array, dtype: Any) -> Array:
    """The einsum in the features' type, summed in float32; products of float32 are exact."""
    a, b = a.astype(dtype), b.astype(dtype)
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=jnp.float32)


def _dense_forward(features: Array, points: Array) -> Array:
    h, w, _ = features.shape
    rows, columns = _axes(_windows(points, h, w), h, w)
    weights = rows[:, :, None] * columns[:, None]
    return _product("nhw,hwc->nc", weights, features, features.dtype).astype(features.dtype)


def _dense_backward(features: Array, points: Array, cotangent: Array) -> tuple[Array, Array]:
    h, w, _ = features.shape
    windows = _windows(points, h, w)
    rows, columns = _axes(windows, h, w)
    weights = rows[:, :, None] * columns[:, None]
    d_features = _product("nhw,nc->hwc", weights, cotangent, features.dtype)
    along = _product("nc,hwc->nhw", cotangent, features, features.dtype)
    rises = _axes(windows._replace(rows=windows.row_slopes, columns=windows.column_slopes), h, w)
    d_y = jnp.sum(along * (rises[0][:, :, None] * columns[:, None]), (1, 2))
    d_x = jnp.sum(along * (rows[:, :, None] * rises[1][:, None]), (1, 2))
    return d_features.astype(features.dtype), jnp.stack([d_x, d_y], -1)


DENSE = Form(_dense_forward, _dense_backward)
