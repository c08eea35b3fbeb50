"""Means, groups and bootstrap intervals of figures."""

import numpy as np
import pytest

from reta_jax.metrics.statistics import (
    NAMED,
    grouped,
    interval_of,
    intervals,
    mean_figures,
    missing_counts,
    resampled,
)


def test_means_are_over_the_clips_that_have_the_figure():
    rows = [{"psnr": 20.0}, {"psnr": 30.0, "emotion_accuracy": 1.0}]
    assert mean_figures(rows) == {"psnr": 25.0, "emotion_accuracy": 1.0}


def test_late_and_early_do_not_cancel():
    rows = [{"sync_offset": 12.0}, {"sync_offset": -12.0}]
    assert mean_figures(rows) == {"sync_offset": 12.0}
    assert intervals(rows, ["", ""]) == {"sync_offset": [12.0, 12.0]}
    assert mean_figures([{"head_motion": -1.0}]) == {"head_motion": -1.0}


def test_there_is_no_mean_emotion():
    rows = [{NAMED: 3.0}, {}]
    assert mean_figures(rows) == missing_counts(rows, 2) == intervals(rows, ["", ""]) == {}


def test_a_figure_of_the_whole_set_is_drawn_like_a_mean():
    values = np.random.default_rng(0).normal(20, 2, 30)
    mean = lambda times: times @ values / times.sum(1)
    rows = [{"psnr": float(value)} for value in values]
    people = [str(i // 3) for i in range(30)]
    np.testing.assert_allclose(interval_of(mean, people), intervals(rows, people)["psnr"])
    assert interval_of(lambda times: np.full(len(times), np.nan), people) is None
    assert interval_of(mean, ["one"] * 30) is None


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
        {"psnr": float(x)} | ({"emotion_accuracy": 1.0} if i < 2 else {})
        for i, x in enumerate(values)
    ]
    found = intervals(rows, [""] * 400)
    expected = values.mean() + 1.96 * values.std() / 20 * np.array([-1, 1])
    np.testing.assert_allclose(found["psnr"], expected, atol=0.05)
    assert found["emotion_accuracy"] == [1.0, 1.0]


def test_a_person_is_drawn_with_all_clips():
    people = ["ann", "", "bob", "ann", ""]
    times = resampled(people)
    np.testing.assert_array_equal(times[:, 0], times[:, 3])
    assert (times[:, [0, 1, 2, 4]].sum(1) == 4).all() and times.max() > 1
    assert (times[:, 1] != times[:, 4]).any()  # two of whom nothing is known are not one


def test_of_one_persons_clips_there_is_no_interval():
    rows = [{"psnr": 20.0}, {"psnr": 30.0}, {"ssim": 0.5, "psnr": 25.0}]
    assert intervals(rows, ["ann"] * 3) == {}
    assert set(intervals(rows, ["ann", "ann", "bob"])) == {"psnr"}


@pytest.mark.parametrize(("count", "each"), [(7, 4), (28, 1), (9, 2)])
def test_intervals_hold_the_truth_as_often_as_they_say(count, each):
    """Most of the variance is between people: drawn clip by clip, 7 of 4 would hold it in 70 %."""
    random, held = np.random.default_rng(1), 0
    people = np.repeat([f"person {i}" for i in range(count)], each).tolist()
    for _ in range(200):
        theirs = np.repeat(random.normal(0, 0.9, count), each)
        values = theirs + random.normal(0, 0.45, count * each)
        low, high = intervals([{"psnr": float(x)} for x in values], people)["psnr"]
        held += low < 0 < high
    assert 0.9 <= held / 200 <= 0.99
