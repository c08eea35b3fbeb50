"""Whether figures rank what is known: in which of them another row is ahead of the truth."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from reta_jax.metrics.statistics import Figures, averageable
from reta_jax.metrics.tables import better
from reta_jax.report import decimals

# A lead is of more than this share of what the known rows span, and of more than so many standard
# errors over the clips (a single clip has none).
SPAN, ERRORS = 0.1, 2.0
# A face that keeps still is seen more often than a true one: a lead says nothing of the judge.
STILL = ("faces_seen",)
# Of which a model may rightly have the better: an expression that is plainer than the true one,
# lips in time where the film's are late.
MAY_LEAD = ("emotion_accuracy", "sync_offset")


def misranked(rows: Mapping[str, Sequence[Figures]]) -> list[str]:
    """A sentence on each figure with a better side in which the truth is not the best row.

    The known rows count, and the generated one but where it may be ahead. FID and KID are of no
    single clip, and are distances to the truth: of them nothing is said.

    Args:
      rows: by name, the figures of each clip, in one order.
    """
    found = {name: [averageable(one) for one in clips] for name, clips in rows.items()}
    names = dict.fromkeys(name for one in found.get("truth", ()) for name in one)
    notes = []
    for figure in names:
        plain = figure.removesuffix("_whole")
        if not better(figure) or plain in STILL:
            continue
        values = {
            row: values
            for row, clips in found.items()
            if np.isfinite(values := np.array([one.get(figure, np.nan) for one in clips])).any()
        }
        means = {row: float(np.nanmean(of)) for row, of in values.items()}
        known = [mean for row, mean in means.items() if row != "generated"]
        ahead = [
            row
            for row in values
            if not (row == "generated" and plain in MAY_LEAD)
            and _leads(better(figure) * (values[row] - values["truth"]), np.ptp(known))
        ]
        if ahead:
            notes.append(_sentence(figure.replace("_", " "), ahead, means))
    return notes


def _leads(leads: Float[np.ndarray, " clips"], span: float) -> bool:
    """Whether a row is ahead by more than chance and by what is worth a word."""
    leads = leads[np.isfinite(leads)]
    if not leads.size:
        return False
    error = leads.std() / np.sqrt(leads.size)
    return bool(leads.mean() > max(SPAN * span, ERRORS * error))


def _sentence(figure: str, ahead: Sequence[str], means: Mapping[str, float]) -> str:
    said = " and ".join(f'"{row}" ({decimals(means[row])})' for row in ahead)
    lead = f"{said} {'is' if len(ahead) == 1 else 'are'} ahead of the truth"
    lead = f"{lead} ({decimals(means['truth'])})"
    if ahead == ["generated"]:
        return f"{figure}: {lead}; beyond the truth this figure ranks nothing"
    return f"{figure} does not rank what is known: {lead}; do not read it here"
