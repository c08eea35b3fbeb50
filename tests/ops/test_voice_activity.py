"""Speech with gaps: open before the first sound, held over word ends, shut in silence."""

import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.ops.voice_activity import AHEAD, FADE, HOLD, voice_activity

FRAME = 640


def noise(frames: int, level: float, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(frames * FRAME)
    return (level * samples).astype(np.float32)


def activity(audio: np.ndarray) -> np.ndarray:
    return np.asarray(voice_activity(jnp.asarray(audio[None])))[0]


@pytest.mark.parametrize("hiss", [0.0, 1e-3])
def test_a_word_is_open_before_it_starts_and_held_after_it_ends(hiss):
    audio = noise(60, hiss)
    audio[20 * FRAME : 30 * FRAME] += noise(10, 0.1, 1)
    spoken = activity(audio)
    assert np.all(spoken[20 : 30 + HOLD] == 1)  # no frame of the word, nor of its soft end
    assert np.all(spoken[: 20 - AHEAD] == 0)
    assert np.all(spoken[30 + HOLD + FADE - 1 :] == 0)
    assert np.all(np.diff(spoken[25:]) <= 0)


def test_a_stop_inside_a_word_does_not_close_it():
    audio = noise(60, 0.1)
    audio[30 * FRAME : (30 + HOLD) * FRAME] = 0
    assert np.all(activity(audio)[10:] == 1)


def test_a_soft_voice_counts_as_a_loud_one():
    audio = noise(60, 0.1)
    audio[30 * FRAME : 50 * FRAME] *= 1e-3
    np.testing.assert_allclose(activity(0.1 * audio), activity(audio), atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.01])
@pytest.mark.parametrize("level", [0.0, 1e-3])
def test_nobody_speaks_in_silence_and_hiss(level, offset):
    """Nor where a microphone's zero is off."""
    assert np.all(activity(noise(60, level) + np.float32(offset)) == 0)
