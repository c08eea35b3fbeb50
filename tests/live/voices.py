"""Voices for live tests, and the lengths that they are cut into."""

import numpy as np

from data_pipeline.audio import to_int16

RATE, FRAME, CHUNK, LOOK_AHEAD = 16_000, 640, 10, 2


def speech(samples: int, rate: int = RATE, pitch: float = 180) -> np.ndarray:
    """int16: a gliding tone in words of a second with gaps between them."""
    t = np.arange(samples) / rate
    tone = 0.4 * np.sin(2 * np.pi * (pitch * t + 40 * np.sin(3 * t)))
    return to_int16((tone * (np.sin(2 * np.pi * 0.7 * t) > -0.3)).astype(np.float32))


def pieces(samples: np.ndarray, size: int | None):
    if size is None:  # of every length from 10 ms to 1 s, odd ones too
        random = np.random.default_rng(0)
        cuts = np.cumsum(random.integers(160, RATE, len(samples) // 160))
        yield from np.split(samples, cuts[cuts < len(samples)])
    else:
        for start in range(0, len(samples), size):
            yield samples[start : start + size]
