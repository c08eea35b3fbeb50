"""Whom a sample stands next to: the cross-synthesis (EDS, section 3.3) swaps emotions between
neighbours, which teaches nothing where both feel alike and little where both are one person."""

import collections
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from data_pipeline.emotions import UNKNOWN_EMOTION

Samples = Int[np.ndarray, "..."]
Cost = Callable[[Samples, Samples], Samples]  # of samples that are neighbours

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

    def cost(one: Samples, other: Samples) -> Samples:
        alike = known[one] & (emotion[one] == emotion[other])
        # One pair of equal emotions is worse than every pair of equal identities.
        return (len(emotion) + 1) * alike + (identity[one] == identity[other])

    batch = len(emotion)
    least = (batch + 1) * _unavoidable(emotion[known], batch) + _unavoidable(identity, batch)
    labels = np.where(known, emotion, -1 - identity)  # An unknown one is dealt as its speaker's.
    order, total = _swap(_deal(labels, share), cost, share, least)
    rng = np.random.default_rng(0)
    for _ in range(_RESTARTS):  # Where conflicts are left, there may be fewer from another start.
        if total <= least:
            break
        other, its_total = _swap(rng.permutation(order), cost, share, least)
        if its_total < total:
            order, total = other, its_total
    return order


def _unavoidable(labels: Int[np.ndarray, " n"], batch: int) -> int:
    """Pairs of one label that every order has: m samples of one have 2 m - `batch` at least."""
    _, counts = np.unique(labels, return_counts=True)
    return max(0, 2 * int(counts.max(initial=0)) - batch)


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
    order: Int[np.ndarray, " b"], cost: Cost, share: int, least: int
) -> tuple[Int[np.ndarray, " b"], int]:
    """Swaps two samples at a time as long as that lowers the sum of the neighbours' costs.

    Returns:
        the order and its sum, which cannot be below `least`.
    """
    order, before, following = order.copy(), *_neighbours(len(order), share)
    total, last = int(cost(order, order[following]).sum()), math.inf
    while least < total < last:
        last, pairs = total, cost(order, order[following])
        for row in np.flatnonzero(pairs + pairs[before]):
            changes = _changes(order, row, cost, before, following)
            other = changes.argmin()
            if changes[other] < 0:
                order[[row, other]] = order[[other, row]]
                total += int(changes[other])
            if total <= least:
                break
    return order, total


def _changes(
    order: Int[np.ndarray, " b"],
    row: int,
    cost: Cost,
    before: Int[np.ndarray, " b"],
    following: Int[np.ndarray, " b"],
) -> Int[np.ndarray, " b"]:
    """What swapping the samples of `row` and of each row adds to the sum of the costs."""
    others = np.arange(len(order))
    # Rows at which the touched pairs begin: those of `row`, and those of the other.
    begins = np.stack(np.broadcast_arrays(before[row], row, before, others))
    ends = following[begins]

    def swapped(rows: Int[np.ndarray, "4 b"]) -> Int[np.ndarray, "4 b"]:
        return np.where(rows == row, order, np.where(rows == others, order[row], order[rows]))

    changes = cost(swapped(begins), swapped(ends)) - cost(order[begins], order[ends])
    changes[2:][(begins[2:] == row) | (begins[2:] == before[row])] = 0  # Of both: counted already.
    return changes.sum(axis=0)


def _neighbours(batch: int, share: int) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """The rows before and after each row."""
    rows = np.arange(batch)
    first = rows // share * share
    return first + (rows - 1) % share, first + (rows + 1) % share
