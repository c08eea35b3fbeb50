"""The order for EDS: held against every possible order of small batches."""

import itertools

import numpy as np
import pytest

from data_pipeline.pairing import pair_neighbours

ORDERS = np.array(list(itertools.permutations(range(6))))


def conflicts(order, emotion, identity, share):
    """Pairs of equal emotions and pairs of equal identities, of each of the orders given."""
    pairs = []
    for values in (emotion, identity):
        rows = values[order].reshape(*order.shape[:-1], -1, share)
        equal = (rows == np.roll(rows, 1, axis=-1)) & (rows != -1)
        pairs.append(equal.sum(axis=(-2, -1)))
    return pairs


@pytest.mark.parametrize("share", [2, 3, 6])
def test_neighbours_are_as_different_as_any_order_makes_them(share):
    rng = np.random.default_rng(share)
    worse = 0
    for _ in range(100):
        emotion = rng.integers(-1, rng.integers(1, 5), 6)
        identity = rng.integers(0, rng.integers(1, 7), 6)
        order = pair_neighbours(emotion, identity, share)
        assert sorted(order) == list(range(6))
        emotions, identities = conflicts(ORDERS, emotion, identity, share)
        best = emotions.min()
        alike, same = conflicts(order, emotion, identity, share)
        assert alike == best
        worse += same > identities[emotions == best].min()
    assert worse == 0


@pytest.mark.parametrize("share", [2, 4, 32])
def test_a_batch_of_training_has_no_conflict(share):
    rng = np.random.default_rng(0)
    emotion, identity = rng.integers(0, 8, 32), rng.integers(0, 20, 32)
    order = pair_neighbours(emotion, identity, share)
    assert conflicts(order, emotion, identity, share) == [0, 0]
    np.testing.assert_array_equal(order, pair_neighbours(emotion, identity, share))


def test_without_labels_identities_are_apart():
    identity = np.array([3, 3, 3, 3, 1, 1, 2, 0])
    order = pair_neighbours(np.full(8, -1), identity, 8)
    assert conflicts(order, np.full(8, -1), identity, 8) == [0, 0]


def test_what_cannot_be_parted_stays():
    assert sorted(pair_neighbours(np.zeros(4, int), np.zeros(4, int), 4)) == [0, 1, 2, 3]
    assert pair_neighbours(np.zeros(2, int), np.zeros(2, int), 1).tolist() == [0, 1]


def test_an_order_stays_what_it_was():
    """Else a run that a later version goes on with would see other pairs."""
    emotion = np.array([0, 0, 0, 0, 0, 1, 1, -1, -1, 2, 2, 3])
    identity = np.array([0, 0, 1, 1, 2, 0, 1, 0, 0, 3, 3, 1])
    assert pair_neighbours(emotion, identity, 6).tolist() == [
        *(7, 2, 5, 4, 8, 11),
        *(0, 6, 1, 9, 3, 10),
    ]


@pytest.mark.parametrize("share", [16, 4096])
@pytest.mark.parametrize("angry", [0, 0.7])
def test_a_large_batch_is_parted_as_far_as_it_can_be(share, angry):
    """A table of all pairs of 4,096 samples, and one a row, would take minutes."""
    rng = np.random.default_rng(0)
    emotion, identity = rng.integers(0, 8, 4096), rng.integers(0, 30, 4096)
    emotion[rng.random(4096) < angry] = 0
    unavoidable = max(0, 2 * np.count_nonzero(emotion == 0) - 4096)
    assert bool(unavoidable) == bool(angry)
    order = pair_neighbours(emotion, identity, share)
    assert sorted(order) == list(range(4096))
    assert conflicts(order, emotion, identity, share) == [unavoidable, 0]
