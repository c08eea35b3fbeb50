"""Whether somebody speaks, frame by frame, from loudness alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from data_pipeline.audio import SAMPLES_PER_FRAME

QUIET = -50.0  # dB of full scale: below it nobody speaks,
BELOW_PEAK = 40.0  # nor this much below the loudest frame of the window
SOFT = 6.0  # dB from silent to spoken
HOLD = 12  # frames that a voice is held after its last sound: stops and word ends are silent
AHEAD = 2  # frames before its first one: the mouth opens before the sound
FADE = 3  # frames to rest


def voice_activity(audio: Float[Array, "b n"]) -> Float[Array, "b t"]:
    """1 where a window of 16 kHz samples is spoken, 0 in silence, one number a video frame.

    It opens `AHEAD` frames before the first sound, closes after `HOLD` silent ones, and takes
    `FADE` frames for either. Loudness is relative to the loudest frame of the window.
    """
    frames = audio.astype(jnp.float32).reshape(audio.shape[0], -1, SAMPLES_PER_FRAME)
    level = 10 * jnp.log10(frames.var(-1) + 1e-12)  # a microphone's offset is no sound
    threshold = jnp.maximum(level.max(1, keepdims=True) - BELOW_PEAK, QUIET)
    spoken = jnp.clip((level - threshold) / SOFT, 0, 1)
    # The fade is an average over the past, so that it begins with the held frames and not before.
    held = _slide(spoken, jax.lax.max, -jnp.inf, HOLD, AHEAD)
    return _slide(held, jax.lax.add, 0.0, FADE - 1, 0) / FADE


def _slide(x: Array, reduce, start: float, before: int, after: int) -> Array:
    size = before + 1 + after
    return jax.lax.reduce_window(x, start, reduce, (1, size), (1, 1), ((0, 0), (before, after)))
