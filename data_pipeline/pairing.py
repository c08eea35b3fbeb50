"""Whom a sample stands next to: the cross-synthesis (EDS, section 3.3) swaps emotions between
neighbours, which teaches nothing where both feel alike and little where both are one person."""

import collections

import numpy as np
from jaxtyping import Int

from data_pipeline.emotions import UNKNOWN_EMOTION

_RESTARTS = 4


def pair_neighbours(
    emotion: Int[np.ndarray, " b"], identity: Int[np.ndarray, " b"], share: int
) -> Int[np.ndarray, " b"]:
    """An order of a batch in which neighbours differ in emotion and, if possible, in identity.

    Neighbours are rows i and i + 1 of each stretch of `share` rows, and its last and first row:
    what one device holds. Unknown emotions count as different from each other, so that a batch
    without labels is ordered by identity alone. The same batch always gets the same order.

    Args:
        emotion: of each sample, -1 if unknown.
        identity: number of each sample's speaker.
        share: rows on one device; divides the batch.
    """
    known = emotion != UNKNOWN_EMOTION
    alike = known[:, None] & (emotion[:, None] == emotion)
    # One pair of equal emotions is worse than every pair of equal identities.
    cost = (len(emotion) + 1) * alike + (identity[:, None] == identity)
    labels = np.where(known, emotion, -1 - identity)  # An unknown one is dealt as its speaker's.
    order = _swap(_deal(labels, share), cost, share)
    rng = np.random.default_rng(0)
    for _ in range(_RESTARTS):  # Where conflicts are left, there may be fewer from another start.
        if _sum(order, cost, share) == 0:
            break
        other = _swap(rng.permutation(order), cost, share)
        order = min(order, other, key=lambda order: _sum(order, cost, share))
    return order


def _deal(labels: Int[np.ndarray, " b"], share: int) -> Int[np.ndarray, " b"]:
    """Spreads equal labels over the shares, and within each to every other row."""
    shares = len(labels) // share
    by_label = _frequent_first(np.arange(len(labels)), labels)
    rows = np.empty((shares, share), int)
    turns = [*range(0, share, 2), *range(1, share, 2)]
    for number in range(shares):
        rows[number, turns] = _frequent_first(by_label[number::shares], labels)
    return rows.reshape(-1)


def _frequent_first(
    samples: Int[np.ndarray, " n"], labels: Int[np.ndarray, " b"]
) -> Int[np.ndarray, " n"]:
    counts = collections.Counter(labels[samples].tolist())
    return np.array(sorted(samples, key=lambda i: (-counts[labels[i]], labels[i], i)))


def _swap(
    order: Int[np.ndarray, " b"], cost: Int[np.ndarray, "b b"], share: int
) -> Int[np.ndarray, " b"]:
    """Swaps two samples at a time as long as that lowers the sum of the neighbours' costs."""
    rows, following = np.arange(len(order)), _following(len(order), share)
    better = True
    while better:
        better = False
        pairs = cost[order, order[following]]
        for row in np.flatnonzero(pairs + pairs[np.argsort(following)]):
            trials = np.tile(order, (len(order), 1))  # Trial i has the samples of `row`, i swapped.
            trials[rows, row], trials[rows, rows] = order, order[row]
            sums = _sum(trials, cost, share)
            if sums.min() < _sum(order, cost, share):
                order, better = trials[sums.argmin()], True
    return order


def _sum(
    orders: Int[np.ndarray, "*n b"], cost: Int[np.ndarray, "b b"], share: int
) -> Int[np.ndarray, "*n"]:
    return cost[orders, orders[..., _following(len(cost), share)]].sum(axis=-1)


def _following(batch: int, share: int) -> Int[np.ndarray, " b"]:
    rows = np.arange(batch)
    return rows // share * share + (rows + 1) % share
