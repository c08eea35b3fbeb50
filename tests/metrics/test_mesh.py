"""The lip vertex error, in millimetres of a mesh in centimetres."""

import jax.numpy as jnp
import numpy as np

from reta_jax.metrics.mesh import lip_mesh, lip_vertex_error
from reta_jax.models.morphable import builtin_morphable, mesh


def test_the_worst_vertex_of_each_frame_counts():
    truth = np.zeros((2, 3, 3))
    lips = truth.copy()
    lips[0, 1] = 3, 0, 4  # 5 mm off
    lips[0, 2] = 1, 0, 0
    lips[1, 0] = 0, 1, 0
    found = lip_vertex_error(lips, truth)
    assert found == {"lip_vertex_error_mm2": 13.0, "lip_vertex_distance_mm": 3.0}
    assert set(lip_vertex_error(truth, truth).values()) == {0.0}


def test_lips_are_the_models_in_millimetres():
    model = builtin_morphable(8)
    coefficients = np.random.default_rng(0).uniform(0, 1, (2, 64)).astype(np.float32)
    shape = np.asarray(mesh(model, jnp.asarray(coefficients)))
    expected = 10 * shape[:, np.asarray(model.lip_vertices)]
    np.testing.assert_allclose(lip_mesh(model, coefficients), expected, atol=1e-4)


def test_an_open_jaw_is_some_millimetres_off():
    model = builtin_morphable(8)
    jaw = np.zeros((1, 64), np.float32)
    jaw[0, model.names.index("jawOpen")] = 0.5
    found = lip_vertex_error(lip_mesh(model, jaw), lip_mesh(model, 0 * jaw))
    assert 2 < found["lip_vertex_distance_mm"] < 40
