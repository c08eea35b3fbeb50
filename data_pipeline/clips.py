"""From a stretch of a video to clips: its one steady face, cropped as EMOCA does, with its voice.

What a data set has to say of its raw files is a list of `VideoJob`s (data_pipeline/datasets).
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8

from data_pipeline.audio import (
    FPS,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    has_sound,
    is_silent,
    load_audio,
    open_at,
    to_int16,
    window,
)
from data_pipeline.emotions import UNKNOWN_EMOTION
from data_pipeline.errors import InputError, MissingError
from data_pipeline.face import (
    FaceLandmarker,
    crop,
    emoca_box,
    into_crop,
    smooth_boxes,
    sync_box,
)
from data_pipeline.records import encode_clip
from data_pipeline.video import iterate_frames, read_soundtrack

MIN_FRAMES = FPS
MAX_FRAMES = 5 * FPS  # Longer videos become several clips, for a reader takes a whole record.
MAX_LOST = 0.2  # of the frames may show no face
MAX_ACCOMPANIED = 0.1  # of the frames may show another face at least half as large
MAX_JUMP = 0.35  # of the crop's side between two frames; faster is a cut
MAX_CHANGE = 45  # grey levels that the crop may change on average between two frames
MAX_SHORT = 1.0  # seconds that a video, or a separate voice, may end before it should


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


class Region(NamedTuple):
    """The part of a picture in which a data set says that its face is."""

    left: float  # in pixels of a picture of this `height`, as are the others
    top: float
    right: float
    bottom: float
    height: float  # another one that was downloaded is a rescaled copy

    def within(self, height: int, width: int) -> tuple[slice, slice]:
        """Its rows and columns in a picture of this size.

        Raises:
            InputError: it lies outside.
        """
        scale = height / self.height
        top, bottom = np.clip(np.round([self.top * scale, self.bottom * scale]), 0, height)
        left, right = np.clip(np.round([self.left * scale, self.right * scale]), 0, width)
        if bottom <= top or right <= left:
            raise InputError(f"the published crop lies outside of the {width}x{height} picture")
        return slice(int(top), int(bottom)), slice(int(left), int(right))


class Remote(NamedTuple):
    """A video that can be fetched."""

    name: str  # without suffix, under which the data set looks for it
    address: str


@dataclasses.dataclass(frozen=True)
class VideoJob:
    """A stretch of a video file that is to become clips, or why there will be none of it."""

    clip: str
    identity: str
    source: str  # empty if there is no such file
    size: int
    model: str  # the face landmarker's file
    emotion: int = UNKNOWN_EMOTION
    audio: str = ""  # file with the voice, which begins with the picture; else the video's own
    start: float = 0.0  # seconds after the first frame
    end: float | None = None
    region: Region | None = None  # where the face is, else anywhere
    refused: str = ""  # reason that was found without looking into the files
    missing: str = ""  # likewise, where a file is not there (yet)
    remote: Remote | None = None  # where a missing video can be fetched

    def run(self) -> Iterator[dict[str, Any]]:
        """Yields clips of at most five seconds; refuses what has no steady face with a voice."""
        if self.refused:
            raise InputError(self.refused)
        if self.missing:
            raise MissingError(self.missing)
        if not has_sound(self.audio or self.source):
            raise InputError("no audio stream")
        seconds = None if self.end is None else self.end - self.start
        track = track_face(self.source, _landmarker(self.model), self.start, seconds, self.region)
        samples = self._read_voice(len(track.boxes), seconds)
        pieces = -(-len(track.boxes) // MAX_FRAMES)
        ends = np.linspace(0, len(track.boxes), pieces + 1).round().astype(int)
        frames = iterate_frames(self.source, seconds, self.start)
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

    def _read_voice(self, frames: int, seconds: float | None) -> Int16[np.ndarray, " n"]:
        if self.audio:
            whole = load_audio(self.audio)
            if abs(len(whole) / SAMPLE_RATE - frames / FPS) > MAX_SHORT:
                raise InputError(
                    f"the voice is {len(whole) / SAMPLE_RATE:.2f} s long, the picture "
                    f"{frames / FPS:.2f} s: they do not belong together"
                )
            voice = window(whole, 0, frames * SAMPLES_PER_FRAME)
        else:
            voice = read_soundtrack(self.source, frames, seconds, self.start)
        if is_silent(voice):
            raise InputError("silent audio")
        return to_int16(voice)

    def extent(self) -> tuple[float, float]:
        """Seconds of video and pixels of a frame, as published or by the file's header.

        Raises:
            InputError: the file cannot be read.
        """
        if self.end is not None and self.region is not None:
            return self.end - self.start, self.region.height**2 * 16 / 9
        with open_at(self.source, "video") as (container, stream, _):
            return (container.duration or 0) / 1e6, stream.width * stream.height


@functools.cache
def _landmarker(model: str) -> FaceLandmarker:
    return FaceLandmarker(model)


def track_face(
    path: str | os.PathLike,
    landmarker: FaceLandmarker,
    start: float = 0.0,
    seconds: float | None = None,
    region: Region | None = None,
) -> Track:
    """Follows the one steady face of a video.

    Args:
        path: the video.
        landmarker: finds faces.
        start: seconds after its first frame to begin at.
        seconds: how long; to its end if None.
        region: where the face is; others do not count.

    Raises:
        InputError: the file cannot be read or is too short, or there is no such face.
    """
    faces, accompanied = [], 0
    previous = None  # landmarks of the last face, and a thumbnail of the frame it was in
    for index, frame in enumerate(iterate_frames(path, seconds, start)):
        found = _find_faces(frame, landmarker, previous and emoca_box(previous[0]), region)
        faces.append(found[0] if found else None)
        if not found:
            continue
        # A second face of half the size or more.
        accompanied += any(emoca_box(face)[2] > emoca_box(found[0])[2] / 2 for face in found[1:])
        if previous is not None:
            _check_steady(previous, (found[0], frame), index)
        previous = found[0], frame
    if seconds is not None and len(faces) / FPS < seconds - MAX_SHORT:
        raise InputError(
            f"the video ends at {start + len(faces) / FPS:.2f} s, its clip at "
            f"{start + seconds:.2f} s: it is another cut, or truncated"
        )
    return _check_track(faces, accompanied)


def _find_faces(
    frame: UInt8[np.ndarray, "h w 3"],
    landmarker: FaceLandmarker,
    near: np.ndarray | None,
    region: Region | None,
) -> list[Float32[np.ndarray, "68 2"]]:
    if region is None:
        return landmarker.detect(frame, near)
    rows, columns = region.within(*frame.shape[:2])
    origin = np.float32([columns.start, rows.start])
    near = None if near is None else near - [*origin, 0]
    return [face + origin for face in landmarker.detect(frame[rows, columns], near)]


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
