"""A voice that belongs to the lips is found where it is; any other gets a low score."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from data_pipeline.audio import SAMPLES_PER_FRAME, to_int16, window
from data_pipeline.sync_score import MIN_FRAMES, LipOpening, SyncScore, out_of_sync

FRAMES = 150


def speech(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks whose lips open with the loudness of a noise, and that noise."""
    rng = np.random.default_rng(seed)
    opening = np.clip(gaussian_filter1d(rng.normal(0, 1, FRAMES), 2) * 2, 0.05, None)
    landmarks = np.zeros((FRAMES, 68, 2), np.float32)
    landmarks[:, 45, 0] = 0.4  # The eyes' distance.
    landmarks[:, [65, 66, 67], 1] = 0.05 * opening[:, None]
    moments = np.arange(FRAMES * SAMPLES_PER_FRAME) / SAMPLES_PER_FRAME
    gain = np.interp(moments, np.arange(FRAMES), opening)
    return landmarks, (0.1 * gain * rng.normal(0, 1, len(gain))).astype(np.float32)


@pytest.mark.parametrize("late", [-12, -3, 0, 5, 12])
def test_an_offset_is_found_to_the_frame(late):
    landmarks, waveform = speech(1)
    shifted = window(waveform, -late * SAMPLES_PER_FRAME, len(waveform))
    found = LipOpening().score(landmarks, to_int16(shifted))
    assert found.offset == late and found.correlation > 0.5
    assert bool(out_of_sync(found)) == (abs(late) > 5)


def test_another_voice_scores_low():
    landmarks, own = speech(1)
    scorer = LipOpening()
    others = [
        scorer.score(landmarks, to_int16(speech(seed)[1])).correlation for seed in range(2, 8)
    ]
    assert scorer.score(landmarks, to_int16(own)).correlation > max(others) + 0.2


def test_closed_lips_and_an_even_voice_are_no_match_but_no_error():
    landmarks = np.zeros((FRAMES, 68, 2), np.float32)
    landmarks[:, 45, 0] = 0.4
    found = LipOpening().score(landmarks, np.zeros(FRAMES * SAMPLES_PER_FRAME, np.int16))
    assert abs(found.correlation) < 0.1 and not out_of_sync(found)


def test_little_is_not_judged():
    landmarks, waveform = speech(1)
    count = MIN_FRAMES - 1
    assert LipOpening().score(landmarks[:count], to_int16(waveform[: count * 640])) is None
    assert not out_of_sync(None)


def test_a_refusal_says_what_speaks_for_it():
    reason = out_of_sync(SyncScore(correlation=0.61, offset=-9, near=0.24))
    assert reason.startswith("the voice is 9 frames early") and "0.61" in reason
    assert not out_of_sync(SyncScore(correlation=0.4, offset=9, near=0.25))
