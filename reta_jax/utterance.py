"""A voice in the making: sound in any pieces to the windows, images and frames of one utterance."""

import collections
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Float32, Int16, UInt8

from data_pipeline.audio import (
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    deferred_interrupts,
    to_int16,
    to_mono,
)
from data_pipeline.errors import InputError
from reta_jax.windows import AudioWindow

RATES = range(4_000, 384_001)  # Hz


class Frame(NamedTuple):
    """A video frame and its 40 ms of sound."""

    image: UInt8[np.ndarray, "h w 3"]  # RGB
    audio: Int16[np.ndarray, "640"]  # 16 kHz, zeros after the end of the voice
    end_of_speech: bool  # the utterance's last one


class _Samples:
    """A queue of samples, joined where they are asked for."""

    def __init__(self):
        self._parts: collections.deque[Float32[np.ndarray, " _"]] = collections.deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, samples: Float32[np.ndarray, " n"]) -> None:
        if len(samples):
            self._parts.append(samples)
            self._length += len(samples)

    def peek(self, count: int) -> Float32[np.ndarray, " {count}"]:
        """The first samples, with zeros after the last one."""
        first, filled = np.zeros(count, np.float32), 0
        for part in self._parts:
            if filled == count:
                break
            part = part[: count - filled]
            first[filled : filled + len(part)] = part
            filled += len(part)
        return first

    def drop(self, count: int) -> None:
        """Drops the first samples, as many as there are."""
        self._length = max(0, self._length - count)
        while self._parts and count >= len(self._parts[0]):
            count -= len(self._parts.popleft())
        if self._parts:
            self._parts[0] = self._parts[0][count:]


class Utterance:
    """A voice in the making: sound goes in in any pieces, windows and images through, frames out.

    The windows are those of `reta_jax.windows.audio_windows` over the whole voice. A host that
    waits for images gets all of them. If a host plays sound whose images are late (`next_sound`),
    the next chunk is the first that the device can still bring in time.
    """

    def __init__(self, spec: AudioWindow):
        self._spec = spec
        self._pending = _Samples()  # of the next window, from its start on
        self._pending.append(np.zeros(spec.past * SAMPLES_PER_FRAME, np.float32))
        self._sound = _Samples()  # that was not played yet
        self._images: dict[int, UInt8[np.ndarray, "h w 3"]] = {}  # by their frames' numbers
        self._received = 0  # samples at 16 kHz
        self._taken = self._played = 0  # frames
        self._asked = 0  # frames that were played when the chunk was taken
        self._lag = 0  # frames that are played during a call of the device; 0: it was never late
        self._goal = 0  # the first frame that the next call can bring in time
        self._is_over = False
        self._rate = 0
        self._resampler: av.AudioResampler | None = None

    @property
    def is_played(self) -> bool:
        return self._is_over and self._played >= self._frames

    @property
    def is_begun(self) -> bool:
        return self._played > 0

    @property
    def waiting(self) -> int:
        """Frames that are rendered and not played."""
        return len(self._images)

    def push(self, samples: np.ndarray, rate: int) -> None:
        """Adds sound, (n,) or (n, channels), int16 or float in [-1, 1].

        Raises:
          InputError: the rate is none, or another than before; samples that are no numbers, or
            have another shape.
        """
        mono = to_mono(samples)
        if rate not in RATES:
            raise InputError(
                f"a sample rate of {rate} Hz: give a whole number from {RATES[0]} to {RATES[-1]}"
            )
        if self._rate not in (0, rate):
            raise InputError(
                f"sound of {rate} Hz in an utterance of {self._rate} Hz: flush between them"
            )
        self._rate = rate
        self._append(mono if rate == SAMPLE_RATE else self._resample(mono))

    def finish(self) -> None:
        """No more sound will come."""
        if self._resampler is not None:
            self._append(self._resample(None))
        if not self._received:  # hosts wait for the end of what they began
            self._append(np.zeros(1, np.float32))
        self._is_over = True

    def take(self) -> tuple[int, Float32[np.ndarray, " w"]] | None:
        """The number of a chunk's first frame and its window, once its sound is there.

        It stays the next one until `put` brings its images: a call of the device that fails loses
        nothing. Chunks that are over, or will be in part when their images come, are left out.
        """
        spec = self._spec
        while self._taken < self._frames:
            if not self._is_over and len(self._pending) < spec.samples:
                return None
            if self._taken + spec.chunk > self._played and self._taken >= self._goal:
                self._asked = self._played
                return self._taken, self._pending.peek(spec.samples)
            self._leave_chunk()
        return None

    def put(self, first: int, images: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Takes the images of the chunk that was taken, but those of frames that were played.

        If some were played, the host does not wait for images. From then on the next chunk is the
        first that a call as long as this one brings whole.
        """
        if self._played > first or self._lag:
            # It grows by steps: one slow call among quick ones is not the device's speed.
            self._lag = min(self._played - self._asked, 2 * self._lag + self._spec.chunk)
            self._goal = self._played + self._lag
        for number in range(max(first, self._played), min(first + len(images), self._frames)):
            self._images[number] = images[number - first]
        self._leave_chunk()

    @property
    def has_next(self) -> bool:
        """Whether the next frame is rendered, and is known to be the last or not."""
        return self._played in self._images and self._is_known

    def next_frame(self) -> Frame | None:
        """The next frame with its sound, if it is rendered."""
        if not self.has_next:
            return None
        return Frame(self._images.pop(self._played), *self._play())

    def next_sound(self) -> tuple[Int16[np.ndarray, "640"], bool] | None:
        """The sound of the next frame and whether it is the last, if its image could be there.

        Where the voice itself is late there is nothing to play yet.
        """
        if not self.is_heard:
            return None
        self._images.pop(self._played, None)
        return self._play()

    @property
    def is_heard(self) -> bool:
        """All the sound is there that the next frame is rendered from."""
        spec = self._spec
        chunk_end = (self._played // spec.chunk + 1) * spec.chunk
        needed = (chunk_end + spec.look_ahead) * SAMPLES_PER_FRAME
        has_window = self._is_over or self._received >= needed
        return self._played < self._frames and has_window and self._is_known

    @property
    def _is_known(self) -> bool:
        """It is known whether the next frame is the utterance's last one."""
        return self._is_over or self._received > (self._played + 1) * SAMPLES_PER_FRAME

    @property
    def _frames(self) -> int:
        return -(-self._received // SAMPLES_PER_FRAME)

    def _leave_chunk(self) -> None:
        self._pending.drop(self._spec.chunk * SAMPLES_PER_FRAME)
        self._taken += self._spec.chunk

    def _play(self) -> tuple[Int16[np.ndarray, "640"], bool]:
        sound = to_int16(self._sound.peek(SAMPLES_PER_FRAME))
        self._sound.drop(SAMPLES_PER_FRAME)
        self._played += 1
        return sound, self.is_played

    def _append(self, samples: Float32[np.ndarray, " n"]) -> None:
        self._received += len(samples)
        self._pending.append(samples)
        self._sound.append(samples)

    def _resample(self, mono: Float32[np.ndarray, " n"] | None) -> Float32[np.ndarray, " m"]:
        """As files are resampled; the resampler keeps what it still needs from piece to piece."""
        if self._resampler is None:
            self._resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
        frame = None
        if mono is not None:
            if not len(mono):
                return mono
            frame = av.AudioFrame.from_ndarray(mono[None], "fltp", "mono")
            frame.sample_rate = self._rate
        with deferred_interrupts():
            parts = [part.to_ndarray()[0] for part in self._resampler.resample(frame)]
        return np.concatenate([np.zeros(0, np.float32), *parts])
