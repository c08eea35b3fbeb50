"""A voice for tests of rendering."""

import numpy as np

RATE, FRAME = 16_000, 640


def speech(samples: int, rate: int = RATE) -> np.ndarray:
    """A tone that glides and beats: never silent for long, never twice the same."""
    t = np.arange(samples) / rate
    tone = np.sin(2 * np.pi * (180 * t + 40 * np.sin(3 * t)))
    return (0.4 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 3.1 * t))).astype(np.float32)
