"""Means of figures over clips, and how sure they are."""

import collections
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

Figures = dict[str, float]
DRAWS = 2_000
SIGNED = ("sync_offset", "sync_offset_whole")  # late and early must not cancel: of their size
NAMED = "emotion_named"  # an index into EMOTIONS, of which there is no mean


def mean_figures(rows: Sequence[Figures]) -> Figures:
    """Mean of each figure over the clips that have it; of offsets, of their size."""
    found = [averageable(row) for row in rows]
    names = dict.fromkeys(name for row in found for name in row)
    return {name: float(np.mean([row[name] for row in found if name in row])) for name in names}


def missing_counts(rows: Sequence[Figures], clips: int) -> dict[str, int]:
    """Of how many clips each figure is, where some of all the clips lack it."""
    counts = collections.Counter(name for row in rows for name in averageable(row))
    return {name: count for name, count in counts.items() if count < clips}


def averageable(row: Figures) -> Figures:
    """The figures as they go into a mean: offsets by their size, and no emotion's number."""
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


def resampled(people: Sequence[str], seed: int = 0) -> Int[np.ndarray, "draws clips"]:
    """How often each clip is in sets of as many people, drawn with replacement (bootstrap).

    People are drawn, with all their clips, for clips of one are alike: drawn one by one, they would
    be taken for more than they are. The same sets at every call.

    Args:
      people: who is in each clip; one of whom nothing is known ("") is a person of its own.
    """
    _, whose = np.unique(_by_name(people), return_inverse=True)
    count = whose.max() + 1
    random = np.random.default_rng(seed)
    return random.multinomial(count, np.full(count, 1 / count), size=DRAWS)[:, whose]


def _by_name(people: Sequence[str]) -> list[str]:
    return [f"known {name}" if name else f"clip {i}" for i, name in enumerate(people)]


def intervals(
    rows: Sequence[Figures], people: Sequence[str], seed: int = 0
) -> dict[str, list[float]]:
    """In which the mean of each figure lies at 95 %, by people drawn from these (`resampled`).

    The sets drawn are the same ones for every figure and every row. Of one person there is none.
    """
    times = resampled(people, seed)
    found = {}
    for name in mean_figures(rows):
        values = np.array([averageable(row).get(name, np.nan) for row in rows])
        there = np.isfinite(values)
        of = [person for person, is_there in zip(people, there, strict=True) if is_there]
        drawn = times[:, there]
        drawn = drawn[drawn.any(1)]
        if interval := _interval(drawn @ values[there] / drawn.sum(1), of):
            found[name] = interval
    return found


def interval_of(
    figures: Callable[[Int[np.ndarray, "draws clips"]], Float[np.ndarray, " draws"]],
    people: Sequence[str],
    seed: int = 0,
) -> list[float] | None:
    """`intervals` of a figure that is of a whole set of clips, not a mean over them.

    None where it is known of none of the sets, or of one person's clips alone.

    Args:
      figures: of all sets, of how often each clip is in them; NaN where such a set has none.
    """
    found = figures(resampled(people, seed))
    return _interval(found[np.isfinite(found)], people)


def _interval(found: Float[np.ndarray, " draws"], people: Sequence[str]) -> list[float] | None:
    """Of the figures of drawn sets, wider where few people were drawn from.

    Percentiles of few people's sets are too narrow: those here are as far out as Student's t says
    (Hesterberg 2015, "What teachers should know about the bootstrap", expanded percentiles).
    """
    count = len(set(_by_name(people)))
    if count < 2 or not found.size:
        return None
    tail = stats.norm.cdf(-np.sqrt(count / (count - 1)) * stats.t.ppf(0.975, count - 1))
    return np.percentile(found, [100 * tail, 100 * (1 - tail)]).tolist()
