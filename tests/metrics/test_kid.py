"""The kernel distance against a double loop over frames, and where it is known."""

import numpy as np
import pytest

from reta_jax.metrics import kid
from reta_jax.metrics.kid import couples, drawn_distances, kernel_distance, kernel_sums

CLIPS = (3, 1, 4)  # frames of each


def features(seed, clips=CLIPS, width=6, spread=1.0):
    random = np.random.default_rng(seed)
    return [spread * random.standard_normal((frames, width)) for frames in clips]


def held(x, y):
    return couples(x, y, kernel_sums(y, y))


def by_loop(x, y, times=None):
    """1,000 times the mean of h over i != j, both copied as often as their clip is drawn.

    Copies of one clip are not held against each other.
    """
    frames = [(clip, i) for clip, one in enumerate(x) for i in range(len(one))]
    times = np.ones(len(x), int) if times is None else times
    kernel = lambda a, b: (a @ b / len(a) + 1) ** 3
    total = count = 0
    for c, i in frames:
        for d, j in frames:
            if (c, i) == (d, j):
                continue
            weight = times[c] if c == d else times[c] * times[d]
            h = kernel(x[c][i], x[d][j]) + kernel(y[c][i], y[d][j])
            h -= kernel(x[c][i], y[d][j]) + kernel(y[c][i], x[d][j])
            total, count = total + weight * h, count + weight
    return 1000 * total / count


@pytest.mark.parametrize("block", [1, 4, 1_000])
def test_equals_the_double_loop_whatever_is_multiplied_at_once(block, monkeypatch):
    monkeypatch.setattr(kid, "BLOCK", block)
    x, y = features(0, spread=1.5), features(1)
    np.testing.assert_allclose(kernel_distance(held(x, y)), by_loop(x, y), rtol=1e-10)


def test_drawn_sets_equal_the_double_loop():
    x, y = features(0, (*CLIPS, 2), spread=1.5), features(1, (*CLIPS, 2))
    times = [(1, 1, 1, 1), (2, 0, 1, 0), (0, 3, 0, 1), (0, 0, 0, 4), (0, 1, 0, 0)]
    *found, of_one_frame = drawn_distances(held(x, y), np.array(times))
    np.testing.assert_allclose(found, [by_loop(x, y, each) for each in times[:-1]], rtol=1e-10)
    assert np.isnan(of_one_frame)


def test_some_of_the_clips_are_as_alone():
    x, y = features(0), features(1)
    alone = held([x[0], x[2]], [y[0], y[2]])
    np.testing.assert_allclose(
        kernel_distance(held(x, y).of([0, 2])), kernel_distance(alone), rtol=1e-10
    )


def test_halves_of_a_set_are_alike_and_another_distribution_is_not():
    first, second = features(0, [20] * 50, width=32), features(1, [20] * 50, width=32)
    wider = features(2, [20] * 50, width=32, spread=1.4)
    moved = [one + 0.4 for one in second]
    assert abs(kernel_distance(held(first, second))) < 5
    assert kernel_distance(held(wider, second)) > 20 and kernel_distance(held(moved, first)) > 20
    np.testing.assert_allclose(kernel_distance(held(second, second)), 0, atol=1e-9)


def test_it_is_unbiased():
    """The mean over many small draws from one distribution is 0: below 0 as often as above."""
    found = [
        kernel_distance(held(features(seed, [2, 2]), features(seed + 10_000, [2, 2])))
        for seed in range(2000)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert np.std(found) > 100


def test_one_frame_has_no_distance():
    assert np.isnan(kernel_distance(held(features(0, [1]), features(1, [1]))))
