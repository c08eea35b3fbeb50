"""Where in a video the one steady face is: stretches without a cut, seen frame by frame."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from data_pipeline.audio import FPS
from data_pipeline.errors import InputError
from data_pipeline.face import Box, LandmarkDetector, crop, emoca_box
from data_pipeline.quality import Look, look_at

MIN_FRAMES = FPS
MAX_GAP = FPS  # frames without the face; a longer gap is a stretch without a face
# Where the face is away for longer, a close look is taken at one frame of so many. Only a face that
# a glance overlooks and that is shown for a shorter time can be missed: too short for a clip.
STRIDE = FPS // 2
MAX_JUMP = 0.35  # of the face's box between two frames; faster is a cut
MAX_CHANGE = 45  # grey levels that the box may change on average between two frames


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


class Face(NamedTuple):
    """A face in one frame, in its pixels."""

    box: Box
    landmarks: Float32[np.ndarray, "68 2"] | None  # None if they are not looked for


class Finder(Protocol):
    """Whatever says where the faces of a frame are."""

    def find(
        self, frame: UInt8[np.ndarray, "h w 3"], near: Box | None, closely: bool
    ) -> list[Face]:
        """The faces, the one to be followed first; `near` is where it was a moment ago.

        Without `closely`, small ones may be overlooked, and it takes a fraction of the time.
        """


class LandmarkFinder(NamedTuple):
    """Faces where a detector finds them, inside of a region if there is one."""

    detector: LandmarkDetector
    region: Region | None

    def find(
        self, frame: UInt8[np.ndarray, "h w 3"], near: Box | None, closely: bool
    ) -> list[Face]:
        """The faces: the one that is still `near` first, then the largest."""
        rows, columns = _part(frame, self.region)
        origin = np.float32([columns.start, rows.start])
        within = None if near is None else near - [*origin, 0]
        found = self.detector.detect(frame[rows, columns], within, closely)
        faces = [Face(emoca_box(points + origin), points + origin) for points in found]
        return faces if near is None else sorted(faces, key=lambda face: _jumps(near, face.box))


class FixedBox(NamedTuple):
    """The face is in a given box, or in the middle square of a region or of the picture."""

    box: tuple[float, float, float] | None
    region: Region | None
    detector: LandmarkDetector | None  # for the landmarks

    def find(
        self, frame: UInt8[np.ndarray, "h w 3"], near: Box | None, closely: bool
    ) -> list[Face]:
        """The box, as one face; with a detector only if that finds one there."""
        box = np.array(self.box or _middle_square(*_part(frame, self.region)), np.float64)
        if self.detector is None:
            return [Face(box, None)]
        inside = [
            points
            for points in self.detector.detect(frame, box, closely)
            if (np.abs(emoca_box(points)[:2] - box[:2]) < box[2] / 2).all()
        ]
        return [Face(box, points) for points in inside[:1]]


def _part(frame: UInt8[np.ndarray, "h w 3"], region: Region | None) -> tuple[slice, slice]:
    height, width = frame.shape[:2]
    return region.within(height, width) if region else (slice(0, height), slice(0, width))


def _middle_square(rows: slice, columns: slice) -> tuple[float, float, float]:
    side = min(rows.stop - rows.start, columns.stop - columns.start)
    return (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2, side


class Stretch(NamedTuple):
    """Frames [start, end) of a video that show one face without a cut, or why they do not."""

    start: int
    boxes: Float64[np.ndarray, "t 3"]  # centre and side in pixels, interpolated as the landmarks
    landmarks: Float32[np.ndarray, "t 68 2"] | None  # in pixels, interpolated where it was lost
    found: Bool[np.ndarray, " t"]
    accompanied: Bool[np.ndarray, " t"]  # by another face at least half as large
    looks: list[Look | None]
    reason: str  # empty if there is a face for long enough

    @property
    def end(self) -> int:
        """The frame after its last one."""
        return self.start + len(self.found)

    def slice(self, start: int, end: int) -> "Stretch":
        """Its frames from `start` to before `end`, counted from its own first one."""
        part = slice(start, end)
        return Stretch(
            self.start + start,
            self.boxes[part],
            None if self.landmarks is None else self.landmarks[part],
            self.found[part],
            self.accompanied[part],
            self.looks[part],
            self.reason,
        )


class _Sighting(NamedTuple):
    face: Face
    accompanied: bool
    look: Look


def watch(frames: Iterable[UInt8[np.ndarray, "h w 3"]], finder: Finder) -> list[Stretch]:
    """Goes through a video once and divides it at its cuts and where the face is away for long.

    The stretches follow each other and leave no frame out.
    """
    sightings: list[_Sighting | None] = []
    edges = {0}
    previous, seen = None, -1  # The last face, the frame it was in and that frame's number.
    waiting: list[np.ndarray] = []  # Frames since the last one that was looked at closely.
    for frame in frames:
        waiting.append(frame)
        if len(sightings) - (seen + 1) > MAX_GAP:
            closely = len(waiting) == STRIDE
            if not finder.find(frame, previous and previous[0].box, closely):
                if closely:
                    sightings += [None] * STRIDE
                    waiting.clear()
                continue
        # Usually one; where a face is back, also those before that it may have come back in.
        for index, shown in enumerate(waiting, len(sightings)):
            faces = finder.find(shown, previous and previous[0].box, closely=True)
            sightings.append(_see(shown, faces) if faces else None)
            if not faces:
                continue
            if previous is not None and _is_cut(previous, (faces[0], shown)):
                edges |= {seen + 1, index}  # Nobody knows where between the two it was.
            previous, seen = (faces[0], shown), index
        waiting.clear()
    sightings += [None] * len(waiting)
    edges |= {len(sightings), *_edges_of_gaps(sightings)}
    ordered = sorted(edges)
    return [
        _stretch(start, sightings[start:end])
        for start, end in zip(ordered, ordered[1:], strict=False)
    ]


def _see(frame: UInt8[np.ndarray, "h w 3"], faces: list[Face]) -> _Sighting:
    box = faces[0].box
    accompanied = any(face.box[2] > box[2] / 2 for face in faces[1:])
    return _Sighting(faces[0], accompanied, look_at(frame, box))


def _is_cut(before: tuple[Face, np.ndarray], now: tuple[Face, np.ndarray]) -> bool:
    was, box = before[0].box, now[0].box
    if _jumps(was, box):
        return True
    # Both through the same window: a cut to another person may leave the face where it was.
    change = np.abs(_thumbnail(now[1], was) - _thumbnail(before[1], was)).mean()
    return bool(change > MAX_CHANGE)


def _jumps(was: Box, box: Box) -> bool:
    return bool(np.abs(box - was).max() > MAX_JUMP * was[2])


def _thumbnail(frame: UInt8[np.ndarray, "h w 3"], box: Box) -> Float32[np.ndarray, "32 32"]:
    return cv2.cvtColor(crop(frame, box, 32), cv2.COLOR_RGB2GRAY).astype(np.float32)


def _edges_of_gaps(sightings: list[_Sighting | None]) -> Iterator[int]:
    start = 0  # Of the frames since the face was there.
    for index, sighting in enumerate([*sightings, True]):
        if sighting is None:
            continue
        if index - start > MAX_GAP:
            yield from (start, index)
        start = index + 1


def _stretch(start: int, sightings: list[_Sighting | None]) -> Stretch:
    found = np.array([sighting is not None for sighting in sightings])
    seen = [sighting for sighting in sightings if sighting is not None]
    looks = [sighting and sighting.look for sighting in sightings]
    accompanied = np.array([bool(sighting and sighting.accompanied) for sighting in sightings])
    if not seen:
        return Stretch(start, np.zeros((len(found), 3)), None, found, accompanied, looks, "no face")
    boxes = _filled(np.stack([sighting.face.box for sighting in seen]), found)
    landmarks = None
    if seen[0].face.landmarks is not None:
        known = np.stack([sighting.face.landmarks for sighting in seen])
        landmarks = _filled(known, found).astype(np.float32)
    reason = f"too short: {len(found) / FPS:.2f} s" if len(found) < MIN_FRAMES else ""
    return Stretch(start, boxes, landmarks, found, accompanied, looks, reason)


def _filled(known: np.ndarray, found: Bool[np.ndarray, " t"]) -> Float64[np.ndarray, "t ..."]:
    """The values of all frames, those of frames without a face interpolated."""
    times = np.arange(len(found))
    columns = known.reshape(len(known), -1).T
    filled = np.stack([np.interp(times, times[found], column) for column in columns], 1)
    return filled.reshape(len(found), *known.shape[1:])
