"""The judges in the repository, on people that they do not know."""

import collections

import pytest

from data_pipeline.loader import evaluation_clips
from data_pipeline.prepare import prepare_synthetic
from reta_jax.metrics.judges import JUDGES, load_judges
from reta_jax.metrics.rows import BLURRED, PORTRAIT, TRUTH, known_videos


@pytest.mark.slow
def test_emotions_are_seen_in_the_truth_and_through_blur_but_not_in_the_portrait(tmp_path):
    """Of a person that no network knows, in every emotion; the portrait is neutral."""
    prepare_synthetic(tmp_path, identities=2, clips_per_identity=8, seconds=1, size=64, workers=1)
    judge = load_judges(JUDGES).emotion
    right = collections.Counter()
    for clip in evaluation_clips(tmp_path, "test"):
        for name, frames in known_videos(clip.frames, clip.portrait).items():
            right[name] += judge.look(frames) == clip.emotion
    assert right[TRUTH] >= right[BLURRED] >= 5 > 2 >= right[PORTRAIT]
