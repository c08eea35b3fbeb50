"""How the mouth of a video follows its voice: python -m reta_jax.metrics.mouth VIDEO [VIDEO ...]

For any talking head, generated or filmed, without any truth: the opening of the inner lips by
MediaPipe's landmarks against the loudness of the sound, frame by frame, at lag 0.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, UInt8

from data_pipeline.audio import SAMPLES_PER_FRAME
from data_pipeline.errors import InputError
from data_pipeline.face import MOUTH, FaceLandmarker, eye_distance, lip_gap
from data_pipeline.video import read_video
from reta_jax.commands import sentences_for_errors
from reta_jax.metrics.landmarks import PIXELS, jitter, shape_distance
from reta_jax.metrics.statistics import Figures
from reta_jax.ops.voice_activity import QUIET

SIDE = 256  # what the landmarker sees: it misses faces of a few dozen pixels
QUIETEST_DB = -60.0
LOUD = 95  # percentile of the frames: as loud as speech is, and no click's level
# dB from there to silence. A room hums 30 to 50 dB below its speakers; of speech only what is short
# is so soft (stops, ends of words), and HOLD drops it.
BELOW_LOUD = 25.0
HOLD = 3  # frames: lips close after the last sound and open before the first


def find_points(
    frames: UInt8[np.ndarray, "t h w 3"], landmarker: FaceLandmarker
) -> Float[np.ndarray, "t 68 2"]:
    """The iBUG points of the largest face in each frame, in its pixels; NaN without a face."""
    points = np.full((len(frames), 68, 2), np.nan)
    for i, frame in enumerate(frames):
        if i and np.array_equal(frame, frames[i - 1]):  # a still picture is looked at once
            points[i] = points[i - 1]
            continue
        scale = max(1.0, SIDE / min(frame.shape[:2]))
        if scale > 1:
            frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        if faces := landmarker.detect(frame):
            points[i] = faces[0] / scale
    return points


def opening(points: Float[np.ndarray, "t 68 2"]) -> Float[np.ndarray, " t"]:
    """Gap of the inner lips over the eyes' distance in the same frame; NaN without a face.

    Of one face in itself; what is held against a truth is in the true face's unit (compare_lips).
    """
    return lip_gap(points[:, MOUTH]) / eye_distance(points)


def compare_lips(
    lips: Float[np.ndarray, "t 20 2"],
    truth: Float[np.ndarray, "t 20 2"] | None,
    unit: float,
    pixels: float,
    voice: Float[np.ndarray, " n"] | None,
) -> Figures:
    """Lips against the true ones and against the voice, either None if it is not known.

    The opening is the gap of the inner lips over `unit`: of both in one unit, of all frames in one.
    Distances are of points about their own mean, as the field's M-LMD: they see shape, not place.
    Frames without a face (NaN) are left out; nothing is said of fewer than three.

    Args:
      unit: the distance of the true outer eye corners, in the points' unit; NaN: nothing is said.
      pixels: what the points' unit is at 256 px.
    """
    opened = lip_gap(lips) / unit
    seen = np.isfinite(opened)
    if truth is not None:
        truly = lip_gap(truth) / unit
        seen &= np.isfinite(truly)
    if seen.sum() < 3:
        return {}
    figures = {}
    if truth is not None:
        distance = shape_distance(lips[seen], truth[seen])
        figures = {
            "mouth_correlation": correlation(opened[seen], truly[seen]),
            "mouth_opening_error": float(np.abs(opened - truly)[seen].mean()),
            "mouth_landmark_distance": distance / unit,
            f"mouth_landmark_distance{PIXELS}": distance * pixels,
        }
    if np.isfinite(trembling := jitter(lips)):
        figures["mouth_jitter"] = trembling / unit
    if voice is not None:
        figures["voice_correlation"] = correlation(opened[seen], loudness(voice, len(seen))[seen])
        silent = silent_frames(voice, len(seen)) & seen
        if silent.sum() > 1:
            figures["movement_in_silence"] = float(np.std(opened[silent]))
    return figures


def loudness(waveform: Float[np.ndarray, " n"], frames: int) -> Float[np.ndarray, " t"]:
    """Root mean square of each frame's sound in decibels, not below QUIETEST_DB.

    About the frame's mean: a microphone's offset is no sound.
    """
    sound = np.zeros(frames * SAMPLES_PER_FRAME)
    sound[: len(waveform)] = waveform[: len(sound)]
    power = sound.reshape(frames, SAMPLES_PER_FRAME).var(1)
    return 10 * np.log10(np.maximum(power, 10 ** (QUIETEST_DB / 10)))


def follows_voice(
    frames: UInt8[np.ndarray, "t h w 3"],
    waveform: Float[np.ndarray, " n"],
    landmarker: FaceLandmarker,
) -> float:
    """Pearson correlation of mouth opening and loudness at lag 0, over the frames with a face.

    0 where the mouth or the loudness does not change.

    Raises InputError if fewer than half of the frames show a face.
    """
    gap = lip_gap(find_points(frames, landmarker)[:, MOUTH])  # a correlation has no unit
    seen = np.isfinite(gap)
    if seen.mean() < 0.5:
        raise InputError(f"a face is seen in {seen.sum()} of {len(frames)} frames only")
    return correlation(gap[seen], loudness(waveform, len(frames))[seen])


def correlation(a: Float[np.ndarray, " t"], b: Float[np.ndarray, " t"]) -> float:
    """Pearson correlation; 0 where one of them does not move."""
    # In float32 the mean of equal numbers is none of them, and the rest would correlate.
    a, b = (x - x.mean() for x in (np.float64(a), np.float64(b)))
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 1e-9 else 0.0


def silent_frames(waveform: Float[np.ndarray, " n"], frames: int) -> Bool[np.ndarray, " t"]:
    """The frames in which, and `HOLD` frames around which, nobody speaks.

    What is silent is so beside the clip's own voice, as in reta_jax.ops.voice_activity: no filmed
    room is as quiet as a file's zeros.
    """
    level = loudness(waveform, frames)
    quiet = level < max(np.percentile(level, LOUD) - BELOW_LOUD, QUIET)
    return scipy.ndimage.binary_erosion(quiet, np.ones(2 * HOLD + 1), border_value=1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.metrics.mouth",
        description="Correlation of mouth opening with loudness.",
    )
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--face-landmarker", type=Path, help="MediaPipe's face_landmarker.task")
    arguments = parser.parse_args(argv)
    with sentences_for_errors():
        landmarker = FaceLandmarker(arguments.face_landmarker)
        refused = []
        for path in arguments.videos:
            try:
                print(f"{_of_file(path, landmarker):+.3f}  {path}")
            except InputError as error:
                refused.append(str(error))
        if refused:
            raise InputError("; ".join(refused))


def _of_file(path: Path, landmarker: FaceLandmarker) -> float:
    video = read_video(path)
    if video.audio is None:
        raise InputError(f"{path} has no sound")
    try:
        return follows_voice(video.frames, video.audio, landmarker)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


if __name__ == "__main__":
    main()
