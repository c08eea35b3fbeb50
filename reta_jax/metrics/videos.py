"""Videos of any system against the real ones: PSNR, SSIM, and what MediaPipe's landmarks say.

Nothing of how the videos were made is needed; pairs have the same file name, frames are compared in
order, as many as the shorter one has, at the real one's size.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.datasets.raw import video_files
from data_pipeline.errors import InputError
from data_pipeline.face import FaceLandmarker
from data_pipeline.video import Video, read_video
from reta_jax.metrics.mouth import correlation, eye_distance, find_points, jitter, loudness, opening

MOUTH = slice(48, 68)


class Pair(NamedTuple):
    """The same clip, generated and real."""

    name: str
    generated: Path
    real: Path


class Face(NamedTuple):
    """What a video shows, frame by frame; NaN where no face was seen."""

    frames: UInt8[np.ndarray, "t h w 3"]
    points: Float[np.ndarray, "t 68 2"]


def find_pairs(generated: Path, real: Path) -> list[Pair]:
    """Videos of the same name in two folders.

    Raises:
      InputError: one is no folder, or a generated video has no real one; it is named.
    """
    reals = {path.stem: path for path in video_files(real)}
    found = video_files(generated)
    missing = [path.name for path in found if path.stem not in reals]
    if missing or not found:
        what = f"{', '.join(missing[:3])} of {generated}" if missing else f"videos in {generated}"
        raise InputError(f"no real video in {real} goes with the {what}: names must be the same")
    return [Pair(path.stem, path, reals[path.stem]) for path in found]


def read_pairs(
    pairs: list[Pair], landmarker: FaceLandmarker
) -> Iterator[tuple[Pair, Face, Face, Video]]:
    """Each pair's generated and real face, at the real one's size and length, and the real clip."""
    for pair in pairs:
        real, frames = read_video(pair.real), read_video(pair.generated).frames
        count = min(len(frames), len(real.frames))
        frames = np.stack([_resized(frame, *real.frames.shape[1:3]) for frame in frames[:count]])
        real = real._replace(frames=real.frames[:count])
        faces = (Face(x, find_points(x, landmarker)) for x in (frames, real.frames))
        yield pair, *faces, real


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    shrinks = height < frame.shape[0]
    return cv2.resize(
        frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


def compare_faces(
    face: Face, real: Face, voice: Float[np.ndarray, " n"] | None
) -> dict[str, float]:
    """Figures of landmarks, in distances of the real one's outer eye corners.

    Landmark distances are of points about their own mean, as the field's M-LMD and F-LMD: they see
    shape, not place. Figures that need a face leave out the frames without one.
    """
    figures = {"faces_seen": float(np.isfinite(face.points[:, 0, 0]).mean())}
    seen = np.isfinite(face.points[:, 0, 0]) & np.isfinite(real.points[:, 0, 0])
    if seen.sum() < 3:
        return figures
    points, truth = face.points[seen], real.points[seen]
    unit = eye_distance(truth).mean()
    figures |= {
        "mouth_correlation": correlation(opening(points), opening(truth)),
        "mouth_opening_error": float(np.abs(opening(points) - opening(truth)).mean()),
        "mouth_landmark_distance": _distance(points[:, MOUTH], truth[:, MOUTH]) / unit,
        "face_landmark_distance": _distance(points, truth) / unit,
        "mouth_jitter": jitter(points[:, MOUTH]) / unit,
    }
    if voice is not None:
        volume = loudness(voice, len(seen))[seen]
        figures["voice_correlation"] = correlation(opening(points), volume)
    return figures


def _distance(a: Float[np.ndarray, "t k 2"], b: Float[np.ndarray, "t k 2"]) -> float:
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    return float(np.linalg.norm(a - b, axis=-1).mean())
