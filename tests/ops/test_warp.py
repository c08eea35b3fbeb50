import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from reta_jax.ops import warp
from reta_jax.ops.warp import identity_grid, inherited_grid

grid_sample = jax.jit(warp.grid_sample)


def numpy_grid_sample(features, grid):
    """Point by point from the definition: align_corners=False, zeros outside, float64."""
    b, h, w, c = features.shape
    points = np.asarray(grid, np.float64).reshape(b, -1, 2)
    sampled = np.zeros((*points.shape[:2], c))
    for i, row in enumerate(points):
        for j, (x, y) in enumerate(((row + 1) * (w, h) - 1) / 2):
            for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                for line in (int(np.floor(y)), int(np.floor(y)) + 1):
                    if 0 <= column < w and 0 <= line < h:
                        weight = (1 - abs(x - column)) * (1 - abs(y - line))
                        sampled[i, j] += weight * features[i, line, column]
    return sampled.reshape(*grid.shape[:-1], c)


def hat_grid_sample(features, grid):
    """The same by a weight for every pixel of the map: slow, and differentiable by JAX."""
    _, h, w, _ = features.shape
    x = ((grid[..., 0] + 1) * w - 1) / 2
    y = ((grid[..., 1] + 1) * h - 1) / 2
    columns = jnp.maximum(0, 1 - jnp.abs(x[..., None] - jnp.arange(w)[None, None]))
    rows = jnp.maximum(0, 1 - jnp.abs(y[..., None] - jnp.arange(h)[None, None]))
    return jnp.einsum("bnh,bnw,bhwc->bnc", rows, columns, features)


def centres(h, w):
    """The grid that is an identity under align_corners=False: the pixels' centres."""
    x, y = np.meshgrid((2 * np.arange(w) + 1) / w - 1, (2 * np.arange(h) + 1) / h - 1)
    return jnp.asarray(np.stack([x, y], -1), jnp.float32)


def uniform_grid(seed, limit, shape):
    return jnp.asarray(np.random.default_rng(seed).uniform(-limit, limit, shape), jnp.float32)


@pytest.fixture
def features():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 7, 3)), jnp.float32)


def test_matches_the_definition_inside_and_outside(features):
    grid = uniform_grid(1, 1.6, (2, 3, 4, 6, 2))
    expected = numpy_grid_sample(features, grid)
    assert (np.abs(expected).max(-1) == 0).any()  # some points lie outside
    np.testing.assert_allclose(grid_sample(features, grid), expected, atol=2e-5)


def test_frames_share_the_features_of_their_row(features):
    grid = uniform_grid(2, 1.0, (2, 3, 5, 7, 2))
    together = grid_sample(features, grid)
    for frame in range(3):
        np.testing.assert_array_equal(together[:, frame], grid_sample(features, grid[:, frame]))


def test_shift_by_whole_pixels(features):
    grid = jnp.broadcast_to(centres(5, 7), (2, 5, 7, 2))
    np.testing.assert_allclose(grid_sample(features, grid), features, atol=1e-5)
    shifted = grid_sample(features, grid + jnp.array([[[[2 * 2 / 7, -2 / 5]]]]))
    expected = np.zeros(features.shape)
    expected[:, 1:, :-2] = features[:, :-1, 2:]
    np.testing.assert_allclose(shifted, expected, atol=2e-5)


def test_identity_grid_samples_half_a_pixel_outside():
    """The published networks' mixed convention: corners keep a quarter, the map is magnified."""
    grid = identity_grid(8, 8)
    np.testing.assert_allclose(grid[0, 0], [-1, -1])
    np.testing.assert_allclose(grid[0, -1], [1, -1])  # x first
    ones = grid_sample(jnp.ones((1, 8, 8, 1)), grid[None])[0, :, :, 0]
    np.testing.assert_allclose(ones[0, 0], 0.25, atol=1e-5)
    np.testing.assert_allclose(ones[0, 1:-1], 0.5, atol=1e-5)
    np.testing.assert_allclose(ones[1:-1, 1:-1], 1, atol=1e-5)
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None], (1, 8, 8, 1))
    sampled = grid_sample(ramp, grid[None])[0, 4, 1:-1, 0]
    np.testing.assert_allclose(sampled, np.arange(1, 7) * 8 / 7 - 0.5, atol=1e-5)


def test_a_flow_that_is_right_on_one_grid_is_right_on_the_finer_one():
    """At 8^2 this flow undoes the magnification; at 32^2, on the inherited grid, too."""
    for size in (8, 32):
        grid = inherited_grid(size, 8)
        if size == 8:
            np.testing.assert_allclose(grid, identity_grid(8, 8), atol=1e-6)
        undone = (grid - grid / 8)[None]
        picture = jax.random.normal(jax.random.key(0), (1, size, size, 2))
        np.testing.assert_allclose(grid_sample(picture, undone), picture, atol=1e-4)


def test_gradients_match_autodiff_of_the_definition(features):
    grid = uniform_grid(3, 1.3, (2, 40, 2))
    weights = np.random.default_rng(4).normal(size=(2, 40, 3)).astype(np.float32)

    def gradients(sample):
        loss = jax.jit(jax.grad(lambda f, g: jnp.sum(sample(f, g) * weights), (0, 1)))
        return loss(features, grid)

    for ours, theirs in zip(gradients(grid_sample), gradients(hat_grid_sample), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-5)


def test_gradients_match_finite_differences(features):
    pixels = np.random.default_rng(5).uniform(0.2, 0.8, (2, 9, 2))
    pixels += np.random.default_rng(6).integers(-2, 7, pixels.shape)  # some outside
    grid = jnp.asarray((2 * pixels + 1) / [7, 5] - 1, jnp.float32)
    check_grads(grid_sample, (features, grid), 1, ["rev"], 1e-2, 1e-2, eps=1e-2)


def test_bfloat16_features_keep_float32_coordinates():
    features = jnp.broadcast_to(jnp.arange(256.0)[None, None, :, None], (1, 2, 256, 1))
    grid = jnp.stack([jnp.linspace(0.9, 0.99, 50), jnp.zeros(50)], -1)[None]
    exact = grid_sample(features, grid)
    half = grid_sample(features.astype(jnp.bfloat16), grid)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), exact, rtol=2**-8)
    gradients = jax.jit(jax.grad(lambda f, g: grid_sample(f, g).sum(), (0, 1)))
    d_features, d_grid = gradients(features.astype(jnp.bfloat16), grid)
    assert (d_features.dtype, d_grid.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(d_grid[..., 0], 128, rtol=2**-7)  # w / 2 per unit


def test_coordinates_that_are_no_numbers_read_zero(features):
    grid = jnp.broadcast_to(jnp.array([[[jnp.nan, jnp.inf]]]), (2, 3, 2))
    np.testing.assert_array_equal(grid_sample(features, grid), 0)
    gradient = jax.jit(jax.grad(lambda f: grid_sample(f, grid).sum()))(features)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("form", [warp.ROWS, warp.DENSE], ids=["rows", "dense"])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 2**-7)])
def test_other_forms_are_equal(form, dtype, tolerance):
    """Those that TPUs take, with their gradients: inside, outside, at pixels, at no number."""
    random = np.random.default_rng(7)
    features = jnp.asarray(random.normal(size=(6, 9, 5)), dtype)
    points = random.uniform(-1.5, 1.5, (80, 2))
    points[:9] = centres(6, 9)[2]  # exactly at pixels, where the slope jumps
    points[9:11] = np.nan, np.inf
    points = jnp.asarray(points, jnp.float32)
    cotangent = jnp.asarray(random.normal(size=(80, 5)), dtype)
    ours = form.forward(features, points), *form.backward(features, points, cotangent)
    windows = warp.WINDOWS
    theirs = windows.forward(features, points), *windows.backward(features, points, cotangent)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
from reta_jax.ops.warp import grid_sample

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
features = jnp.asarray(rng.normal(size=(4, 6, 6, 3)), jnp.float32)
grid = jnp.asarray(rng.uniform(-1.2, 1.2, (4, 2, 6, 6, 2)), jnp.float32)

def sample_and_gradients(features, grid):
    gradients = jax.grad(lambda f, g: jnp.sum(grid_sample(f, g) ** 2), (0, 1))(features, grid)
    return grid_sample(features, grid), *gradients

sharded = jax.jit(jax.shard_map(
    sample_and_gradients, mesh=mesh, in_specs=P("data"), out_specs=P("data")
))
hlo = sharded.lower(features, grid).compile().as_text()
for word in ("all-gather", "all-reduce", "all-to-all", "collective", "reduce-scatter"):
    assert word not in hlo, word
for ours, theirs in zip(sharded(features, grid), sample_and_gradients(features, grid)):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
"""


def test_stays_on_its_device_under_shard_map():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    subprocess.run([sys.executable, "-c", SHARDED], env=environment, check=True, timeout=120)
