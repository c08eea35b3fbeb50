"""Pictures: any video to 25 fps RGB with its sound, RGB with sound to mp4, any image to RGB."""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import Interpolation
from jaxtyping import Float32, UInt8
from PIL import ExifTags, Image

from data_pipeline.audio import (
    FPS,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    check_complete,
    decode_audio,
    deferred_interrupts,
    has_sound,
    open_at,
    window,
)
from data_pipeline.errors import InputError
from data_pipeline.files import part_of, target_of

# Sound is stored at 48 kHz: every player takes it, and AAC's 1024 samples of priming, which
# players without edit lists leave in, are 21 ms there and 64 ms at 16 kHz.
_STORED_RATE = 48_000
_BT709 = 1
_LONGEST_STILL = 60.0  # seconds between two frames; a damaged time stamp may claim years
# The scaler's default rounds down: every decoded picture would be 1.2 grey levels too dark.
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
# What undoes each orientation of EXIF.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Video(NamedTuple):
    """A clip on the project's clock."""

    frames: UInt8[np.ndarray, "t h w 3"]  # RGB, 25 a second
    audio: Float32[np.ndarray, " n"] | None  # 16 kHz mono, n = 640 t; None without a sound track


def read_video(path: str | os.PathLike, max_seconds: float | None = None) -> Video:
    """Reads a whole clip (or its first `max_seconds`) at 25 fps with its sound in step.

    Raises:
        InputError: the file is missing, unreadable, truncated, or has no picture.
    """
    frames = stacked(iterate_frames(path, max_seconds))
    return Video(frames, read_soundtrack(path, len(frames), max_seconds))


def iterate_frames(
    path: str | os.PathLike, max_seconds: float | None = None, start: float = 0.0
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields upright RGB frames, resampled by their timestamps to 25 a second, one in memory.

    Output k is the source frame whose time is nearest to start + k / 25 s after the first frame's.
    There is one at least. All have the first one's size: others are scaled to it.
    """
    limit = np.inf if max_seconds is None else max(round(max_seconds * FPS), 1)
    zero = _first_frame_time(path) + start
    with open_at(path, "video", zero) as (container, stream, frames):
        count, held, held_time, shape = 0, None, -start - 1 / FPS, None
        length = held_time
        for frame in frames:
            time = held_time + 1 / FPS if frame.time is None else frame.time - zero
            if held is not None and time > held_time + _LONGEST_STILL:
                raise InputError(
                    f"{path} has no frame between {start + held_time:.2f} and {start + time:.2f} "
                    "s: its time stamps are damaged, or it is a slide show."
                )
            while held is not None and count < limit and 2 * count / FPS <= held_time + time:
                yield held()
                count += 1
            if count >= limit:
                return
            # Not every frame is wanted: those before `start` and most of 60 a second are not.
            shape = shape or _upright_shape(frame, stream)
            held = functools.cache(functools.partial(_upright_rgb, frame, shape))
            held_time = time
            # mp4 has lengths in the order of decoding: the last one may be another frame's.
            length = max(length, time + min(_duration(frame, stream), _LONGEST_STILL))
        if held is None:
            raise InputError(f"{path} has a video stream without a single frame: export it again.")
        check_complete(container, stream, start + length, path)
        if start and length <= 0:
            raise InputError(f"{path} ends at {start + length:.2f} s, before {start:.2f} s.")
        # A half step of slack for 1/24.9 and the like.
        while count < limit and (count == 0 or count < round(length * FPS)):
            yield held()
            count += 1


def stacked(frames: Iterator[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "t h w 3"]:
    """What `np.stack` makes of one frame or more, without a list of them all beside it."""
    first = next(frames)
    return np.fromiter(itertools.chain([first], frames), np.dtype((np.uint8, first.shape)))


def read_soundtrack(
    path: str | os.PathLike, frames: int, max_seconds: float | None = None, start: float = 0.0
) -> Float32[np.ndarray, " n"] | None:
    """The sound of the `frames` frames that `iterate_frames` yields; n = 640 frames."""
    if not has_sound(path):
        return None
    zero = _first_frame_time(path) + start
    end = None if max_seconds is None else zero + max_seconds
    waveform, audio_start = decode_audio(path, zero, end)
    return window(waveform, round((zero - audio_start) * SAMPLE_RATE), frames * SAMPLES_PER_FRAME)


def _duration(frame: av.VideoFrame, stream: av.video.stream.VideoStream) -> float:
    """Seconds for which a frame is shown: by its own word, else as its stream usually does."""
    if frame.duration:
        return float(frame.duration * frame.time_base)
    return float(1 / stream.average_rate) if stream.average_rate else 1 / FPS


def _first_frame_time(path: str | os.PathLike) -> float:
    with open_at(path, "video") as (_, _, frames):
        first = next(frames, None)
        return first.time or 0.0 if first else 0.0


def _upright_shape(frame: av.VideoFrame, stream: av.video.stream.VideoStream) -> tuple[int, int]:
    """Height and width with square pixels and the rotation of the phone that shot it undone."""
    aspect = stream.sample_aspect_ratio
    shape = frame.height, round(frame.width * aspect) if aspect else frame.width
    return shape[::-1] if frame.rotation // 90 % 2 else shape


def _upright_rgb(frame: av.VideoFrame, shape: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of a shape as of `_upright_shape`, not mirrored."""
    height, width = shape[::-1] if frame.rotation // 90 % 2 else shape
    rgb = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=_EXACT)
    rgb = rgb[::-1] if _is_mirrored(frame) else rgb
    return np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90))


def _is_mirrored(frame: av.VideoFrame) -> bool:
    """Whether it is shown upside down before it is turned by `frame.rotation`."""
    try:
        # `frame.side_data` would be a cycle, in which frames wait for the garbage collector.
        shown = SideDataContainer(frame).get("DISPLAYMATRIX")
    except ValueError:  # Of kinds that PyAV has no name for.
        return False
    if shown is None:
        return False
    a, b, _, c, d, *_ = np.frombuffer(shown, np.int32).tolist()
    return a * d < b * c


class VideoWriter:
    """Writes frames and a voice to an mp4 (H.264 yuv420p + AAC, fast start) in constant memory.

    The file appears under its name only when the block ends well; until then it grows in a hidden
    file beside it, which any exception removes. A frame of odd height or width has its last row
    or column repeated, as yuv420p needs even sizes.

        with VideoWriter("out.mp4", 256, waveform) as writer:
            for frames in chunks:  # uint8 RGB (n, h, w, 3)
                writer.write(frames)

    Args:
        path: the file to write.
        size: (height, width) of the frames, or the side of a square.
        waveform: float32 (n,) at 16 kHz in [-1, 1], cut where the frames end; None for no sound.
        fps: frames a second.
        crf: H.264's constant quality: 0 is lossless, 18 is visually so, 23 is small.

    Raises:
        InputError: the place cannot be written to, or the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        size: int | tuple[int, int],
        waveform: Float32[np.ndarray, " n"] | None,
        fps: int | Fraction = FPS,
        crf: int = 18,
    ):
        self.path = Path(path)
        self._size = (size, size) if isinstance(size, int) else size
        self._waveform = waveform
        self._fps, self._crf = fps, crf
        self._frames_written, self._samples_written = 0, 0

    def __enter__(self) -> "VideoWriter":
        self._target = target_of(self.path)  # Not when all is written.
        self._part = part_of(self._target)
        with self._sentences():
            self._open()
        return self

    def _open(self) -> None:
        self._part.touch()  # Names a missing or forbidden directory better than the encoder does.
        self._container = av.open(
            f"file:{self._part}", "w", format="mp4", options={"movflags": "+faststart"}
        )
        height, width = self._size
        video = self._container.add_stream("libx264", rate=self._fps)
        video.height, video.width = height + height % 2, width + width % 2
        video.pix_fmt = "yuv420p"
        video.options = {"crf": str(self._crf), "preset": "veryfast"}
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # Limited, as players expect of yuv420p.
        self._video = video
        if self._waveform is not None:
            self._audio = self._container.add_stream(
                "aac", rate=_STORED_RATE, layout="mono", bit_rate=96_000
            )
            self._resampler = av.AudioResampler("fltp", "mono", _STORED_RATE, frame_size=1024)
            self._stored_samples = 0

    def write(self, frames: UInt8[np.ndarray, "n h w 3"]) -> None:
        """Appends frames, and the sound that goes with them."""
        with self._sentences():
            for rgb in frames:
                self._write_frame(rgb)

    def _write_frame(self, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
        if rgb.shape != (*self._size, 3):
            raise ValueError(f"a frame of shape {rgb.shape} in a video of size {self._size}")
        height, width = self._size
        even = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", interpolation=_EXACT
        )
        frame.pts, frame.time_base = self._frames_written, 1 / Fraction(self._fps)
        self._container.mux(self._video.encode(frame))
        self._frames_written += 1
        if self._waveform is not None:
            self._write_audio_until(round(self._frames_written / self._fps * SAMPLE_RATE))

    def _write_audio_until(self, end: int) -> None:
        piece = self._waveform[self._samples_written : end]
        if not piece.size:
            return
        clipped = np.clip(piece, -1, 1, dtype=np.float32)[None]
        frame = av.AudioFrame.from_ndarray(clipped, format="flt", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, self._samples_written
        frame.time_base = Fraction(1, SAMPLE_RATE)
        self._samples_written += piece.size
        self._encode_audio(frame)

    def _encode_audio(self, frame: av.AudioFrame | None) -> None:
        with deferred_interrupts():  # The encoder has a resampler inside it too.
            for part in self._resampler.resample(frame):
                part.pts, part.time_base = self._stored_samples, Fraction(1, _STORED_RATE)
                self._stored_samples += part.samples
                self._container.mux(self._audio.encode(part))

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None:
            self._discard()
            return
        with self._sentences():
            if not self._frames_written:
                raise ValueError(f"no frame was written to {self.path}")
            self._container.mux(self._video.encode(None))
            if self._waveform is not None:
                self._encode_audio(None)
                self._container.mux(self._audio.encode(None))
            self._container.close()
            os.replace(self._part, self._target)

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        """On any exception removes what was written; what the system refused becomes a sentence."""
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            self._discard()
            raise InputError(
                f"cannot write {self.path} ({error.strerror}): give a place that exists, may be "
                "written to and has room."
            ) from error
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        container = getattr(self, "_container", None)
        if container is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                container.close()
        with contextlib.suppress(OSError):  # Its directory may be the thing that is missing.
            self._part.unlink(missing_ok=True)


def resized(
    image: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """The image at another size: averaged where it is lower, cubic where it is higher."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height < image.shape[0]
    return cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """An image file as upright RGB: transparency over grey, 16 bits to 8, first frame if animated.

    Raises:
        InputError: the file is missing, truncated, or not an image.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path} is not a file that can be read: give the path of an image.")
    try:
        with Image.open(path) as image:
            image.load()
            return np.array(_flat_rgb(_upright(image)))
    except Exception as error:  # Each format has its own.
        raise InputError(
            f"{path} cannot be read as an image ({error}): give an undamaged JPEG, PNG or WebP."
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """As it was shot, whichever way the camera was held; damaged EXIF says nothing of that.

    Not by `ImageOps.exif_transpose`: it writes all EXIF anew and fails on any odd field.
    """
    try:
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Whatever its parser meets.
        return image
    return image if turn is None else image.transpose(turn)


def _flat_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        full = 255 if image.mode == "F" and values.max(initial=0) > 1 else 1
        full = 65535 if image.mode.startswith("I") else full
        return Image.fromarray(np.uint8(np.clip(values / full, 0, 1) * 255 + 0.5)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        grey = Image.new("RGBA", image.size, (128, 128, 128, 255))
        image = Image.alpha_composite(grey, image)
    return image if image.mode == "RGB" else image.convert("RGB")  # Which would be a copy.
