"""The judges in the repository, on people that they do not know."""

import collections

import pytest

from data_pipeline.loader import evaluation_clips
from data_pipeline.prepare import prepare_synthetic
from reta_jax.metrics.clips import judge_known
from reta_jax.metrics.judges import JUDGES, Judges, load_judges
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.rows import BLURRED, OTHER_VOICE, PORTRAIT, TRUTH, known_videos

LATE, EARLY = "truth, 3 frames late", "truth, 3 frames early"


def test_networks_of_one_file_are_two_judges(tmp_path, monkeypatch):
    """What one of them judged is not to be taken for the other's, nor for what it was before."""
    file = tmp_path / "two_networks.py"
    file.write_text("def a(frames): ...\ndef b(frames): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    digests = [load_judges(identity=f"two_networks:{one}").identity.sha256 for one in "aba"]
    assert digests[0] == digests[2] != digests[1]
    file.write_text("def a(frames): return frames\n")
    assert load_judges(identity="two_networks:a").identity.sha256 != digests[0]


def test_judges_say_what_is_known_of_them():
    judges = load_judges()
    assert judges.emotion.diagnosis["accuracy"] > 0.8 and judges.sync.diagnosis["auc"] > 0.6


@pytest.mark.slow
def test_emotions_are_seen_in_the_truth_and_through_blur_but_not_in_the_portrait(tmp_path):
    """Of a person that no network knows, in every emotion; the portrait is neutral."""
    prepare_synthetic(tmp_path, identities=2, clips_per_identity=8, seconds=1, size=64, workers=1)
    judge = load_judges(JUDGES).emotion
    right = collections.Counter()
    for clip in evaluation_clips(tmp_path, "test"):
        for name, frames in known_videos(clip.frames, clip.portrait).items():
            right[name] += judge.look(frames) == clip.emotion
    assert min(right[TRUTH], right[BLURRED]) >= 5 > 2 >= right[PORTRAIT]


@pytest.mark.slow
def test_lips_and_voices_are_heard_to_be_in_step_and_out_of_it(tmp_path):
    """Of a person that no network knows, in both crops."""
    prepare_synthetic(tmp_path, identities=2, clips_per_identity=2, seconds=2, size=64, workers=1)
    clip, other = evaluation_clips(tmp_path, "test")
    judges, protocol = Judges(sync=load_judges(JUDGES).sync), Protocol(figures=("sync",))
    rows = judge_known(judges, protocol, clip, other.audio).rows
    for crop in ("", "_whole"):
        order = ("truth", "truth, blurred", OTHER_VOICE, "still portrait")
        confidences = [rows[name][f"sync_c{crop}"] for name in order]
        assert confidences == sorted(confidences, reverse=True)
        worse = (rows[name][f"sync_d{crop}"] for name in order[1:])
        assert rows["truth"][f"sync_d{crop}"] < min(worse)
        offsets = [rows[name][f"sync_offset{crop}"] for name in ("truth", LATE, EARLY)]
        assert offsets == [0, 3, -3]
