"""Means, groups and bootstrap intervals of figures."""

import numpy as np

from reta_jax.metrics.statistics import grouped, intervals, mean_figures


def test_means_are_over_the_clips_that_have_the_figure():
    rows = [{"psnr": 20.0}, {"psnr": 30.0, "emotion_accuracy": 1.0}]
    assert mean_figures(rows) == {"psnr": 25.0, "emotion_accuracy": 1.0}


def test_groups_count_their_clips_and_nobody_is_none():
    rows = [{"psnr": 20.0}, {"psnr": 30.0}, {"psnr": 50.0}]
    assert grouped(rows, ["sad", "", "sad"]) == {"sad": {"clips": 2.0, "psnr": 35.0}}


def test_intervals_shrink_with_clips_and_hold_the_mean():
    """Of a normal figure they are 1.96 standard errors either side; some clips lack one."""
    values = np.random.default_rng(0).normal(20, 2, 400)
    rows = [
        {"psnr": float(x)} | ({"emotion_accuracy": 1.0} if i == 0 else {})
        for i, x in enumerate(values)
    ]
    found = intervals(rows)
    expected = values.mean() + 1.96 * values.std() / 20 * np.array([-1, 1])
    np.testing.assert_allclose(found["psnr"], expected, atol=0.05)
    assert found["emotion_accuracy"] == [1.0, 1.0]
