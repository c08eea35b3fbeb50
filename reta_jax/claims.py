"""The paper's ablations (Tables 4, 9 and 10), what it claims of them, and the verdicts on that."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from reta_jax.metrics.statistics import Figures
from reta_jax.metrics.tables import head_of, objections_of
from reta_jax.report import Section, Table

# Column of the tables: figure of reta_jax.evaluate. In this world the truth is known, so that
# "Mouth", the correlation of the lips' opening with the true one, stands beside Sync_c.
FIGURES = {
    "PSNR": "psnr",
    "SSIM": "ssim",
    "Sync_c": "sync_c",
    "ACC_e": "emotion_accuracy",
    "Mouth": "mouth_correlation",
}


class PaperRow(NamedTuple):
    """A line of the paper's tables, in the order of FIGURES; None where it gives no figure."""

    title: str
    psnr: float
    ssim: float
    sync: float | None
    emotion: float  # percent


PAPER = {
    "full": PaperRow("full model", 22.19, 0.77, 5.84, 62.35),
    "no_gpl": PaperRow("A.1 w/o GPL", 21.21, 0.68, 1.85, 61.72),
    "no_erl": PaperRow("A.2 w/o ERL", 21.37, 0.70, 5.65, 41.23),
    "no_3dmm": PaperRow("A.3 w/o 3DMM", 21.05, 0.66, 3.23, 57.41),
    # A.3 as appendix H words it, with "a simple decoder"; the row above changes one thing only.
    "no_3dmm_framewise": PaperRow("A.3 w/o 3DMM, frame by frame", 21.05, 0.66, 3.23, 57.41),
    "no_hi": PaperRow("B.1 w/o HI", 21.47, 0.71, 4.91, 52.64),
    "no_style": PaperRow("B.2 w/o f_STY", 21.63, 0.70, 5.75, 60.15),
    "no_eds": PaperRow("C.1 w/o EDS", 21.85, 0.73, 5.82, 45.79),
    "no_tvm": PaperRow("C.2 w/o TVM", 21.93, 0.75, 5.77, 62.10),
    "no_sync": PaperRow("w/o L_syn", 22.10, 0.77, 3.12, 58.35),
    "no_emotion_visual": PaperRow("w/o L_emo^{v-v}", 22.13, 0.78, 5.43, 51.42),
    "no_emotion_audio": PaperRow("w/o L_emo^{v-a}", 22.01, 0.76, 5.63, 55.76),
    "weights_1_1_1": PaperRow("lambda 1, 1, 1", 21.89, 0.70, None, 60.07),
    "weights_2_2_2": PaperRow("lambda 2, 2, 2", 22.10, 0.73, None, 60.72),
    "weights_1_2_1": PaperRow("lambda 1, 2, 1", 22.15, 0.76, None, 61.21),
}


class Claim(NamedTuple):
    """What the paper says of a row: a figure falls, or it stays when another falls."""

    row: str
    figure: str
    direction: Literal["falls", "stays"]


CLAIMS = (  # each of Sync_c is one of Mouth, too
    Claim("no_gpl", "Sync_c", "falls"),
    Claim("no_gpl", "Mouth", "falls"),
    Claim("no_gpl", "ACC_e", "stays"),
    Claim("no_erl", "ACC_e", "falls"),
    Claim("no_erl", "Sync_c", "stays"),
    Claim("no_erl", "Mouth", "stays"),
    Claim("no_3dmm", "Sync_c", "falls"),
    Claim("no_3dmm", "Mouth", "falls"),
    Claim("no_3dmm", "ACC_e", "falls"),
    Claim("no_3dmm_framewise", "Sync_c", "falls"),
    Claim("no_3dmm_framewise", "Mouth", "falls"),
    Claim("no_3dmm_framewise", "ACC_e", "falls"),
    Claim("no_hi", "Sync_c", "falls"),
    Claim("no_hi", "Mouth", "falls"),
    Claim("no_hi", "ACC_e", "falls"),
    Claim("no_style", "PSNR", "falls"),
    Claim("no_eds", "ACC_e", "falls"),
    Claim("no_tvm", "PSNR", "falls"),
    Claim("no_tvm", "SSIM", "falls"),
    Claim("no_sync", "Sync_c", "falls"),
    Claim("no_sync", "Mouth", "falls"),
    Claim("no_emotion_visual", "ACC_e", "falls"),
    Claim("no_emotion_audio", "ACC_e", "falls"),
    *(
        Claim(row, figure, "falls")
        for row in ("weights_1_1_1", "weights_2_2_2", "weights_1_2_1")
        for figure in ("PSNR", "SSIM", "ACC_e")
    ),
)
STAYS = 0.25  # share of the full model's figure that may be lost by a figure that "stays"


class Verdict(NamedTuple):
    """Of a claim: the difference to the full model, by seed, and what follows from it."""

    difference: float  # mean over the seeds
    spread: float  # half of its 95 % interval (Student's t over the seeds' differences)
    word: Literal["reproduced", "contradicted", "undecided"]


def judge_claim(claim: Claim, row: Sequence[float], full: Sequence[float], still: float) -> Verdict:
    """Verdict from the figures of the same seeds, at least two.

    "falls": the interval of the difference lies below zero; contradicted if above. "stays": what is
    lost is less than a quarter of the full model's figure; contradicted if it is more, and nothing
    can be said if the full model's own is no better than the still portrait's.
    """
    mean, spread = _mean_and_spread(np.subtract(row, full))
    low, high = mean - spread, mean + spread
    if claim.direction == "stays":
        margin = -STAYS * float(np.mean(full))
        gain, gain_spread = _mean_and_spread(np.subtract(full, still))
        is_there = gain > gain_spread
        is_so, is_not = is_there and low > margin, is_there and high < margin
    else:
        is_so, is_not = high < 0, low > 0
    word = "reproduced" if is_so else "contradicted" if is_not else "undecided"
    return Verdict(mean, spread, word)


def _mean_and_spread(values: np.ndarray) -> tuple[float, float]:
    """With half of the 95 % interval, Student's t."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * error)


def judge_claims(
    figures: dict[str, dict[int, dict[str, float]]], still: dict[str, float]
) -> dict[Claim, Verdict]:
    """Verdicts on the claims whose row and the full model share at least two seeds.

    Only seeds count whose runs have the figure: without a SyncNet none has Sync_c.
    """
    verdicts = {}
    for claim in CLAIMS:
        row, full = (
            {
                seed: run[claim.figure]
                for seed, run in figures.get(name, {}).items()
                if claim.figure in run
            }
            for name in (claim.row, "full")
        )
        seeds = sorted(set(row) & set(full))
        if len(seeds) >= 2 and claim.figure in still:
            values = [[runs[seed] for seed in seeds] for runs in (row, full)]
            verdicts[claim] = judge_claim(claim, *values, still[claim.figure])
    return verdicts


def ablation_sections(study: Mapping[str, Any]) -> list[Section]:
    """An ablation.json's rows beside the paper's, and the verdicts on its claims."""
    text = (
        f"{study['steps']} steps each at {study['size']} px. Mean ± standard deviation over the "
        "seeds; (the paper's figure). Mouth is the correlation of the lips' opening with the "
        "truth's, ACC_e is in percent; data and judges differ from the paper's: compare directions."
    )
    verdicts = (
        f'"Stays" means that the figure falls by less than {100 * STAYS:.0f} %. Differences are to '
        "the full model of the same seeds, ± half of their 95 % interval. Each verdict is for "
        "itself: of so many, one or another may be chance."
    )
    return [
        Section("Ablations", "\n\n".join([text, *objections_of(study)]), [], rows_table(study)),
        Section("Ablations: the paper's claims", verdicts, [], claims_table(study["claims"])),
    ]


def rows_table(study: Mapping[str, Any]) -> Table:
    head = ["row", "seeds", *(head_of(*names) for names in FIGURES.items())]
    rows = []
    for row, runs in study["figures"].items():
        title, *published = PAPER[row]
        cells = [
            _cell(name, *over_seeds(runs, name)) + ("" if paper is None else f" ({paper})")
            for name, paper in itertools.zip_longest(FIGURES, published)
        ]
        rows.append([title, str(len(runs)), *cells])
    for title, figures in study["known"].items():
        rows.append([title, "", *(_cell(name, figures.get(name, math.nan)) for name in FIGURES)])
    return Table(head, rows)


def over_seeds(runs: Mapping[Any, Figures], name: str) -> tuple[float, float]:
    """A figure's mean over the seeds that have it, and its standard deviation.

    NaN where there are none; the latter also where there is but one.
    """
    values = [run[name] for run in runs.values() if name in run]
    mean = float(np.mean(values)) if values else math.nan
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _cell(name: str, mean: float, spread: float = math.nan) -> str:
    """With three decimals what lies in [0, 1]; a dash for NaN."""
    places = 3 if name in ("SSIM", "Mouth") else 2
    text = f"{mean:.{places}f}" if math.isfinite(mean) else "–"
    return f"{text} ± {spread:.{places}f}" if math.isfinite(spread) else text


def claims_table(claims: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            f"{PAPER[claim['row']].title}: {claim['figure']} {claim['direction']}",
            f"{claim['difference']:+.3f} ± {claim['spread']:.3f}",
            claim["word"],
        ]
        for claim in claims
    ]
    return Table(["the paper's claim", "difference to the full model", "verdict"], rows)
