"""Voices: any file to 16 kHz mono, and the features that networks hear.

One definition each of the clock (25 frames of 640 samples a second), the Wav2Lip mel and the
SyncNet MFCC, used by preparation, training, evaluation and serving alike.
"""

import contextlib
import functools
import itertools
import math
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from jaxtyping import Float32, Float64, Int16, Shaped

from data_pipeline.clock import from_key_frame, may_start_anew, packets_in_step
from data_pipeline.errors import InputError, MissingError
from data_pipeline.files import fault_of

SAMPLE_RATE = 16_000
FPS = 25
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS

MEL_BANDS = 80
MEL_COLUMNS = 16  # What the sync expert hears for five frames.
MFCC_COLUMNS = 20  # What SyncNet v2 hears for them.
_MEL_FFT, _MEL_HOP = 800, 200
_MEL_PIECE = 1024  # columns that are computed at once: 10 MB, and no more for an hour
_PREEMPHASIS = 0.97
_CHANNELS = range(1, 9)
_LOUDEST = 16.0  # Of float samples: resampling and noise go beyond 1, int16 counts to 32768.
_RUN_UP = 1.0  # Seconds decoded before a place jumped to: codecs need a frame or two to settle,
_RUN_OUT = 0.1  # and after its end: the resampler's last samples are damped.
# Seconds between a frame's end and the next one's time that are none, as recorders' clocks tremble:
# less than a lost packet of AAC; a frame of picture, for sound that is cut is lost.
_MAX_GAP, _MAX_OVERLAP = 0.020, 0.040
_ROOM = 2**28  # bytes that no decoder of an undamaged file asks for at once
_LONGEST_PAUSE = 3600.0  # A damaged time stamp may claim years.

_decoder_threads = 0  # of each decoder; 0: as many as cores


@contextlib.contextmanager
def open_media(path: str | os.PathLike) -> Iterator[av.container.InputContainer]:
    """Opens a media file; whatever the decoder finds wrong with it becomes an InputError.

    Raises:
        InputError: the file is not there or damaged; MissingError where the system cannot read it.
        MemoryError: there is none left.
    """
    path = Path(path)
    if fault := fault_of(path):
        raise InputError(f"{path} {fault}: give the path of a media file.")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty (0 bytes): copy or record it again.")
    try:
        # Titles in other encodings, or damaged ones, are no reason to refuse a file. Without a
        # protocol, FFmpeg takes one for it from a name like "10:30.mp4".
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        # The decoder answers damaged headers with EPERM, EIO and ENOMEM too: whose fault is it?
        check_readable(path)
        if isinstance(error, MemoryError):
            np.empty(_ROOM, np.uint8)  # MemoryError where it is true.
        raise InputError(
            f"{path} cannot be decoded ({error.strerror}): it is truncated or not a media file."
        ) from error


def check_readable(path: str | os.PathLike) -> None:
    """Raises MissingError if the system cannot read a file to its end, which another day it may."""
    try:
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        raise MissingError(
            f"{path} cannot be read ({error.strerror}): put that right and try again."
        ) from error


def has_sound(path: str | os.PathLike) -> bool:
    """Whether a media file has an audio stream; raises InputError if it cannot be opened."""
    with open_media(path) as container:
        return bool(container.streams.audio)


@contextlib.contextmanager
def open_at(
    path: str | os.PathLike, kind: Literal["audio", "video"], seconds: float = 0.0
) -> Iterator[tuple[av.container.InputContainer, av.stream.Stream, Iterator[av.frame.Frame]]]:
    """Opens a media file and decodes its first stream of a kind from before `seconds` on.

    A file where a jump lands too late, for it has no index, is decoded from its start. In one whose
    clock may start anew a time may be there twice: it is read from its start.

    Raises:
        InputError: the file is missing or unreadable, or has no such stream.
    """
    for jumps in (True, False) if seconds > _RUN_UP else (False,):
        with open_media(path) as container:
            stream = first_stream(container, kind, path)
            packets = packets_in_step(container, stream)
            if jumps and may_start_anew(container):
                packets = from_key_frame(packets, seconds - _RUN_UP)
            elif jumps:
                with contextlib.suppress(av.FFmpegError):
                    container.seek(int((seconds - _RUN_UP) / stream.time_base), stream=stream)
            frames = decode_frames(packets, stream)
            first = next(frames, None)
            if not jumps or (first and first.time is not None and first.time <= seconds):
                yield container, stream, itertools.chain([first] if first else [], frames)
                return


def first_stream(
    container: av.container.InputContainer, kind: Literal["audio", "video"], path: str | os.PathLike
) -> av.stream.Stream:
    """The first stream of a kind; raises InputError if there is none."""
    streams = getattr(container.streams, kind)
    if not streams:
        content = {"audio": "voice", "video": "picture"}[kind]
        raise InputError(f"{path} has no {kind} stream: give a file with a {content} in it.")
    return streams[0]


def load_audio(path: str | os.PathLike) -> Float32[np.ndarray, " n"]:
    """The sound of any audio or video file as 16 kHz mono in about [-1, 1].

    Raises:
        InputError: the file is missing, unreadable, truncated, of another scale, or has no sound in
            it.
    """
    waveform, _ = decode_audio(path)
    if (loudest := max(waveform.max(), -waveform.min())) > _LOUDEST:
        raise InputError(
            f"{path} has float samples up to {loudest:.0f}, where full scale is 1: normalise it to "
            "0 dB, or export it with 16-bit samples."
        )
    return waveform


def decode_audio(
    path: str | os.PathLike, start: float = 0.0, end: float | None = None
) -> tuple[Float32[np.ndarray, " n"], float]:
    """Decodes the first audio stream; returns it with the time in seconds of its first sample.

    Args:
        path: the file.
        start: time in seconds on the file's clock, before which the sound may be left out.
        end: time after which it may be; None reads to the end and checks that it is there.

    Raises:
        InputError: the file is missing, unreadable, truncated, or has no sound in it.
    """
    with open_at(path, "audio", start) as (container, stream, frames):
        track = _Track(path)
        for frame in frames:
            track.add(frame)
            if end is not None and track.start + track.seconds > end + _RUN_OUT:
                break
        waveform = track.finish()
        if not waveform.size:
            raise InputError(
                f"{path} has an audio stream without a single sample: record it again."
            )
        if not np.isfinite(waveform).all():
            raise InputError(f"{path} has samples that are not numbers: export the sound again.")
        if end is None:
            left_out = track.start - float((stream.start_time or 0) * stream.time_base)
            check_complete(container, stream, left_out + waveform.size / SAMPLE_RATE, path)
        return waveform, track.start


class _Track:
    """Frames of any form as 16 kHz mono, each at its time: silence in gaps, overlaps cut.

    Gaps are lost packets, pauses of a recorder and what Opus leaves out as silent; without them
    all that follows would be too early for its picture.
    """

    def __init__(self, path: str | os.PathLike):
        self.seconds = 0.0  # that the frames so far take
        self._path = path
        self._start: float | None = None
        self._chunks: list[np.ndarray] = []
        self._samples = 0  # in the chunks
        self._surplus = 0  # samples to come that lie before the end of the chunks
        self._form: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None

    @property
    def start(self) -> float:
        """Time of the first sample on the file's clock."""
        return self._start or 0.0

    def add(self, frame: av.AudioFrame) -> None:
        """Appends a frame; raises InputError if its time cannot be true."""
        self._go_to(frame.time)
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:
            # Broadcast captures change from mono to stereo on the way; a resampler cannot.
            self._flush()
            self._form = form
            # To mono by averaging below: the resampler would make stereo 3 dB louder, 5.1 8 dB.
            # Not in planes: PyAV 18.1 looks for a ninth behind eight.
            self._resampler = av.AudioResampler("flt", frame.layout, SAMPLE_RATE)
        self._resample(frame)
        self.seconds += frame.samples / frame.sample_rate

    def finish(self) -> Float32[np.ndarray, " n"]:
        """All of it."""
        self._flush()
        return np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.float32)

    def _go_to(self, time: float | None) -> None:
        """Makes up for what lies between the last frame and one at `time`, if anything does."""
        if time is None:
            return
        if self._start is None:
            self._start = time - self.seconds
        late = time - self._start - self.seconds
        if -_MAX_OVERLAP <= late <= _MAX_GAP:
            return
        if late > _LONGEST_PAUSE:
            raise InputError(
                f"{self._path} has no sound for {late:.0f} s from {time - late:.2f} s on: its time "
                "stamps are damaged; export it again."
            )
        self._flush()
        self.seconds += late
        gap = round(self.seconds * SAMPLE_RATE) - self._samples
        self._surplus = max(-gap, 0)
        self._append(np.zeros(max(gap, 0), np.float32))

    def _flush(self) -> None:
        if self._resampler is not None:
            self._resample(None)
            self._form = self._resampler = None

    def _resample(self, frame: av.AudioFrame | None) -> None:
        with deferred_interrupts():
            parts = [_averaged(part) for part in self._resampler.resample(frame)]
        for part in parts:
            self._append(part[self._surplus :])
            self._surplus = max(self._surplus - len(part), 0)

    def _append(self, samples: Float32[np.ndarray, " n"]) -> None:
        self._chunks.append(samples)
        self._samples += len(samples)


def _averaged(frame: av.AudioFrame) -> Float32[np.ndarray, " n"]:
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(axis=1)


def limit_decoders(threads: int) -> None:
    """From here on each decoder of this process has so many threads; else as many as cores."""
    global _decoder_threads
    _decoder_threads = threads


def decode_frames(
    packets: Iterable[av.Packet], stream: av.stream.Stream
) -> Iterator[av.AudioFrame | av.VideoFrame]:
    """Decodes one stream, skipping damaged packets as players do."""
    stream.thread_type, stream.thread_count = "AUTO", _decoder_threads
    # At the end PyAV 18.1 stumbles over streams that turned up late; this one is complete by then.
    with contextlib.suppress(IndexError):
        for packet in packets:
            with contextlib.suppress(av.InvalidDataError):
                yield from packet.decode()


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Holds Ctrl-C, SIGTERM and SIGHUP back until the block is left.

    PyAV's resampler ends each call with an exception of its own, and a KeyboardInterrupt that
    lands there is lost with it: one in nine of those that come while it works (PyAV 18.1).
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread hears signals.
        return
    held = []
    endings = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in endings}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in handlers:
            signal.signal(number, lambda *arguments: held.append(arguments))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in held:
            handlers[number](number, frame)


def check_complete(
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    seconds: float,
    path: str | os.PathLike,
) -> None:
    """Raises InputError if less was decoded than an mp4's header promises (others only guess)."""
    if not stream.duration or "mp4" not in container.format.name:
        return
    promised = float(stream.duration * stream.time_base)
    if seconds < promised - max(0.5, 0.05 * promised):
        check_readable(path)
        raise InputError(
            f"{path} is truncated: {stream.type} ends after {seconds:.1f} of {promised:.1f} s; "
            "copy it again."
        )


def to_int16(waveform: Float32[np.ndarray, " n"]) -> Int16[np.ndarray, " n"]:
    """[-1, 1] to 16-bit samples, clipped."""
    scaled = waveform * np.float32(32768)
    np.round(scaled, out=scaled)  # In place, as an hour is 230 MB.
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def to_float(samples: Int16[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """16-bit samples to [-1, 1)."""
    return samples.astype(np.float32) / 32768.0


def to_mono(samples: np.ndarray) -> Float32[np.ndarray, " n"]:
    """Sound (n,) or (n, channels), int16 or float in [-1, 1], as mono in [-1, 1]; a copy.

    Raises:
        InputError: it is none: of another shape or type, not finite, or of another scale.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1 and not (samples.ndim == 2 and samples.shape[1] in _CHANNELS):
        raise InputError(f"sound of shape {samples.shape}: give (n,) or (n, channels)")
    if samples.dtype == np.int16:
        samples = to_float(samples)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"samples of type {samples.dtype}: give int16, or float in [-1, 1]")
    elif not np.isfinite(samples).all():
        raise InputError("samples that are not numbers: record the sound again")
    elif samples.size and (loudest := np.abs(samples).max()) > _LOUDEST:
        raise InputError(f"float samples up to {loudest:.0f}: give float in [-1, 1], or int16")
    mono = samples.mean(1) if samples.ndim == 2 else samples
    return np.array(mono, np.float32)  # a copy: callers fill their buffers again


def window(samples: Shaped[np.ndarray, " n"], start: int, length: int) -> np.ndarray:
    """`samples[start : start + length]` with zeros before the beginning and after the end."""
    out = np.zeros(length, samples.dtype)
    low, high = max(start, 0), min(start + length, len(samples))
    if low < high:
        out[low - start : high - start] = samples[low:high]
    return out


def is_silent(waveform: Float32[np.ndarray, " n"], level: float = -60.0) -> bool:
    """True if no frame's RMS about its mean reaches the level, in dB of full scale.

    A recorder's constant offset is no sound.
    """
    missing = -len(waveform) % SAMPLES_PER_FRAME
    padded = np.pad(waveform, (0, missing), "edge").reshape(-1, SAMPLES_PER_FRAME)
    powers = np.einsum("ij,ij->i", padded, padded, dtype=np.float64) / SAMPLES_PER_FRAME
    powers -= padded.mean(1, dtype=np.float64) ** 2
    return not np.any(powers > 10 ** (level / 10))


def log_mel(waveform: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, "80 m"]:
    """The Wav2Lip mel of a whole clip in [-4, 4]; column c is centred on sample 200 c."""
    return mel_columns(waveform, 0, 1 + len(waveform) // _MEL_HOP)


def mel_window(waveform: Float32[np.ndarray, " n"], frame: int) -> Float32[np.ndarray, "80 16"]:
    """The 16 mel columns that go with the five video frames from `frame` on."""
    return mel_columns(waveform, int(MEL_BANDS * frame / FPS), MEL_COLUMNS)


def mel_columns(
    waveform: Float32[np.ndarray, " n"], first: int, count: int
) -> Float32[np.ndarray, "80 {count}"]:
    """Columns [first, first + count) of `log_mel(waveform)`, from the samples they need alone."""
    last = first + count
    pieces = [
        _mel_piece(waveform, start, min(_MEL_PIECE, last - start))
        for start in range(first, last, _MEL_PIECE)
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)


def _mel_piece(
    waveform: Float32[np.ndarray, " n"], first: int, count: int
) -> Float32[np.ndarray, "80 {count}"]:
    import scipy.fft  # Not above: rendering needs none of it and should start soon.

    # Wav2Lip's transform is centred: it mirrors the pre-emphasised signal at both of its ends.
    span = np.arange(_MEL_FFT + _MEL_HOP * (count - 1)) + first * _MEL_HOP - _MEL_FFT // 2
    last = len(waveform) - 1
    span = last - np.abs(last - span % max(2 * last, 1))
    emphasised = waveform[span] - _PREEMPHASIS * np.where(span > 0, waveform[span - 1], 0)
    pieces = np.lib.stride_tricks.sliding_window_view(emphasised, _MEL_FFT)[::_MEL_HOP]
    hann, filters = _mel_constants()
    magnitude = np.abs(scipy.fft.rfft(pieces * hann, axis=1)).astype(np.float32)
    decibels = 20 * np.log10(np.maximum(1e-5, filters @ magnitude.T)) - 20
    return np.clip(8 * (decibels + 100) / 100 - 4, -4, 4).astype(np.float32)


@functools.cache
def _mel_constants() -> tuple[Float32[np.ndarray, " 800"], Any]:
    """The taper and the filters, sparse (80, 401).

    A sparse product sums each column in one order, whatever stands beside it: a window's mel is the
    whole clip's to the last bit. A dense one's order is its library's, and follows the shape.
    """
    import scipy.sparse  # As above.

    hann = np.hanning(_MEL_FFT + 1)[:-1].astype(np.float32)
    return hann, scipy.sparse.csr_array(mel_filters(MEL_BANDS, _MEL_FFT, 55, 7600))


def mel_filters(
    bands: int, fft: int, low: float, high: float
) -> Float32[np.ndarray, "{bands} {fft}//2+1"]:
    """Slaney's triangles of equal areas, equally wide in mel between `low` and `high` Hz.

    They are `librosa.filters.mel`'s, which takes more than a second to import.
    """
    mel = np.linspace(_mel_of(low), _mel_of(high), bands + 2)
    corners = np.where(mel < 15, mel / 0.015, 1000 * 6.4 ** ((mel - 15) / 27))
    below, middle, above = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.fft.rfftfreq(fft, 1 / SAMPLE_RATE)
    triangles = np.minimum((bins - below) / (middle - below), (above - bins) / (above - middle))
    return (np.maximum(0, triangles) * 2 / (above - below)).astype(np.float32)


def _mel_of(hertz: float) -> float:
    """Slaney's scale: linear up to 1 kHz, from there on 27 for a factor of 6.4."""
    return hertz * 0.015 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000, 6.4)


def mfcc(samples: Int16[np.ndarray, " n"]) -> Float64[np.ndarray, "13 m"]:
    """The SyncNet v2 features: 13 MFCCs every 10 ms of 16-bit samples (not scaled to [-1, 1])."""
    import scipy.fft  # as above

    signal = samples.astype(np.float64)
    emphasised = np.append(signal[:1], signal[1:] - _PREEMPHASIS * signal[:-1])
    columns = 1 + max(0, -(-(len(signal) - 400) // 160))
    padded = window(emphasised, 0, 400 + 160 * (columns - 1))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160]
    power = np.abs(scipy.fft.rfft(pieces, 512, axis=1)) ** 2 / 512
    tiny = np.finfo(np.float64).eps
    bands = power @ _htk_filters().T
    cepstra = scipy.fft.dct(np.log(np.where(bands == 0, tiny, bands)), axis=1, norm="ortho")
    cepstra = cepstra[:, :13] * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))
    energy = power.sum(axis=1)
    cepstra[:, 0] = np.log(np.where(energy == 0, tiny, energy))
    return cepstra.T


def mfcc_window(waveform: Float32[np.ndarray, " n"], frame: int) -> Float32[np.ndarray, "13 20"]:
    """The 20 columns of `mfcc` that go with the five video frames from `frame` on."""
    # One column more, before: the first sample of a piece is not emphasised.
    start, length = frame * SAMPLES_PER_FRAME - 160, 400 + 160 * MFCC_COLUMNS
    return mfcc(window(to_int16(waveform), start, length))[:, 1:].astype(np.float32)


@functools.cache
def _htk_filters() -> Float64[np.ndarray, "26 257"]:
    """26 triangles between 0 and 8 kHz, equally wide in mel, their corners on FFT bins."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, 28) / 2595) - 1)
    corners = np.floor(513 * hertz / SAMPLE_RATE)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(257)
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where(bins < middle, rising, falling) * ((bins >= low) & (bins < high))
