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
BLOCK = 1_000  # frames in one matrix product: of fewer it is slower, of more no faster


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

    A clip has as many frames in `a` as in `b`. Of a set with itself, half of the pairs are looked
    at: the others are the same.
    """
    sums = np.zeros((len(a), len(b)))
    clips = max(1, BLOCK // max(map(len, a)))
    blocks = [slice(start, start + clips) for start in range(0, len(a), clips)]
    for i, rows in enumerate(blocks):
        left, row_starts = _stacked(a[rows])
        for j, columns in enumerate(blocks):
            if a is b and j < i:
                sums[rows, columns] = sums[columns, rows].T
                continue
            right, column_starts = _stacked(b[columns])
            kernel = (left @ right.T / right.shape[1] + 1) ** 3
            if i == j:
                np.fill_diagonal(kernel, 0)
            by_clip = np.add.reduceat(kernel, row_starts, axis=0)
            sums[rows, columns] = np.add.reduceat(by_clip, column_starts, axis=1)
    return sums


def _stacked(
    clips: Sequence[Float[np.ndarray, "_ d"]],
) -> tuple[Float64[np.ndarray, "n d"], Int[np.ndarray, " c"]]:
    """The frames of all clips, and where each clip's begin."""
    return np.concatenate(clips).astype(np.float64), np.cumsum([0, *map(len, clips[:-1])])


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


def kernel_distance(of: Couples) -> float:
    """KID times 1,000; NaN where there are fewer than two frames."""
    (found,) = drawn_distances(of, np.ones((1, len(of.sums)), int))
    return float(found)


def drawn_distances(
    of: Couples, times: Int[np.ndarray, "draws c"]
) -> Float64[np.ndarray, " draws"]:
    """KIDs of sets of clips, for the bootstrap; NaN where one has fewer than two frames.

    Args:
      times: how often each clip is drawn. Copies of a clip are held against other clips, and each
        against itself alone: two copies share their frames.
    """
    sums, counts = (_drawn_sums(x, times.astype(np.float64)) for x in of)
    return SCALE * np.divide(sums, counts, out=np.full(len(times), np.nan), where=counts > 0)


def _drawn_sums(
    by_clips: Float64[np.ndarray, "c c"], times: Float64[np.ndarray, "draws c"]
) -> Float64[np.ndarray, " draws"]:
    """Sums over clips a ≠ b of t_a t_b x_ab, and over a of t_a x_aa: of all draws, one product."""
    own = np.diag(by_clips)
    between = times @ (by_clips - np.diag(own))
    return np.einsum("dc,dc->d", between, times) + times @ own
