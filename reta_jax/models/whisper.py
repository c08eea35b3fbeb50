"""Whisper's encoder as the audio encoder E_A: 16 kHz voice to 50 feature vectors per second.

The defaults are `openai/whisper-tiny`, which hears a hundred languages with 8 M
parameters. The published encoder sees 30 s, zeros behind the sound; here it sees the window that
frames are rendered from, whose positions are the first of the published ones.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.models.attention import PreNormLayer
from reta_jax.models.audio_encoder import MEL_HOP, mel_energies
from reta_jax.ops.activation import gelu

FFT = 400
EPSILON = 1e-5  # of the norms


class Whisper(nn.Module):
    """Voice to contextual features f_A, two per 25 fps frame (E_A of Figure 1).

    `layers` may be fewer than were published: the lower ones know more of the mouth and less of
    the text (docs/decisions.md).
    """

    width: int = 384
    layers: int = 4
    heads: int = 6
    mlp_dim: int = 1536
    bins: int = 80
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, audio: Float[Array, "b n"]) -> Float[Array, "b t {self.width}"]:
        """Features of 16 kHz `audio`; n is at least 400 and a multiple of 320."""
        conv = partial(nn.Conv, self.width, (3,), padding=((1, 1),), dtype=self.dtype)
        x = whisper_log_mel(audio, self.bins).astype(self.dtype)
        x = gelu(conv(name="conv_0")(x))
        x = gelu(conv(strides=(2,), name="conv_1")(x))
        x = x + jnp.asarray(positions(x.shape[1], self.width), self.dtype)[None]
        for i in range(self.layers):
            x = PreNormLayer(self.heads, self.mlp_dim, EPSILON, self.dtype, name=f"layer_{i}")(x)
        norm = nn.LayerNorm(EPSILON, use_fast_variance=False, dtype=self.dtype, name="norm")
        return norm(x)


def whisper_log_mel(audio: Float[Array, "b n"], bins: int) -> Float[Array, "b s {bins}"]:
    """Whisper's spectrogram at 100 Hz: Hann 400, mirrored ends, floor 80 dB down."""
    padded = jnp.pad(audio.astype(jnp.float32), ((0, 0), (FFT // 2, FFT // 2)), mode="reflect")
    taper = np.hanning(FFT + 1)[:-1]
    mel = mel_energies(padded, taper, audio.shape[1] // MEL_HOP, bins, low_hz=0.0)
    log = jnp.log10(jnp.maximum(mel, 1e-10))
    return (jnp.maximum(log, log.max((1, 2), keepdims=True) - 8.0) + 4.0) / 4.0


def positions(steps: int, width: int) -> Float[np.ndarray, "{steps} {width}"]:
    """Sines, then cosines, of `width / 2` wavelengths from 2 pi to 20,000 pi steps."""
    rates = 1e4 ** -np.linspace(0, 1, width // 2)
    angles = np.arange(steps)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
