"""What is said of judges before they judge."""

import numpy as np
import pytest

from reta_jax.metrics.diagnosis import (
    calibration_error,
    moments_told_apart,
    pairs_told_apart,
    sync_plateau,
)


def test_a_sync_loss_at_chance_is_explained():
    assert sync_plateau(0.4, 0.5, 4000) is None
    stuck = sync_plateau(0.691, 0.695, 4000)
    assert "4000 steps" in stuck and "chance is 0.69" in stuck and "have not met" in stuck
    assert "by heart" in sync_plateau(0.2, 0.9, 4000)


def test_pairs_told_apart():
    cosine = np.array([0.9, 0.6, 0.4, 0.1, 0.5, 0.7])
    is_in_sync = np.array([True, True, True, False, False, False])
    found = pairs_told_apart(cosine, is_in_sync)
    assert found["in_sync_accepted"] == pytest.approx(2 / 3)
    assert found["shifted_refused"] == pytest.approx(2 / 3)
    assert found["auc"] == pytest.approx(6 / 9)
    assert pairs_told_apart(np.full(6, 0.5), is_in_sync)["auc"] == 0.5


def test_moments_are_told_apart_clip_by_clip():
    """Own moments first: nearest of all; second of three; level with one of two."""
    closeness = np.array([[-1.0, -2.0, -3.0], [-2.0, -1.0, -3.0], [-2.0, -2.0, -3.0]])
    assert moments_told_apart(closeness) == {
        "own_moment_nearest": pytest.approx(1 / 3),
        "own_moment_nearer": pytest.approx((2 + 1 + 1.5) / 6),
    }


def test_calibration_error_is_the_gap_of_confidence_and_accuracy():
    sure = np.array([[0.9, 0.1]] * 10)
    assert calibration_error(sure, np.r_[np.zeros(9, int), 1]) == pytest.approx(0.0, abs=1e-9)
    assert calibration_error(sure, np.r_[np.zeros(5, int), np.ones(5, int)]) == pytest.approx(0.4)
    mixed = np.concatenate([sure, np.array([[0.6, 0.4]] * 10)])
    assert calibration_error(mixed, np.zeros(20, int)) == pytest.approx((0.1 + 0.4) / 2)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0
