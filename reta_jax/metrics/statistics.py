"""Means of figures over clips, and how sure they are."""

import collections
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

Figures = dict[str, float]
DRAWS = 1_000
SIGNED = ("sync_offset", "sync_offset_whole")  # late and early must not cancel: of their size
NAMED = "emotion_named"  # an index into EMOTIONS, of which there is no mean


def mean_figures(rows: Sequence[Figures]) -> Figures:
    """Mean of each figure over the clips that have it; of offsets, of their size."""
    sized = [_sized(row) for row in rows]
    names = dict.fromkeys(name for row in sized for name in row)
    return {name: float(np.mean([row[name] for row in sized if name in row])) for name in names}


def missing_counts(rows: Sequence[Figures], clips: int) -> dict[str, int]:
    """Of how many clips each figure is, where some of all the clips lack it."""
    counts = collections.Counter(name for row in rows for name in _sized(row))
    return {name: count for name, count in counts.items() if count < clips}


def _sized(row: Figures) -> Figures:
    """What there is a mean of."""
    return {
        name: abs(value) if name in SIGNED else value
        for name, value in row.items()
        if name != NAMED
    }


def grouped(rows: Sequence[Figures], groups: Sequence[str]) -> dict[str, Figures]:
    """Mean figures of each group that has a name, and how many clips it has."""
    found = {}
    for name in sorted(set(groups) - {""}):
        chosen = [row for row, group in zip(rows, groups, strict=True) if group == name]
        found[name] = {"clips": float(len(chosen))} | mean_figures(chosen)
    return found


def draws(clips: int, seed: int = 0) -> Int[np.ndarray, "draws clips"]:
    """Sets of as many clips, drawn with replacement (bootstrap): the same ones at every call."""
    return np.random.default_rng(seed).integers(clips, size=(DRAWS, clips))


def intervals(rows: Sequence[Figures], seed: int = 0) -> dict[str, list[float]]:
    """Where the mean of each figure lies in 95 % of the sets of clips drawn from these.

    The clips drawn are the same ones for every figure and every row.
    """
    chosen = draws(len(rows), seed)
    found = {}
    for name in mean_figures(rows):
        values = np.array([_sized(row).get(name, np.nan) for row in rows])
        has_one = np.isfinite(values[chosen]).any(1)
        means = np.nanmean(values[chosen[has_one]], axis=1)
        found[name] = np.percentile(means, [2.5, 97.5]).tolist()
    return found


def interval_of(
    figure: Callable[[Int[np.ndarray, " clips"]], float], clips: int, seed: int = 0
) -> list[float] | None:
    """`intervals` of a figure that is of a whole set of clips, not a mean over them.

    None where it is known of none of the sets.

    Args:
      figure: takes how often each clip is drawn; NaN where such a set has no figure.
    """
    found = np.array([figure(np.bincount(drawn, minlength=clips)) for drawn in draws(clips, seed)])
    known = found[np.isfinite(found)]
    return np.percentile(known, [2.5, 97.5]).tolist() if known.size else None
