"""From a video to clips: its one steady face, cropped, with its voice.

What a data set has to say of its raw files is a list of `VideoJob`s (data_pipeline/datasets). A
video is decoded twice: once to find its cuts and its face (data_pipeline/shots.py), once to crop.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int16, UInt8

from data_pipeline.audio import (
    FPS,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    first_stream,
    has_sound,
    is_silent,
    load_audio,
    open_media,
    to_float,
    to_int16,
    window,
)
from data_pipeline.emotions import UNKNOWN_EMOTION
from data_pipeline.errors import InputError, MissingError
from data_pipeline.face import (
    TYPICAL_SYNC_BOX,
    FaceLandmarker,
    crop,
    fomm_box,
    into_crop,
    smooth_boxes,
    sync_box,
)
from data_pipeline.manifest import Scores
from data_pipeline.quality import measure, refusal
from data_pipeline.records import encode_clip
from data_pipeline.shots import Finder, FixedBox, LandmarkFinder, Region, Stretch, watch
from data_pipeline.sync_score import LipOpening, SyncScore, SyncScorer, out_of_sync
from data_pipeline.video import iterate_frames, read_soundtrack

MAX_FRAMES = 5 * FPS  # Longer stretches become several clips, for a reader takes a whole record.
MAX_SHORT = 1.0  # seconds that a video, or a separate voice, may end before it should
_SILENT = "silent audio"

CropMode = Literal["emoca", "fomm", "none"]


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


class Outcome(NamedTuple):
    """What became of a part of a source."""

    clip: str
    example: dict[str, Any] | None  # as of `encode_clip`; None if it is refused
    start: float | None = None  # seconds after the source's first frame
    end: float | None = None
    scores: Scores = Scores()
    reason: str = ""  # why it is refused


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
    model: str  # the face landmarker's file; empty looks for no landmarks, in a given box alone
    emotion: int = UNKNOWN_EMOTION
    audio: str = ""  # file with the voice, which begins with the picture; else the video's own
    start: float = 0.0  # seconds after the first frame
    end: float | None = None
    one_shot: bool = True  # a span with an end is one shot or nothing, as published ones are
    region: Region | None = None  # where the face is, else anywhere
    crop: CropMode = "emoca"
    box: tuple[float, float, float] | None = None  # centre x, y and side, instead of `crop`
    scorer: SyncScorer = LipOpening()
    refused: str = ""  # reason that was found without looking into the files
    missing: str = ""  # likewise, where a file is not there (yet)
    remote: Remote | None = None  # where a missing video can be fetched

    def run(self) -> Iterator[Outcome]:
        """Yields clips of at most five seconds and refused stretches, in the order of their time.

        Raises:
            InputError: nothing of the whole source can be had.
        """
        if self.refused:
            raise InputError(self.refused)
        if self.missing:
            raise MissingError(self.missing)
        if not has_sound(self.audio or self.source):
            raise InputError("no audio stream")
        stretches = watch(self._frames(), self._finder())
        self._check_span(stretches)
        samples = self._read_voice(stretches[-1].end)
        pieces = [piece for stretch in stretches for piece in self._divide(stretch, samples)]
        frames = self._frames()
        for index, piece in enumerate(pieces):
            name = self.clip if len(pieces) == 1 else f"{self.clip}#{index:03d}"
            yield Outcome(
                clip=name,
                example=self._encode(name, piece, frames, samples),
                start=self.start + piece.part.start / FPS,
                end=self.start + piece.part.end / FPS,
                scores=piece.scores,
                reason=piece.reason,
            )

    @property
    def _seconds(self) -> float | None:
        return None if self.end is None else self.end - self.start

    def _frames(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        return iterate_frames(self.source, self._seconds, self.start)

    @property
    def _is_placed(self) -> bool:
        """Whether the face's place is given, so that no others are looked for."""
        return self.box is not None or self.crop == "none"

    def _finder(self) -> Finder:
        landmarker = _landmarker(self.model) if self.model else None
        if self._is_placed:
            return FixedBox(self.box, self.region, landmarker)
        return LandmarkFinder(landmarker, self.region)

    def _check_span(self, stretches: list[Stretch]) -> None:
        if self._seconds is None or not self.one_shot:
            return
        length = stretches[-1].end / FPS
        if length < self._seconds - MAX_SHORT:
            raise InputError(
                f"the video ends at {self.start + length:.2f} s, its clip at {self.end:.2f} s: it "
                "is another cut, or truncated"
            )
        if len(stretches) > 1:
            raise InputError(
                f"scene cut or jumping face at {self.start + stretches[1].start / FPS:.2f} s"
            )

    def _read_voice(self, frames: int) -> Int16[np.ndarray, " n"]:
        if self.audio:
            whole = load_audio(self.audio)
            if abs(len(whole) / SAMPLE_RATE - frames / FPS) > MAX_SHORT:
                raise InputError(
                    f"the voice is {len(whole) / SAMPLE_RATE:.2f} s long, the picture "
                    f"{frames / FPS:.2f} s: they do not belong together"
                )
            voice = window(whole, 0, frames * SAMPLES_PER_FRAME)
        else:
            voice = read_soundtrack(self.source, frames, self._seconds, self.start)
        if is_silent(voice):
            raise InputError(_SILENT)
        return to_int16(voice)

    def _divide(self, stretch: Stretch, samples: Int16[np.ndarray, " n"]) -> "Iterator[_Piece]":
        """A stretch as pieces of equal length that become a clip each, or are refused."""
        if stretch.reason:
            yield _Piece(stretch, stretch.boxes, Scores(), stretch.reason)
            return
        sync = self._score_sync(stretch, samples)
        boxes = stretch.boxes
        if self.box is None and self.crop == "emoca":
            boxes = smooth_boxes(boxes, stretch.found)
        count = len(stretch.found)
        ends = np.linspace(0, count, -(-count // MAX_FRAMES) + 1).round().astype(int).tolist()
        for start, end in zip(ends, ends[1:], strict=False):
            part = stretch.slice(start, end)
            accompanied = None if self._is_placed else part.accompanied
            scores = measure(part.looks, part.landmarks, part.found, accompanied)
            if sync:
                scores = scores._replace(sync=sync.correlation, sync_offset=sync.offset)
            silence = _SILENT if is_silent(to_float(_voice_of(part, samples))) else ""
            reason = silence or refusal(scores) or out_of_sync(sync)
            piece = _Piece(part, boxes[start:end].astype(np.float32), scores, reason)
            yield piece if self.crop != "fomm" or self.box else piece.in_one_box()

    def _score_sync(self, stretch: Stretch, samples: Int16[np.ndarray, " n"]) -> SyncScore | None:
        if stretch.landmarks is None:
            return None
        return self.scorer.score(stretch.landmarks, _voice_of(stretch, samples))

    def _encode(
        self,
        name: str,
        piece: "_Piece",
        frames: Iterator[UInt8[np.ndarray, "h w 3"]],
        samples: Int16[np.ndarray, " n"],
    ) -> dict[str, Any] | None:
        """The example of a piece, None of a refused one; takes its frames either way."""
        part, boxes = piece.part, piece.boxes
        if piece.reason:
            for _ in part.found:
                next(frames)
            return None
        landmarks, face = np.zeros((len(boxes), 68, 2), np.float32), TYPICAL_SYNC_BOX
        if part.landmarks is not None:
            landmarks = into_crop(part.landmarks, boxes[:, None])
            face = sync_box(landmarks)
        return encode_clip(
            Clip(
                frames=np.stack([crop(next(frames), box, self.size) for box in boxes]),
                audio=_voice_of(part, samples),
                landmarks=landmarks,
                sync_box=face,
                boxes=boxes,
                emotion=self.emotion,
                identity=self.identity,
                clip=name,
            )
        )

    def extent(self) -> tuple[float, float]:
        """Seconds of video and pixels of a frame, as published or by the file's header.

        Raises:
            InputError: the file cannot be read.
        """
        if self.end is not None and self.region is not None:
            return self.end - self.start, self.region.height**2 * 16 / 9
        with open_media(self.source) as container:
            stream = first_stream(container, "video", self.source)
            end = self.end or (container.duration or 0) / 1e6
            return end - self.start, stream.width * stream.height


class _Piece(NamedTuple):
    """A stretch, or a part of one, that becomes a clip or is refused."""

    part: Stretch
    boxes: Float32[np.ndarray, "t 3"]  # of the crops
    scores: Scores
    reason: str

    def in_one_box(self) -> "_Piece":
        """As FOMM crops: one box for all frames, which no face may leave."""
        box = fomm_box(self.part.landmarks)
        if box is None:
            return self._replace(reason=self.reason or "the head moves out of a steady crop")
        return self._replace(boxes=np.tile(box.astype(np.float32), (len(self.boxes), 1)))


def _voice_of(part: Stretch, samples: Int16[np.ndarray, " n"]) -> Int16[np.ndarray, " m"]:
    return samples[part.start * SAMPLES_PER_FRAME : part.end * SAMPLES_PER_FRAME]


@functools.cache
def _landmarker(model: str) -> FaceLandmarker:
    try:
        return FaceLandmarker(model)
    except InputError as error:
        # Not an InputError, by which the video would be refused: it is no fault of the video's.
        raise RuntimeError(str(error)) from error
