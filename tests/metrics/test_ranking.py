"""What is said of figures that do not rank what is known, on rows that are made up."""

import pytest

from reta_jax.metrics.judges import Judges
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.ranking import misranked
from reta_jax.metrics.rows import OTHER_VOICE
from reta_jax.metrics.summary import summarise
from tests.metrics.test_summary import as_text, judged


def of_clips(figure, **rows):
    """Rows of one figure: a list over clips, or what it is in all of them."""
    names = {"blurred": "truth, blurred", "still": "still portrait", "other": OTHER_VOICE}
    clips = max((len(given) for given in rows.values() if isinstance(given, list)), default=4)
    lists = {
        row: given if isinstance(given, list) else [given] * clips for row, given in rows.items()
    }
    return {
        names.get(row, row): [{} if value is None else {figure: float(value)} for value in values]
        for row, values in lists.items()
    }


WRONG, BEYOND = "does not rank what is known", "ranks nothing"


@pytest.mark.parametrize(
    ("figure", "rows", "said"),
    [
        ("sync_d", {"truth": 12.19, "blurred": 10.94, "generated": 10.91, "other": 14.95}, WRONG),
        ("sync_d", {"truth": 12.19, "blurred": 13.0, "generated": 10.91, "other": 14.95}, BEYOND),
        ("sync_d", {"truth": 10.5, "blurred": 11.1, "generated": 11.0, "other": 13.1}, None),
        ("sync_c_whole", {"truth": 0.45, "blurred": 0.44, "other": 0.59}, WRONG),
        ("sync_c", {"truth": 4.07, "blurred": 3.39, "generated": 4.18, "other": 1.76}, None),
        # Late or early; what the model may better.
        ("sync_offset", {"truth": [2, -2, 2, -2], "generated": 0.0, "other": 8.0}, None),
        ("sync_offset", {"truth": [6, -6, 6, -6], "blurred": 0.0, "other": 8.0}, WRONG),
        ("emotion_accuracy", {"truth": 0.5, "still": 0.1, "generated": 1.0}, None),
        ("emotion_accuracy", {"truth": 0.5, "still": 1.0, "generated": 0.0}, WRONG),
        # One lucky clip, and few clips that have the figure.
        ("emotion_accuracy", {"truth": [1, 1, 1, 0], "blurred": 1.0, "still": 0.0}, None),
        ("mouth_correlation", {"truth": [0.2, None], "blurred": [0.9, 0.9], "still": 0.0}, WRONG),
        ("mouth_correlation", {"truth": [0.2, None], "blurred": [None, 0.9], "still": 0.0}, None),
        ("mouth_correlation", {"truth": [None, None], "blurred": [0.9, 0.9]}, None),
        # The truth is perfect, for another's voice does not show.
        ("psnr", {"truth": 100.0, "blurred": 20.0, "generated": 21.0, "other": 100.0}, None),
        ("faces_seen", {"truth": 0.97, "still": 1.0, "generated": 1.0}, None),
        ("mouth_jitter", {"truth": 0.02, "still": 0.0, "generated": 0.5}, None),  # has no side
    ],
)
def test_what_is_ahead_of_the_truth_is_told(figure, rows, said):
    found = misranked(of_clips(figure, **rows))
    assert len(found) == (said is not None) and all(said in one for one in found)


def test_a_report_says_what_is_ahead_and_by_how_much():
    rows = {
        "generated": {"sync_d": 10.905, "psnr": 20.0},
        "truth, blurred": {"sync_d": 10.937, "psnr": 20.0},
        "truth": {"sync_d": 12.191, "psnr": 100.0},
        OTHER_VOICE: {"sync_d": 14.95, "psnr": 100.0},
    }
    expected = (
        'sync d does not rank what is known: "generated" (10.905) and "truth, blurred" (10.937) '
        "are ahead of the truth (12.191); do not read it here"
    )
    report = summarise(Judges(), Protocol(), [judged(rows)] * 2)
    assert report["notes"][0] == expected and f"- {expected}\n" in as_text(report)
    assert not any("psnr" in note for note in report["notes"])
