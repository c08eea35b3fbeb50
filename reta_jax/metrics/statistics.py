"""Means of figures over clips, and how sure they are."""

import collections
from collections.abc import Sequence

import numpy as np

Figures = dict[str, float]
DRAWS = 1_000
SIGNED = ("sync_offset", "sync_offset_whole")  # late and early must not cancel: of their size


def mean_figures(rows: Sequence[Figures]) -> Figures:
    """Mean of each figure over the clips that have it; of offsets, of their size."""
    names = dict.fromkeys(name for row in rows for name in row)
    sized = [_sized(row) for row in rows]
    return {name: float(np.mean([row[name] for row in sized if name in row])) for name in names}


def missing_counts(rows: Sequence[Figures], clips: int) -> dict[str, int]:
    """Of how many clips each figure is, where some of all the clips lack it."""
    counts = collections.Counter(name for row in rows for name in row)
    return {name: count for name, count in counts.items() if count < clips}


def _sized(row: Figures) -> Figures:
    return {name: abs(value) if name in SIGNED else value for name, value in row.items()}


def grouped(rows: Sequence[Figures], groups: Sequence[str]) -> dict[str, Figures]:
    """Mean figures of each group that has a name, and how many clips it has."""
    found = {}
    for name in sorted(set(groups) - {""}):
        chosen = [row for row, group in zip(rows, groups, strict=True) if group == name]
        found[name] = {"clips": float(len(chosen))} | mean_figures(chosen)
    return found


def intervals(rows: Sequence[Figures], seed: int = 0) -> dict[str, list[float]]:
    """Where the mean of each figure lies in 95 % of the sets of clips drawn from these (bootstrap).

    Clips are drawn with replacement, the same ones for every figure and every row.
    """
    chosen = np.random.default_rng(seed).integers(len(rows), size=(DRAWS, len(rows)))
    found = {}
    for name in mean_figures(rows):
        values = np.array([_sized(row).get(name, np.nan) for row in rows])
        has_one = np.isfinite(values[chosen]).any(1)
        means = np.nanmean(values[chosen[has_one]], axis=1)
        found[name] = np.percentile(means, [2.5, 97.5]).tolist()
    return found
