"""What head and eyes do, on points whose ways are known."""

import numpy as np

from reta_jax.metrics.landmarks import (
    LIDS,
    STEADY,
    blinks_per_minute,
    compare_faces,
    eye_opening,
    head_motion,
    jitter,
    lip_landmark_error,
    shape_distance,
)


def face(opening: float = 0.3) -> np.ndarray:
    """Eyes of width 1, `opening` high, whose outer corners are 10 apart."""
    points = np.random.default_rng(0).uniform(0, 10, (68, 2))
    for left, lids in zip((0.0, 9.0), LIDS, strict=True):
        half = opening / 2
        points[list(lids)] = [
            (left, 0), (left + 0.3, half), (left + 0.7, half),
            (left + 1, 0), (left + 0.7, -half), (left + 0.3, -half),
        ]  # fmt: skip
    return points


def test_eye_opening_is_height_over_width():
    points = np.stack([face(0.3), face(0.1)])
    np.testing.assert_allclose(eye_opening(points), [0.3, 0.1], rtol=1e-4)
    np.testing.assert_allclose(eye_opening(7 * points + 3), [0.3, 0.1], rtol=1e-4)


def test_blinks_are_short_and_counted_once():
    opening = np.full(50, 0.3)
    opening[[10, 11, 12, 30, 31]] = 0.05  # two blinks in two seconds
    assert blinks_per_minute(opening) == 60
    resting = opening.copy()
    resting[10:25] = 0.05  # 0.6 s are no blink
    assert blinks_per_minute(resting) == 30
    assert blinks_per_minute(np.full(50, 0.3)) == 0 == blinks_per_minute(np.full(50, np.nan))
    opening[40:] = np.nan
    assert blinks_per_minute(opening) == 75


def test_head_motion_is_the_way_from_the_mean_place_in_eye_distances():
    sway = np.stack([face() + (x, 0.0) for x in (-2.0, 2.0) * 10])
    np.testing.assert_allclose(head_motion(sway), 0.2)
    talking = np.stack([face()] * 20)
    talking[:, 48:] += np.random.default_rng(1).normal(size=(20, 20, 2))
    assert head_motion(talking) < 1e-12 and not set(STEADY) & set(range(48, 68))


def test_jitter_is_acceleration():
    """Steady motion has none; a point that hops by 1 every frame and back accelerates by 2."""
    steady = np.arange(10.0)[:, None, None] * np.ones((1, 3, 2))
    assert jitter(steady) == 0 and np.isnan(jitter(steady[:2]))
    hopping = (np.arange(10) % 2)[:, None, None] * np.array([[[1.0, 0.0]]])
    np.testing.assert_allclose(jitter(hopping), 2)


def test_a_gap_in_which_no_face_is_seen_is_no_jolt():
    """The point moves steadily; where it was for 10 frames is not known."""
    points = np.arange(50.0)[:, None, None] * np.ones((1, 3, 2))
    points[10:20] = np.nan
    assert jitter(points) == 0
    points[::2] = np.nan
    assert np.isnan(jitter(points))


def test_a_face_that_trembles_is_told_from_one_that_moves_and_lips_that_speak():
    """The outer eye corners are 10 apart, and hop by 1: they accelerate by 2."""
    still = np.stack([face()] * 20)
    found = lambda points: compare_faces(points, None, 10.0, 1.0, False).get("face_jitter")
    moving = still + np.arange(20.0)[:, None, None]
    moving[:, 48:] += np.random.default_rng(1).normal(size=(20, 20, 2))
    trembling = still + (np.arange(20) % 2)[:, None, None] * (1.0, 0.0)
    np.testing.assert_allclose([found(moving), found(trembling)], [0, 0.2], atol=1e-12)
    moving[::2] = np.nan  # of no three frames on end
    assert found(moving) is None


def test_shape_is_compared_wherever_it_is():
    points = np.stack([face()] * 3)
    assert shape_distance(points, points + 5) < 1e-12
    moved = points.copy()
    moved[:, 0, 0] += 68.0
    np.testing.assert_allclose(shape_distance(moved, points), (67 + 67) / 68)


def test_the_worst_lip_point_counts_in_millimetres():
    """The outer corners are 10 apart, so a unit is 9 mm; the head's place does not matter."""
    truth = np.stack([face()] * 2)
    points = truth + 5
    points[0, 50] += (0.3, 0.4)
    points[0, 60] += (0.1, 0.0)
    points[0, 5] += 7  # no lip
    found = lip_landmark_error(points, truth)
    np.testing.assert_allclose(found["lip_landmark_distance_mm"], 4.5 / 2)
    np.testing.assert_allclose(found["lip_landmark_error_mm2"], 4.5**2 / 2)
