"""Reports of clips whose figures and features are known."""

import numpy as np
import pytest

from data_pipeline.emotions import EMOTIONS
from reta_jax.metrics.cache import Judged
from reta_jax.metrics.judges import Judge, Judges
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.statistics import NAMED
from reta_jax.metrics.summary import IN_TRUE_BOX, NO_FACE, TOO_FEW, speed, summarise
from reta_jax.metrics.tables import markdown_report

INCEPTION = Judges(inception=Judge("pixels", "", None))
FID = Protocol(figures=("fid",))


def judged(rows=None, emotion="happy", features=None, identity="somebody", **more):
    rows = rows or {"generated": {"psnr": 20.0}, "copy": {}, "truth": {"psnr": 100.0}}
    return Judged("a", identity, emotion, rows, features or {}, np.zeros(0), **more)


def pictures(frames, seed, moved=0.0):
    """Features of a clip: the truth's, a copy's, and those of a row that is `moved` from them."""
    random = np.random.default_rng(seed)
    truth, other = random.standard_normal((2, frames, 8))
    return {"generated": other + moved, "copy": truth, "truth": truth}


def as_text(report):
    return markdown_report(report | {"objections": []})


def test_one_frame_in_all_leaves_out_the_distances_alone():
    report = summarise(INCEPTION, FID, [judged(features=pictures(1, 0))])
    assert report["rows"]["truth"] == {"psnr": 100.0}
    assert "FID and KID are not judged: one frame in all, they need two" in report["notes"]


def test_every_row_has_both_distances_and_the_kid_has_an_interval():
    clips = [
        judged(features=pictures(10, seed, moved=0.5), identity=str(seed)) for seed in range(12)
    ]
    report = summarise(INCEPTION, FID, clips)
    rows, between = report["rows"], report["intervals"]
    for name in ("fid", "kid"):
        assert rows["truth"][name] == 0.0
        np.testing.assert_allclose(rows["copy"][name], 0, atol=1e-6)
        assert rows["generated"][name] > 0.5
    low, high = between["generated"]["kid"]
    assert 0 < low < rows["generated"]["kid"] < high
    assert "fid" not in between["generated"]
    assert any(
        "FID of 120 frames a row" in note and "no interval" in note for note in report["notes"]
    )
    assert not any("singular" in note for note in report["notes"])
    mean = rows["generated"]["kid"]
    assert f"| kid ↓ | {mean:.3f} | {low:.3f} to {high:.3f} |" in as_text(report)


def test_the_kid_of_an_emotion_is_that_of_its_clips_alone():
    happy = [judged(features=pictures(4, seed, moved=1.0), identity=str(seed)) for seed in range(3)]
    sad = [judged(emotion="sad", features=pictures(4, seed)) for seed in range(3, 6)]
    nobody = [judged(emotion="", features=pictures(4, 6)), judged(None, "angry", pictures(1, 7))]
    report = summarise(INCEPTION, FID, [*happy, *sad, *nobody])
    alone = summarise(INCEPTION, FID, happy)
    found = report["kid_by_emotion"]
    assert set(found) == {"happy", "sad"}  # of one frame, anger has none
    assert found["happy"]["clips"] == 3
    np.testing.assert_allclose(found["happy"]["kid"], alone["rows"]["generated"]["kid"])
    assert found["happy"]["interval"] == pytest.approx(alone["intervals"]["generated"]["kid"])
    assert found["happy"]["kid"] > found["sad"]["kid"]
    assert found["sad"]["interval"] is None  # they are all of one person
    assert f"| happy | 3 | {found['happy']['kid']:.3f} [" in as_text(report)


def test_what_emotions_were_named_is_told_one_by_one():
    """Of four happy clips three are named so; the two sad ones are named happy, too."""
    named = [("happy", "happy")] * 3 + [("happy", "neutral")] + [("sad", "happy")] * 2
    clips = [
        judged(
            {
                "generated": {
                    "emotion_accuracy": float(true == other),
                    NAMED: float(EMOTIONS.index(other)),
                },
                "truth": {"emotion_accuracy": 1.0, NAMED: float(EMOTIONS.index(true))},
            },
            true,
        )
        for true, other in named
    ]
    report = summarise(Judges(emotion=Judge("", "", None)), Protocol(figures=("emotion",)), clips)
    found = report["emotions_named"]["generated"]
    counts = {true: {k: v for k, v in row.items() if v} for true, row in found["counts"].items()}
    assert counts == {"happy": {"happy": 3, "neutral": 1}, "sad": {"happy": 2}}
    assert found["chance"] == pytest.approx(4 / 6 * 5 / 6)
    assert report["emotions_named"]["truth"]["chance"] == pytest.approx((16 + 4) / 36)
    assert NAMED not in report["rows"]["generated"] | report["intervals"]["generated"]
    assert not report["counts"]
    text = as_text(report)
    assert "| true, named | happy | neutral | sad |" in text
    assert "| happy | 3 | 1 | 0 |" in text and "0.556 would be right: chance" in text


def test_clips_whose_emotion_was_never_named_have_no_table():
    report = summarise(Judges(), Protocol(), [judged()])
    assert report["emotions_named"] == {} and "true, named" not in as_text(report)


def test_what_is_known_of_a_judge_stands_in_the_report():
    diagnosis = {"auc": 0.79, "warning": "lips and voice have not met yet"}
    judge = Judge("syncnet_v2", "here", None, held_out_score=0.7, diagnosis=diagnosis)
    report = summarise(Judges(sync=judge), Protocol(), [judged()])
    assert report["judges"]["sync"]["diagnosis"] == diagnosis
    assert "the sync judge, when it was trained: lips and voice have not met yet" in report["notes"]
    assert "| sync | syncnet_v2 | here | 0.700 | auc 0.790 |" in as_text(report)


def test_it_is_said_where_nobody_is_silent():
    says = lambda report: any("movement in silence is not" in note for note in report["notes"])
    spoken = {"generated": {"mouth_correlation": 0.5}, "truth": {}}
    silent = {"generated": {"mouth_correlation": 0.5, "movement_in_silence": 0.0}, "truth": {}}
    assert says(summarise(Judges(), Protocol(), [judged(spoken)]))
    assert not says(summarise(Judges(), Protocol(), [judged(spoken), judged(silent)]))
    assert not says(summarise(Judges(), Protocol(figures=("image",)), [judged(spoken)]))


def test_whose_box_generated_faces_are_looked_for_in_is_said():
    """Of clips that were rendered; of videos the box goes with the face."""
    judges = Judges(mouth=Judge("", "", None))
    assert IN_TRUE_BOX in summarise(judges, Protocol(), [judged(seconds=1.0)])["notes"]
    assert IN_TRUE_BOX not in summarise(judges, Protocol(), [judged()])["notes"]


def test_clips_too_short_to_move_are_not_said_to_be_faceless():
    clips = [
        judged({"generated": {"faces_seen": share}, "truth": {}}, frames=frames)
        for share, frames in ((1.0, 1), (1.0, 2), (0.0, 50))
    ]
    notes = summarise(Judges(), Protocol(figures=("face",)), clips)["notes"]
    assert f"2 of 3 clips {TOO_FEW}" in notes and f"1 of 3 clips {NO_FACE}" in notes


def test_the_memory_is_that_of_judging_not_of_reading_it_again():
    clips = [judged(seconds=1.0, frames=25, memory=memory) for memory in (3 * 10**9, 5 * 10**9)]
    assert speed(clips)["peak_memory_gb"] == 5.0


@pytest.mark.parametrize(
    ("figures", "missed"),
    [
        ({"faces_seen": 0.0}, set()),  # whose remark is that no face was seen
        ({"faces_seen": 1.0, "head_motion": 0.1, "mouth_correlation": 0.5}, {"blinks", "silence"}),
        ({"mouth_correlation": 0.5}, {"blinks", "silence"}),  # of a judge of mouths alone
    ],
)
def test_what_lacks_for_want_of_a_face_is_said_once(figures, missed):
    protocol = Protocol(figures=("mouth", "face"))
    report = summarise(Judges(), protocol, [judged({"generated": figures, "truth": {}})])
    said = {word for word in ("blinks", "silence") if any(word in n for n in report["notes"])}
    assert said == missed
