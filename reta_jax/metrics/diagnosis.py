"""What is to be known of a judge before its word counts: chance, calibration, pairs told apart."""

import numpy as np
from jaxtyping import Bool, Float, Int

CHANCE = float(np.log(2))  # binary cross-entropy of a coin
BINS = 15


def sync_plateau(
    train_loss: float, held_out_loss: float, steps: int, chance: float = CHANCE
) -> str | None:
    """A sentence if a sync network knows nothing of pairs it has not seen; None if it does.

    Its loss stays at chance, of a coin ln 2 = 0.693, for long before it falls, if it ever does.
    """
    if held_out_loss < chance - 0.02:
        return None
    if train_loss < chance - 0.1:
        return (
            f"the sync loss is {train_loss:.2f} on its own clips and {held_out_loss:.2f} on new "
            f"people, where chance is {chance:.2f}: it learns clips by heart; give it more people."
        )
    return (
        f"the sync loss is {held_out_loss:.2f} after {steps} steps, chance is {chance:.2f}: lips "
        "and voice have not met yet; train on, with more clips or a smaller rate, and look whether "
        "sound and picture are in step and the box shows the mouth (python -m "
        "data_pipeline.inspect)."
    )


def pairs_told_apart(
    cosine: Float[np.ndarray, " n"], is_in_sync: Bool[np.ndarray, " n"]
) -> dict[str, float]:
    """Shares of pairs in step that are accepted and of shifted ones refused, at cosine 1/2.

    "auc" is the share of (in step, shifted) couples in which the one in step scores higher; of
    equal ones half count. Chance is 0.5. Nothing where all pairs are of one kind.
    """
    own, other = cosine[is_in_sync], cosine[~is_in_sync]
    if not (own.size and other.size):
        return {}
    difference = own[:, None] - other[None, :]
    return {
        "in_sync_accepted": float((own > 0.5).mean()),
        "shifted_refused": float((other <= 0.5).mean()),
        "auc": float((difference > 0).mean() + 0.5 * (difference == 0).mean()),
    }


def moments_told_apart(closeness: Float[np.ndarray, "n m"]) -> dict[str, float]:
    """Of n clips, how near their lips are to m moments of their voice, the first in step.

    "own_moment_nearest" is the share of clips whose own moment is the nearest of all m; chance is
    1/m. "own_moment_nearer" is the share of (own, shifted) couples of one clip in which the own is
    the nearer; of equal ones half count. Chance is 0.5.
    """
    own, shifted = closeness[:, :1], closeness[:, 1:]
    nearer = (own > shifted).mean() + 0.5 * (own == shifted).mean()
    return {
        "own_moment_nearest": float((own > shifted).all(1).mean()),
        "own_moment_nearer": float(nearer),
    }


def calibration_error(
    probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]
) -> float:
    """Expected calibration error: sum_b n_b / n |accuracy_b - mean confidence_b|.

    Over 15 equal bins b of the confidence, the probability of the class that is named.
    """
    confidence = probabilities.max(1)
    is_right = probabilities.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        abs((is_right[bins == b] - confidence[bins == b]).sum()) for b in range(BINS)
    ]  # n_b cancels
    return float(sum(gaps) / len(labels))
