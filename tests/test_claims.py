"""What the paper claims of its ablations, and the verdicts on that."""

import numpy as np
import pytest
from scipy import stats

from reta_jax.claims import CLAIMS, FIGURES, PAPER, Claim, judge_claim, judge_claims, rows_table


def test_every_claim_is_of_a_row_and_a_figure_that_exist():
    for claim in CLAIMS:
        assert claim.row in PAPER and claim.figure in FIGURES


FALLS, STAYS = Claim("no_gpl", "Sync_c", "falls"), Claim("no_gpl", "ACC_e", "stays")


@pytest.mark.parametrize(
    ("claim", "row", "word"),
    [
        (FALLS, [0.1, 0.12, 0.11], "reproduced"),
        (FALLS, [0.7, 0.5, 0.3], "undecided"),
        (FALLS, [0.9, 0.91, 0.92], "contradicted"),
        (STAYS, [0.6, 0.61, 0.59], "reproduced"),  # 2 % less: less than a quarter
        (STAYS, [0.1, 0.12, 0.11], "contradicted"),
        (STAYS, [0.9, 0.1, 0.5], "undecided"),
        (STAYS, [0.9, 0.91, 0.92], "reproduced"),  # to rise is not to be lost
    ],
)
def test_verdicts(claim, row, word):
    assert judge_claim(claim, row, [0.62, 0.61, 0.6], still=0.1).word == word


@pytest.mark.parametrize(("still", "word"), [(0.5, "reproduced"), (0.605, "undecided")])
def test_what_the_full_model_has_not_cannot_stay(still, word):
    assert judge_claim(STAYS, [0.61, 0.6, 0.62], [0.62, 0.61, 0.6], still).word == word


def test_the_spread_is_students_interval_of_paired_differences():
    row, full = [0.4, 0.5, 0.3, 0.45], [0.6, 0.62, 0.55, 0.7]
    verdict = judge_claim(FALLS, row, full, still=0.0)
    low, high = stats.ttest_rel(row, full).confidence_interval()
    np.testing.assert_allclose(
        [verdict.difference - verdict.spread, verdict.difference + verdict.spread], [low, high]
    )


def test_what_a_run_is_not_judged_by_has_no_verdict():
    runs = {seed: {"PSNR": 20.0 + seed, "Sync_c": 1.0 * seed} for seed in range(3)}
    lacking = {seed: {"PSNR": figures["PSNR"]} for seed, figures in runs.items()}
    figures = {"full": runs, "no_gpl": lacking, "no_tvm": runs}
    found = judge_claims(figures, {"PSNR": 20.0, "Sync_c": 0.0})
    assert [claim[:2] for claim in found] == [("no_tvm", "PSNR")]
    rows = rows_table({"figures": figures, "known": {}}).rows
    assert rows[1][:4] == ["A.1 w/o GPL", "3", "21.00 ± 1.00 (21.21)", "– (0.68)"]
