"""Means, groups and bootstrap intervals of figures."""

import numpy as np

from reta_jax.metrics.statistics import (
    NAMED,
    grouped,
    interval_of,
    intervals,
    mean_figures,
    missing_counts,
)


def test_means_are_over_the_clips_that_have_the_figure():
    rows = [{"psnr": 20.0}, {"psnr": 30.0, "emotion_accuracy": 1.0}]
    assert mean_figures(rows) == {"psnr": 25.0, "emotion_accuracy": 1.0}


def test_late_and_early_do_not_cancel():
    rows = [{"sync_offset": 12.0}, {"sync_offset": -12.0}]
    assert mean_figures(rows) == {"sync_offset": 12.0}
    assert intervals(rows) == {"sync_offset": [12.0, 12.0]}
    assert mean_figures([{"head_motion": -1.0}]) == {"head_motion": -1.0}


def test_there_is_no_mean_emotion():
    rows = [{NAMED: 3.0}, {}]
    assert mean_figures(rows) == missing_counts(rows, 2) == intervals(rows) == {}


def test_a_figure_of_the_whole_set_is_drawn_like_a_mean():
    values = np.random.default_rng(0).normal(20, 2, 30)
    mean = lambda times: float(times @ values / times.sum())
    rows = [{"psnr": float(value)} for value in values]
    np.testing.assert_allclose(interval_of(mean, 30), intervals(rows)["psnr"])
    assert interval_of(lambda times: np.nan, 30) is None


def test_figures_that_some_clips_lack_say_of_how_many_they_are():
    rows = [{"psnr": 20.0}, {"psnr": 30.0, "emotion_accuracy": 1.0}]
    assert missing_counts(rows, 2) == {"emotion_accuracy": 1}
    assert missing_counts(rows, 3) == {"psnr": 2, "emotion_accuracy": 1}


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
