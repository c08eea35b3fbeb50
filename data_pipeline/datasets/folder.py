"""Any folder of talking-head videos as a data set."""

import csv
import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8

from data_pipeline.audio import FPS, SAMPLES_PER_FRAME, is_silent, to_int16
from data_pipeline.emotions import EMOTIONS, UNKNOWN_EMOTION
from data_pipeline.errors import InputError
from data_pipeline.face import (
    FaceLandmarker,
    crop,
    emoca_box,
    into_crop,
    smooth_boxes,
    sync_box,
)
from data_pipeline.records import Source, encode_clip
from data_pipeline.video import iterate_frames, read_soundtrack

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v", ".flv", ".ts"}

MIN_FRAMES = FPS
MAX_FRAMES = 5 * FPS  # Longer videos become several clips, for a reader takes a whole record.
MAX_LOST = 0.2  # of the frames may show no face
MAX_ACCOMPANIED = 0.1  # of the frames may show another face at least half as large
MAX_JUMP = 0.35  # of the crop's side between two frames; faster is a cut
MAX_CHANGE = 45  # grey levels that the crop may change on average between two frames

IdentityFrom = Literal["folder", "prefix", "file"]


class Clip(NamedTuple):
    """A cropped clip or a piece of one; fields as of the records' schema."""

    frames: UInt8[np.ndarray, "t s s 3"]
    audio: Int16[np.ndarray, " n"]
    landmarks: Float32[np.ndarray, "t 68 2"]
    sync_box: Float32[np.ndarray, "4"]
    boxes: Float32[np.ndarray, "t 3"]
    emotion: int
    identity: str
    clip: str


class Track(NamedTuple):
    """The face of a video, frame by frame, in its pixels."""

    landmarks: Float32[np.ndarray, "t 68 2"]  # interpolated where it was not found
    boxes: Float32[np.ndarray, "t 3"]  # smoothed EMOCA boxes


@dataclasses.dataclass(frozen=True)
class FolderJob:
    """One video file."""

    clip: str
    identity: str
    source: str
    emotion: int
    size: int
    model: str  # the face landmarker's file

    def run(self) -> Iterator[dict[str, Any]]:
        """Yields the video's clips of at most five seconds; refuses what has no steady voice."""
        track = track_face(self.source, _landmarker(self.model))
        voice = read_soundtrack(self.source, len(track.boxes))
        if voice is None:
            raise InputError("no audio stream")
        if is_silent(voice):
            raise InputError("silent audio")
        samples = to_int16(voice)
        pieces = -(-len(track.boxes) // MAX_FRAMES)
        ends = np.linspace(0, len(track.boxes), pieces + 1).round().astype(int)
        frames = iterate_frames(self.source)
        for index, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
            boxes = track.boxes[start:end]
            landmarks = into_crop(track.landmarks[start:end], boxes[:, None])
            yield encode_clip(
                Clip(
                    frames=np.stack([crop(next(frames), box, self.size) for box in boxes]),
                    audio=samples[start * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME],
                    landmarks=landmarks,
                    sync_box=sync_box(landmarks),
                    boxes=boxes,
                    emotion=self.emotion,
                    identity=self.identity,
                    clip=self.clip if pieces == 1 else f"{self.clip}#{index:03d}",
                )
            )


@functools.cache
def _landmarker(model: str) -> FaceLandmarker:
    return FaceLandmarker(model)


def track_face(path: str | os.PathLike, landmarker: FaceLandmarker) -> Track:
    """Follows the one steady face of a video.

    Raises:
        InputError: the file cannot be read or is too short, or there is no such face.
    """
    faces, accompanied = [], 0
    previous = None  # landmarks of the last face, and a thumbnail of the frame it was in
    for index, frame in enumerate(iterate_frames(path)):
        found = landmarker.detect(frame, previous and emoca_box(previous[0]))
        faces.append(found[0] if found else None)
        if not found:
            continue
        # A second face of half the size or more.
        accompanied += any(emoca_box(face)[2] > emoca_box(found[0])[2] / 2 for face in found[1:])
        if previous is not None:
            _check_steady(previous, (found[0], frame), index)
        previous = found[0], frame
    return _check_track(faces, accompanied)


def _check_steady(
    before: tuple[np.ndarray, np.ndarray], now: tuple[np.ndarray, np.ndarray], index: int
) -> None:
    was, box = emoca_box(before[0]), emoca_box(now[0])
    jump = np.abs(box - was).max() / was[2]
    # Both through the same window: a cut to another person may leave the face where it was.
    change = np.abs(_thumbnail(now[1], was) - _thumbnail(before[1], was)).mean()
    if jump > MAX_JUMP or change > MAX_CHANGE:
        raise InputError(f"scene cut or jumping face at {index / FPS:.2f} s")


def _thumbnail(frame: UInt8[np.ndarray, "h w 3"], box: np.ndarray) -> Float32[np.ndarray, "32 32"]:
    return cv2.cvtColor(crop(frame, box, 32), cv2.COLOR_RGB2GRAY).astype(np.float32)


def _check_track(faces: list[np.ndarray | None], accompanied: int) -> Track:
    found: Bool[np.ndarray, " t"] = np.array([face is not None for face in faces])
    if len(faces) < MIN_FRAMES:
        raise InputError(f"too short: {len(faces) / FPS:.2f} s")
    if not found.any():
        raise InputError("no face")
    if accompanied > MAX_ACCOMPANIED * len(faces):
        raise InputError(f"several faces in {accompanied / len(faces):.0%} of the frames")
    if np.mean(~found) > MAX_LOST:
        raise InputError(f"face lost in {np.mean(~found):.0%} of the frames")
    seen = np.stack([face for face in faces if face is not None])
    times = np.arange(len(faces))
    flat = [np.interp(times, times[found], column) for column in seen.reshape(len(seen), -1).T]
    landmarks = np.stack(flat, 1).reshape(-1, 68, 2).astype(np.float32)
    boxes = smooth_boxes(np.stack([emoca_box(face) for face in landmarks]), found)
    return Track(landmarks, boxes.astype(np.float32))


def jobs(
    raw: str | os.PathLike,
    size: int,
    model: str,
    identity_from: IdentityFrom = "folder",
    identities: str | os.PathLike | None = None,
    limit: int | None = None,
) -> list[FolderJob]:
    """A job for each video file below `raw`, in the order of their paths.

    Args:
        raw: the folder; searched to any depth.
        size: side of the crops in pixels.
        model: the face landmarker's file.
        identity_from: who speaks: the file's folder, its name before "__", or each file another.
        identities: CSV with columns `id` (the file's name without suffix) and `identity`, which
            goes before `identity_from`.
        limit: takes only the first so many files.
    """
    raw = Path(raw)
    if not raw.is_dir():
        raise InputError(f"{raw} is not a directory: give the folder with the videos as --raw.")
    files = sorted(path for path in raw.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise InputError(f"{raw} has no video files: expected {', '.join(sorted(VIDEO_SUFFIXES))}.")
    named = _read_identities(identities) if identities else {}
    return [
        FolderJob(
            clip=_clip_name(path.relative_to(raw)),
            identity=named.get(path.stem) or _identity(path, identity_from),
            source=str(path),
            emotion=emotion_of(path.relative_to(raw)),
            size=size,
            model=model,
        )
        for path in files[:limit]
    ]


def _read_identities(path: str | os.PathLike) -> dict[str, str]:
    try:
        with open(path, newline="") as file:
            return {line["id"]: line["identity"] for line in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise InputError(f"{path} is not a CSV file with columns id and identity.") from error


def _clip_name(relative: Path) -> str:
    """A file name for the clip, without blanks; marked where that made it ambiguous."""
    plain = "__".join(relative.with_suffix("").parts)
    name = re.sub(r"[^\w.-]+", "_", plain)
    if name == plain and relative.suffix == ".mp4":
        return name
    return f"{name}-{hashlib.sha256(str(relative).encode()).hexdigest()[:6]}"


def _identity(path: Path, identity_from: IdentityFrom) -> str:
    if identity_from == "folder":
        return path.parent.name
    return path.stem.split("__")[0] if identity_from == "prefix" else path.stem


def emotion_of(path: Path) -> int:
    """The emotion that a path states as MEAD does ("level_3_happy", "happy/level_3"), else -1."""
    words = re.split(r"[^a-z]+", str(path.with_suffix("")).lower())
    stated = [word for word in words if word in EMOTIONS]
    return EMOTIONS.index(stated[-1]) if "level" in words and stated else UNKNOWN_EMOTION


def split_of(test_identities: str | os.PathLike | None = None) -> Callable[[Source], str]:
    """Splits by identity: those named in a file, one a line, are for judging; else about 10 %."""
    if test_identities is None:
        return lambda source: "test" if _in_tenth(source.identity) else "train"
    try:
        named = set(Path(test_identities).read_text().split("\n"))
    except OSError as error:
        raise InputError(f"{test_identities} cannot be read ({error.strerror}).") from error
    return lambda source: "test" if source.identity in named else "train"


def _in_tenth(identity: str) -> bool:
    return int(hashlib.sha256(identity.encode()).hexdigest(), 16) % 10 == 0
