"""The kernel distance of features (KID, Bińkowski et al. 2018), for any network's features.

The squared maximum mean discrepancy under the kernel (x·y / d + 1)^3. Unlike a Fréchet distance it
does not fall with the number of images, and needs no more of them than there are features.

Frame i of a row and of the truth are one moment, so the estimate is that for paired samples (their
"u-statistic", Gretton et al. 2012, equation 4): the mean over i ≠ j of

    h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j)

which is unbiased, exactly 0 of a copy, and below 0 as often as above where there is no difference.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

SCALE = 1e3  # KID is given times 1,000, as the field's tables do


class Couples(NamedTuple):
    """Sums of h_ij, and how many they are of, by the clips c that frames i and j are of."""

    sums: Float64[np.ndarray, "c c"]
    counts: Float64[np.ndarray, "c c"]

    def of(self, clips: Sequence[int]) -> "Couples":
        """Of some of the clips."""
        return Couples(*(x[np.ix_(clips, clips)] for x in self))


def kernel_sums(
    a: Sequence[Float[np.ndarray, "_ d"]], b: Sequence[Float[np.ndarray, "_ d"]]
) -> Float64[np.ndarray, "c c"]:
    """Sums of k over frames i of a's clip and j of b's, but for i = j of one clip.

    A clip has as many frames in `a` as in `b`.
    """
    others = np.concatenate(b).astype(np.float64)
    starts = np.cumsum([0, *map(len, b[:-1])])
    sums = np.zeros((len(a), len(b)))
    for clip, features in enumerate(a):  # a clip's rows at a time: never all frames squared
        kernel = (features.astype(np.float64) @ others.T / others.shape[1] + 1) ** 3
        same = np.arange(len(features))
        kernel[same, starts[clip] + same] = 0
        sums[clip] = np.add.reduceat(kernel.sum(0), starts)
    return sums


def couples(
    features: Sequence[Float[np.ndarray, "_ d"]],
    truth: Sequence[Float[np.ndarray, "_ d"]],
    truth_sums: Float64[np.ndarray, "c c"],
) -> Couples:
    """The couples of a row and the truth, both by clip, each with a frame or more.

    Args:
      truth_sums: `kernel_sums` of the truth with itself, the same for every row.
    """
    crossed = kernel_sums(features, truth)
    frames = np.array([len(one) for one in truth], np.float64)
    sums = kernel_sums(features, features) + truth_sums - crossed - crossed.T
    return Couples(sums, np.outer(frames, frames) - np.diag(frames))


def kernel_distance(of: Couples, times: Int[np.ndarray, " c"] | None = None) -> float:
    """KID times 1,000; NaN where there are fewer than two frames.

    Args:
      times: how often each clip is drawn, for the bootstrap. Copies of a clip are held against
        other clips, and each against itself alone: two copies share their frames.
    """
    times = np.ones(len(of.sums), int) if times is None else times
    weights = np.outer(times, times)
    np.fill_diagonal(weights, times)
    count = (weights * of.counts).sum()
    return float(SCALE * (weights * of.sums).sum() / count) if count else np.nan
