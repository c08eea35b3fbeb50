"""E_A: one vector a video frame, and a log-mel spectrogram checked against plain NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.models.audio_encoder import AudioEncoder, MelEncoder, encoder_log_mel
from reta_jax.windows import AudioWindow
from tests.weights import random_variables

WIDTH = 16
SMALL = AudioEncoder(MelEncoder(width=WIDTH, layers=2))


class Ramp(nn.Module):
    """A speech network whose step i says i."""

    def __call__(self, audio):
        steps = jnp.arange(audio.shape[1] // 320, dtype=jnp.float32)
        return jnp.broadcast_to(steps[None, :, None], (audio.shape[0], len(steps), 3))


def mel_filters(bins: int, bands: int, low: float, high: float, rate: int) -> np.ndarray:
    """Slaney's: triangles of equal area, linear below 1 kHz and logarithmic above."""

    def to_mel(hz):
        return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(hz / 1000) / np.log(6.4))

    def to_hz(mel):
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    edges = to_hz(np.linspace(to_mel(np.array(low)), to_mel(np.array(high)), bands + 2))
    hz = np.linspace(0, rate / 2, bins)
    rise = (hz[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[None, 2:] - hz[:, None]) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rise, fall), 0, None) * 2 / (edges[2:] - edges[:-2])


def numpy_log_mel(audio: np.ndarray, bands: int) -> np.ndarray:
    """Column s looks at the 512 samples around sample 160 s + 80, in float64."""
    filters, window = mel_filters(257, bands, 50, 8000, 16_000), np.hanning(512)
    columns = []
    for centre in range(80, len(audio), 160):
        samples = [
            audio[i] if 0 <= i < len(audio) else 0 for i in range(centre - 256, centre + 256)
        ]
        power = np.abs(np.fft.rfft(np.array(samples, np.float64) * window)) ** 2
        columns.append((np.log10(np.maximum(power @ filters, 1e-6)) + 2) / 4)
    return np.stack(columns)


def test_log_mel_is_numpys():
    rng = np.random.default_rng(0)
    seconds = np.arange(3200) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (300 + 5000 * seconds) * seconds)
    audio = np.stack([0.1 * rng.standard_normal(3200), tone]).astype(np.float32)
    ours = encoder_log_mel(jnp.asarray(audio), 80)
    assert ours.shape == (2, 20, 80)
    expected = np.stack([numpy_log_mel(row, 80) for row in audio])
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert np.ptp(expected[1]) > 1  # the sweep is no flat picture


def test_programs_have_no_fast_fourier_transform():
    """Two of them at the same time on two cores hang in jax 0.11 (docs/decisions.md)."""
    program = str(jax.make_jaxpr(lambda audio: encoder_log_mel(audio, 80))(jnp.zeros((1, 3200))))
    assert "dot_general" in program and "fft" not in program


def test_log_mel_of_silence_is_its_floor():
    np.testing.assert_array_equal(
        encoder_log_mel(jnp.zeros((1, 1600)), 8), np.full((1, 10, 8), -1.0)
    )


@pytest.mark.parametrize("frames", [1, 7, AudioWindow().frames])
def test_one_vector_for_every_640_samples(frames):
    audio = jax.ShapeDtypeStruct((2, 640 * frames), jnp.float32)
    features, _ = jax.eval_shape(lambda x: SMALL.init_with_output(jax.random.key(0), x), audio)
    assert features.shape == (2, frames, WIDTH)


def test_a_frame_is_the_mean_of_its_two_steps():
    features = AudioEncoder(Ramp()).apply({}, jnp.zeros((2, 3 * 640)))
    np.testing.assert_array_equal(features, np.broadcast_to([[[0.5], [2.5], [4.5]]], (2, 3, 3)))


def test_window_is_in_frames_of_640_samples():
    assert AudioWindow() == (50, 10, 2)
    assert AudioWindow(3, 2, 1).frames == 6
    assert AudioWindow().samples == 62 * 640


def test_a_sound_is_heard_at_its_frame_and_in_its_row_alone():
    rng = np.random.default_rng(0)
    audio = 0.1 * rng.standard_normal((2, 30 * 640)).astype(np.float32)
    other = audio.copy()
    other[1, 15 * 640 : 16 * 640] = 0
    encode = jax.jit(SMALL.apply)
    variables = random_variables(SMALL, jnp.asarray(audio))
    difference = np.abs(encode(variables, other) - encode(variables, audio)).max(-1)
    assert not difference[0].any()
    assert difference[1, 15] == difference[1].max() > 1e-2
    assert not difference[1, :12].any() and not difference[1, 19:].any()
