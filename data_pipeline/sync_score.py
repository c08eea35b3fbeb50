"""Whether lips and voice belong together, and by how much one comes late: no network needed."""

from typing import NamedTuple, Protocol

import numpy as np
import scipy.ndimage
from jaxtyping import Float32, Float64, Int16

from data_pipeline.audio import FPS, SAMPLES_PER_FRAME, mel_columns, to_float
from data_pipeline.face import eye_distance

MAX_OFFSET = 15  # frames to each side that are tried
TOLERATED_OFFSET = 5  # frames: real clips come out as far off without being so
# By how much the correlation must be better elsewhere. Of 88 real clips that were in step, one was
# refused for it; of 48 whose voice was shifted by ten frames, 52 to 62 % were.
MIN_EVIDENCE = 0.2
MIN_FRAMES = 3 * FPS  # less is not judged

_MEL_COLUMNS_PER_FRAME = 3.2
_VOICED_BANDS = slice(10, 50)
_INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # upper and lower


class SyncScore(NamedTuple):
    """How lips and voice go together."""

    correlation: float  # where it is best
    offset: int  # frames by which the voice comes late there
    near: float  # the best correlation within the offsets that are tolerated


class SyncScorer(Protocol):
    """Whatever judges lips and voice; it must be picklable, for it goes to other processes."""

    def score(
        self, landmarks: Float32[np.ndarray, "t 68 2"], samples: Int16[np.ndarray, " n"]
    ) -> SyncScore | None:
        """The score of a stretch, n = 640 t samples at 16 kHz; None if it cannot be judged."""


class LipOpening(NamedTuple):
    """The opening of the lips against the loudness of the voice, and the change of both."""

    def score(
        self, landmarks: Float32[np.ndarray, "t 68 2"], samples: Int16[np.ndarray, " n"]
    ) -> SyncScore | None:
        """The best mean of both correlations over offsets of up to 15 frames, and where it is."""
        if len(landmarks) < MIN_FRAMES:
            return None
        lips, voice = mean_lip_gap(landmarks), voice_energy(to_float(samples))
        change = np.gradient(scipy.ndimage.gaussian_filter1d(lips, 1)), np.gradient(voice)
        curve = (_correlations(lips, voice) + _correlations(*change)) / 2
        best = int(curve.argmax())
        near = curve[MAX_OFFSET - TOLERATED_OFFSET : MAX_OFFSET + TOLERATED_OFFSET + 1].max()
        return SyncScore(float(curve[best]), best - MAX_OFFSET, float(near))


def out_of_sync(score: SyncScore | None) -> str:
    """Why lips and voice cannot be learned from; empty if they can, or nobody knows."""
    if score is None or score.correlation - score.near <= MIN_EVIDENCE:
        return ""
    side = "late" if score.offset > 0 else "early"
    return (
        f"the voice is {abs(score.offset)} frames {side}: it goes with the lips by "
        f"{score.correlation:.2f} there, by {score.near:.2f} as it is"
    )


def mean_lip_gap(landmarks: Float32[np.ndarray, "t 68 2"]) -> Float64[np.ndarray, " t"]:
    """Gap between the inner lips, mean of three places, in the clip's median distance of the eyes.

    Steadier than `face.lip_gap`, which is that of one.
    """
    gaps = [np.linalg.norm(landmarks[:, up] - landmarks[:, low], axis=1) for up, low in _INNER_LIPS]
    eyes = np.median(eye_distance(landmarks))
    return np.mean(gaps, axis=0, dtype=np.float64) / max(eyes, 1e-6)


def voice_energy(waveform: Float32[np.ndarray, " n"]) -> Float64[np.ndarray, " t"]:
    """Log energy of the bands of a voice at the moment of each frame, n = 640 t."""
    mel = mel_columns(waveform, 0, 1 + int(len(waveform) * _MEL_COLUMNS_PER_FRAME / 640))
    energy = scipy.ndimage.gaussian_filter1d(mel[_VOICED_BANDS].mean(axis=0), 1.6)
    moments = np.arange(len(waveform) // SAMPLES_PER_FRAME) * _MEL_COLUMNS_PER_FRAME
    return np.interp(moments, np.arange(len(energy)), energy)


def _correlations(
    lips: Float64[np.ndarray, " t"], voice: Float64[np.ndarray, " t"]
) -> Float64[np.ndarray, " o"]:
    """For offsets -15 … 15: lips at t and the voice `offset` frames later."""
    count = len(lips)
    curve = []
    for offset in range(-MAX_OFFSET, MAX_OFFSET + 1):
        first, last = max(0, -offset), count - max(0, offset)
        a, b = lips[first:last], voice[first + offset : last + offset]
        a, b = a - a.mean(), b - b.mean()
        curve.append((a @ b) / max(np.sqrt((a @ a) * (b @ b)), 1e-12))
    return np.array(curve)
