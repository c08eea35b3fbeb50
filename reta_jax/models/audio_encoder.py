"""Audio encoder E_A: a window of voice to one feature vector a video frame (section 3.1).

The encoder always sees a window of fixed length (reta_jax/windows.py).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from data_pipeline.audio import SAMPLES_PER_FRAME, mel_filters

STEPS_PER_FRAME = 2  # wav2vec 2.0's hop of 320 samples, exactly half a video frame


class AudioEncoder(nn.Module):
    """Runs a 50 Hz speech network and averages its two steps a frame: f_A (b, frames, d)."""

    network: nn.Module

    def __call__(self, audio: Float[Array, "b n"]) -> Float[Array, "b t d"]:
        steps = self.network(audio)
        frames = audio.shape[1] // SAMPLES_PER_FRAME
        return steps.reshape(steps.shape[0], frames, STEPS_PER_FRAME, -1).mean(2)


class MelEncoder(nn.Module):
    """Log-mel spectrogram and a few convolutions: where no pretrained weights are at hand."""

    width: int = 256
    layers: int = 4
    bins: int = 80
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, audio: Float[Array, "b n"]) -> Float[Array, "b s {self.width}"]:
        x = encoder_log_mel(audio, self.bins).astype(self.dtype)
        x = nn.Conv(self.width, (5,), padding="SAME", dtype=self.dtype, name="stem")(x)
        x = nn.gelu(x)
        x = nn.Conv(self.width, (4,), (2,), padding=((1, 1),), dtype=self.dtype, name="down")(
            x
        )  # 100 Hz -> 50 Hz
        for i in range(self.layers):
            y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=f"norm{i}")(x)
            y = nn.Conv(self.width, (3,), padding="SAME", dtype=self.dtype, name=f"conv{i}")(y)
            x = x + nn.Dense(self.width, dtype=self.dtype, name=f"dense{i}")(nn.gelu(y))
        return x


MEL_FFT, MEL_HOP = 512, 160


def encoder_log_mel(audio: Float[Array, "b n"], bins: int) -> Float[Array, "b s {bins}"]:
    """`MelEncoder`'s spectrogram at 100 Hz, about [-1, 1]: Hann 512, centred, zeros at the ends."""
    padded = jnp.pad(audio.astype(jnp.float32), ((0, 0), (MEL_FFT // 2, MEL_FFT // 2)))
    padded = padded[:, MEL_HOP // 2 :]  # window centred on the hop it describes
    mel = mel_energies(padded, np.hanning(MEL_FFT), audio.shape[1] // MEL_HOP, bins, low_hz=50.0)
    return (jnp.log10(jnp.maximum(mel, 1e-6)) + 2.0) / 4.0


def mel_energies(
    audio: Float[Array, "b n"],
    taper: Float[np.ndarray, " fft"],
    steps: int,
    bins: int,
    low_hz: float,
) -> Float[Array, "b {steps} {bins}"]:
    """Energy in Slaney's mel bands up to 8 kHz; step s hears the samples from 160 s on.

    The Fourier transform is a product: two FFTs at the same time on two cores wait for each other
    for ever in jax 0.11 (docs/decisions.md).
    """
    starts = jnp.arange(steps) * MEL_HOP
    frames = audio[:, starts[:, None] + jnp.arange(len(taper))[None, :]]
    waves = jnp.asarray(taper[:, None] * fourier_waves(len(taper)), jnp.float32)
    precision = jax.lax.Precision.HIGHEST
    spectrum = jnp.matmul(frames, waves, precision=precision)
    real, imaginary = jnp.split(spectrum, 2, axis=-1)
    energy = jnp.square(real) + jnp.square(imaginary)
    filters = jnp.asarray(mel_filters(bins, len(taper), low_hz, 8000).T)
    return jnp.einsum("bsf,fm->bsm", energy, filters, precision=precision)


def fourier_waves(samples: int) -> Float64[np.ndarray, "{samples} f"]:
    """Cosines, then sines, of the frequencies that `rfft` tells apart, as columns."""
    # Whole turns are left out: the angles stay exact.
    turns = np.outer(np.arange(samples), np.arange(samples // 2 + 1)) % samples / samples
    return np.concatenate([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=1)
