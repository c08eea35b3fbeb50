"""The 3DMM bridge against the linear model written out, and its map against the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.models.morphable import (
    build_morphable,
    builtin_morphable,
    mesh,
    position_map,
    rasterise_to_uv,
    uv_coverage,
)


@pytest.fixture(scope="module")
def builtin():
    return builtin_morphable()


def square_basis(rng, side=5, modes=3):
    """A bumpy square sheet whose UV map is the square itself."""
    u, v = np.meshgrid(np.linspace(0.05, 0.95, side), np.linspace(0.05, 0.95, side))
    uv = np.stack([u.ravel(), v.ravel()], -1)
    i = np.arange(side * side).reshape(side, side)
    quads = np.stack([i[:-1, :-1], i[:-1, 1:], i[1:, 1:], i[1:, :-1]], -1).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    mean = np.concatenate([uv, rng.normal(size=(len(uv), 1))], -1)
    return mean, rng.normal(size=(len(uv), 3, modes)), triangles, uv


def test_mesh_is_the_mean_plus_the_modes():
    rng = np.random.default_rng(0)
    mean, expression, triangles, uv = square_basis(rng)
    model = build_morphable(mean, expression, triangles, uv)
    p_exp = rng.normal(size=(2, 4, 3))
    expected = mean + np.einsum("vck,btk->btvc", expression, p_exp)
    np.testing.assert_allclose(mesh(model, jnp.asarray(p_exp, jnp.float32)), expected, atol=1e-5)


def test_position_map_interpolates_the_offsets_of_the_mesh():
    rng = np.random.default_rng(1)
    mean, expression, triangles, uv = square_basis(rng)
    model = build_morphable(mean, expression, triangles, uv, resolution=16)
    p_exp = rng.normal(size=3)
    # The sheet's own triangulation: barycentric interpolation inside the cell's triangle.
    expected = _interpolate(expression @ p_exp, triangles, uv)
    found = np.asarray(position_map(model, jnp.asarray(p_exp, jnp.float32)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_last_triangle_over_a_texel_counts_and_none_without_area():
    rng = np.random.default_rng(2)
    uv, values = rng.uniform(-0.2, 1.2, (30, 2)), rng.normal(size=(30, 3))
    triangles = rng.permuted(np.tile(np.arange(30), (40, 1)), axis=1)[:, :3]
    flat = triangles[:, [0, 1, 1]]
    found = rasterise_to_uv(values, np.concatenate([triangles, flat]), uv, 16)
    np.testing.assert_allclose(found, _interpolate(values, triangles, uv), atol=1e-5)


def _interpolate(values, triangles, uv):
    points = (np.stack(np.meshgrid(*[np.arange(16)] * 2), -1) + 0.5) / 16
    result = np.zeros((*points.shape[:-1], 3))
    for a, b, c in triangles:
        matrix = np.stack([uv[b] - uv[a], uv[c] - uv[a]], -1)
        weights = (points - uv[a]) @ np.linalg.inv(matrix).T
        inside = (weights >= -1e-9).all(-1) & (weights.sum(-1) <= 1 + 1e-9)
        wb, wc = weights[inside].T
        result[inside] = (
            (1 - wb - wc)[:, None] * values[a] + wb[:, None] * values[b] + wc[:, None] * values[c]
        )
    return result


def test_gradient_reaches_the_coefficients(builtin):
    gradient = jax.grad(lambda p: (position_map(builtin, p) ** 2).sum())(jnp.ones(64))
    assert np.all(np.isfinite(gradient)) and np.count_nonzero(gradient) > 50


def test_builtin_has_64_named_modes_and_opens_its_jaw(builtin):
    assert len(builtin.names) == len(set(builtin.names)) == 64
    p_exp = np.zeros(64, np.float32)
    p_exp[builtin.names.index("jawOpen")] = 1
    moved = np.asarray(mesh(builtin, jnp.asarray(p_exp)) - builtin.mean)
    lips = np.asarray(builtin.lip_vertices)
    lowest = lips[np.asarray(builtin.mean)[lips, 1].argmin()]
    assert -6 < moved[lowest, 1] < -1, "the lower lip drops by centimetres"


def test_builtin_map_covers_the_lips_finely(builtin):
    """The lower lip's drop must be seen on the map: dozens of texels move with the jaw."""
    p_exp = np.zeros(64, np.float32)
    p_exp[builtin.names.index("jawOpen")] = 1
    drop = -np.asarray(position_map(builtin, jnp.asarray(p_exp)))[..., 1]
    assert (drop > 0.5).sum() > 100


def test_coverage_weights_sum_to_one_inside():
    _, _, triangles, uv = square_basis(np.random.default_rng(2))
    _, weights = uv_coverage(triangles, uv, 32)
    total = weights.sum(-1)
    assert np.allclose(total[total > 0], 1) and (total > 0).mean() > 0.75


def test_disagreeing_arrays_are_refused():
    mean, expression, triangles, uv = square_basis(np.random.default_rng(3))
    with pytest.raises(ValueError, match="disagree"):
        build_morphable(mean[:-1], expression, triangles, uv)
