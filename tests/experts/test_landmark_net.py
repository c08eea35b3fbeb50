"""The landmark judge: exact arithmetic of its head, and that it learns to localise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipeline.face import MOUTH
from reta_jax.experts.landmark_net import (
    LandmarkNet,
    from_lower_face,
    gap_height,
    into_lower_face,
    lower_face,
    soft_argmax,
)
from tests.weights import random_variables


def test_soft_argmax_reads_a_peak_and_its_offset():
    heatmaps = jnp.full((1, 4, 8, 2), -1e9).at[0, 1, 6, 0].set(0).at[0, 3, 2:4, 1].set(0)
    offsets = jnp.zeros((1, 4, 8, 2, 2)).at[0, 1, 6, 0].set(jnp.array([0.25, -0.5]))
    expected = [[[6.75 / 8, 1.0 / 4], [3.0 / 8, 3.5 / 4]]]
    np.testing.assert_allclose(soft_argmax(heatmaps, offsets), expected, rtol=1e-6)


def test_the_gaps_height_is_that_between_the_inner_lips():
    points = jnp.zeros((68, 2)).at[62].set(jnp.array([0.5, 0.6])).at[66].set(jnp.array([0.5, 0.7]))
    np.testing.assert_allclose(gap_height(points[MOUTH]), 0.1, atol=1e-6)


def test_lower_face_shows_a_point_where_it_says():
    """A white pixel in the frame is white in the judge's picture at the transformed point."""
    frame = jnp.full((1, 80, 80, 3), -1.0).at[0, 60, 36].set(1.0)
    box = jnp.array([[0.1, 0.2, 0.9, 0.8]])
    point = into_lower_face(jnp.array([[[36.5 / 80, 60.5 / 80]]]), box)[0, 0]
    seen = np.asarray(lower_face(frame, box, 96))[0, ..., 0]
    row, column = np.unravel_index(seen.argmax(), seen.shape)
    np.testing.assert_allclose([(column + 0.5) / 96, (row + 0.5) / 96], point, atol=1.1 / 96)


@pytest.mark.parametrize("move", [into_lower_face, from_lower_face])
def test_numpy_stays_numpy(move):
    """Eager JAX would compile anew for every clip's length."""
    points = np.random.default_rng(0).random((3, 20, 2), np.float32)
    box = np.float32([[0.1, 0.2, 0.9, 0.8]])
    moved = move(points, box)
    assert isinstance(moved, np.ndarray)
    np.testing.assert_allclose(moved, move(jnp.asarray(points), jnp.asarray(box)), rtol=1e-6)
    np.testing.assert_allclose(
        from_lower_face(into_lower_face(points, box), box), points, atol=1e-6
    )


def test_what_sees_grey_asks_for_no_tint():
    """The points' gradient is the same in all channels; only channels' means move them."""
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1, maxval=1)
    network = LandmarkNet(size=16, width=8, landmarks=2, grey=True)
    variables = random_variables(network, images)
    points = lambda x: network.apply(variables, x)
    gradient = jax.grad(lambda x: points(x)[..., 1].sum())(images)
    assert np.abs(gradient).max() > 1e-6
    np.testing.assert_allclose(gradient, np.repeat(gradient[..., :1], 3, -1), rtol=1e-5)
    np.testing.assert_allclose(points(images), points(images[..., ::-1]), atol=1e-6)


def test_learns_to_localise_what_it_has_not_seen():
    """Dark squares on noise: four of the points are the corners."""
    network = LandmarkNet(size=32, width=8, landmarks=4)

    def world(key, count):
        keys = jax.random.split(key, 3)
        centre = jax.random.uniform(keys[0], (count, 1, 2), minval=0.35, maxval=0.65)
        half = jax.random.uniform(keys[1], (count, 1, 1), minval=0.12, maxval=0.3)
        corners = centre + half * jnp.array([[-1, -1], [1, -1], [-1, 1], [1, 1]])[None]
        axis = (jnp.arange(48) + 0.5) / 48
        inside = jax.nn.sigmoid(96 * (half - jnp.abs(axis[None, None] - centre.swapaxes(1, 2))))
        square = inside[:, 1, :, None] * inside[:, 0, None, :]
        noise = 0.1 * jax.random.normal(keys[2], (count, 48, 48, 3))
        return jnp.clip(0.5 - square[..., None] + noise, -1, 1), corners

    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(params, state, key):
        images, corners = world(key, 16)

        def error(params):
            return jnp.abs(network.apply({"params": params}, images) - corners).mean()

        updates, state = optimizer.update(jax.grad(error)(params), state)
        return optax.apply_updates(params, updates), state

    params = random_variables(network, jnp.zeros((1, 48, 48, 3)))["params"]
    state = optimizer.init(params)
    for i in range(150):
        params, state = step(params, state, jax.random.key(i))
    images, corners = world(jax.random.key(1000), 64)
    found = jax.jit(network.apply)({"params": params}, images)
    distance = np.linalg.norm(found - corners, axis=-1)
    assert distance.mean() < 0.5 / 16, distance.mean()  # half a heatmap cell
