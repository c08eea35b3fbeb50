"""Videos of any system against the real ones: pictures, and what MediaPipe's landmarks say.

Nothing of how the videos were made is needed; pairs have the same file name, frames are compared in
order, as many as the shorter one has, at the real one's size.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.audio import SAMPLES_PER_FRAME
from data_pipeline.datasets.raw import video_files
from data_pipeline.errors import InputError
from data_pipeline.face import FaceLandmarker, sync_box
from data_pipeline.video import Video, read_video
from reta_jax.experts.landmark_net import MOUTH
from reta_jax.metrics.clips import compare_pixels, fid_features, judge_crops
from reta_jax.metrics.judges import Judges
from reta_jax.metrics.landmarks import (
    blinks_per_minute,
    eye_distance,
    eye_opening,
    head_motion,
    lip_landmark_error,
    shape_distance,
)
from reta_jax.metrics.mouth import (
    correlation,
    find_points,
    jitter,
    loudness,
    opening,
    silent_frames,
)
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.rows import BLURRED, GENERATED, PORTRAIT, TRUTH, known_videos, rows
from reta_jax.metrics.statistics import Figures


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
    pairs: list[Pair], landmarker: FaceLandmarker, count: int | None = None
) -> Iterator[tuple[Pair, Face, Face, Video]]:
    """Each pair's generated and real face, at the real one's size and length, and the real clip."""
    longest = count
    for pair in pairs:
        real, frames = read_video(pair.real), read_video(pair.generated).frames
        count = min(len(frames), len(real.frames), longest or len(frames))
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


def judge_pair(
    judges: Judges,
    protocol: Protocol,
    face: Face,
    real: Face,
    landmarker: FaceLandmarker,
    voice: Float[np.ndarray, " n"] | None,
    other_voice: Float[np.ndarray, " n"] | None,
) -> tuple[dict[str, Figures], dict[str, Float[np.ndarray, "f d"]]]:
    """Figures of every row of a pair, and features for the FID by row.

    The still portrait is the real one's first frame. Of the judges, those of sync, identity and
    FID are asked.
    """
    shown = {GENERATED: face.frames} | known_videos(real.frames, real.frames[0])
    faces = {GENERATED: face, TRUTH: real}
    for name in (BLURRED, PORTRAIT):
        faces[name] = Face(shown[name], find_points(shown[name], landmarker))
    people = {}
    if judges.identity and "identity" in protocol.figures:
        people = {name: judges.identity.look(frames) for name, frames in shown.items()}
    silence = np.zeros(len(real.frames) * SAMPLES_PER_FRAME, np.float32)
    figures, features = {}, {}
    known = rows(len(real.frames), silence if voice is None else voice, other_voice)
    for name, row in known.items():
        video = Face(*(x[row.at] for x in faces[row.video]))
        found = {}
        if "image" in protocol.figures:
            found |= compare_pixels(video.frames, real.frames)
        found |= compare_faces(video, real, None if voice is None else row.audio)
        if people:
            same = (people[row.video][row.at] * people[TRUTH]).sum(1)
            found["identity_similarity"] = float(same.mean())
        box = _box(video)
        if judges.sync and voice is not None and box is not None and "sync" in protocol.figures:
            found |= judge_crops(judges.sync.look, protocol, video.frames, row.audio, box)
        features |= fid_features(judges, protocol, name, video.frames)
        figures[name] = found
    return figures, features


def _box(video: Face) -> Float[np.ndarray, "4"] | None:
    """The face of the whole video, as the records have it; None without one."""
    seen = video.points[np.isfinite(video.points[:, 0, 0])]
    height, width = video.frames.shape[1:3]
    return sync_box(np.float32(seen / (width, height))) if len(seen) else None


def compare_faces(face: Face, real: Face, voice: Float[np.ndarray, " n"] | None) -> Figures:
    """Figures of landmarks, in distances of the real one's outer eye corners.

    Landmark distances are of points about their own mean, as the field's M-LMD and F-LMD: they see
    shape, not place. Figures that need a face leave out the frames without one.
    """
    figures = {"faces_seen": float(np.isfinite(face.points[:, 0, 0]).mean())}
    seen = np.isfinite(face.points[:, 0, 0]) & np.isfinite(real.points[:, 0, 0])
    if seen.sum() < 3:
        return figures
    points, truth = face.points[seen], real.points[seen]
    unit = float(eye_distance(truth).mean())
    figures |= {
        "mouth_correlation": correlation(opening(points), opening(truth)),
        "mouth_opening_error": float(np.abs(opening(points) - opening(truth)).mean()),
        "mouth_landmark_distance": shape_distance(points[:, MOUTH], truth[:, MOUTH]) / unit,
        "face_landmark_distance": shape_distance(points, truth) / unit,
        **lip_landmark_error(points, truth),
        "mouth_jitter": jitter(points[:, MOUTH]) / unit,
        "head_motion": head_motion(points),
        "blinks_per_minute": blinks_per_minute(eye_opening(face.points)),
    }
    if voice is not None:
        figures["voice_correlation"] = correlation(
            opening(points), loudness(voice, len(seen))[seen]
        )
        silent = silent_frames(voice, len(seen)) & seen
        if silent.sum() > 1:
            figures["movement_in_silence"] = float(np.std(opening(face.points[silent])))
    return figures
