"""The windows of sound that frames are rendered from: one rule for training, offline and live.

The voice is always heard in windows of fixed length: `past` frames of context, the `chunk` that is
asked for, and `look_ahead` frames of future. So the three agree, memory does not grow with the
length of the voice, and one shape is compiled.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, UInt8

from data_pipeline.audio import SAMPLES_PER_FRAME, to_mono, window
from data_pipeline.errors import InputError


class AudioWindow(NamedTuple):
    """Lengths in video frames (25 fps, 640 samples each)."""

    past: int = 50
    chunk: int = 10
    look_ahead: int = 2

    @property
    def frames(self) -> int:
        return self.past + self.chunk + self.look_ahead

    @property
    def samples(self) -> int:
        return self.frames * SAMPLES_PER_FRAME


def audio_windows(
    waveform: Float[np.ndarray, " n"], spec: AudioWindow
) -> Iterator[tuple[Float[np.ndarray, " w"], int]]:
    """Yields each chunk's audio window and how many of its frames the voice fills."""
    frames = -(-len(waveform) // SAMPLES_PER_FRAME)
    for first in range(0, frames, spec.chunk):
        start = (first - spec.past) * SAMPLES_PER_FRAME
        yield window(waveform, start, spec.samples), min(spec.chunk, frames - first)


class ChunkRenderer:
    """What renders voices chunk by chunk: portraits are encoded once, then windows of sound.

    size: of the frames in pixels; window: of the sound that `render_windows` takes;
    closes_in_silence: the mouth fades to its rest where nobody speaks; provenance: records of the
    weights behind it.
    """

    size: int
    window: AudioWindow
    closes_in_silence: bool
    provenance: Sequence[dict[str, Any]]

    def encode(self, portraits: UInt8[np.ndarray, "b h w 3"]) -> Any:
        """What portraits say, f_STY and f_TEX: a tree of arrays with a row each."""
        raise NotImplementedError

    def render_windows(
        self, identities: Any, audio: Float[np.ndarray, "b n"]
    ) -> UInt8[Array, "b t h w 3"]:
        """The chunk's frames of each window of sound, 16 kHz mono in [-1, 1]."""
        raise NotImplementedError

    def stream(
        self, portrait: UInt8[np.ndarray, "h w 3"], waveform: np.ndarray
    ) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
        """Yields frames chunk by chunk, in constant memory; ceil(n / 640) frames in all.

        They are read-only, as the device left them: copy those that are to be drawn on.

        Args:
          portrait: a face crop of the model's size.
          waveform: 16 kHz, as `data_pipeline.audio.to_mono` takes it.

        Raises:
          InputError: at once, if the portrait has another size or type, or the sound is none.
        """
        portrait, mono = to_portrait(portrait, self.size), to_mono(waveform)
        chunk = functools.partial(self.render_windows, self.encode(portrait[None]))
        return in_chunks(chunk, mono, self.window)

    def render(
        self, portrait: UInt8[np.ndarray, "h w 3"], waveform: np.ndarray
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """All frames of a voice; see `stream` for long ones."""
        none = np.zeros((0, self.size, self.size, 3), np.uint8)
        return np.concatenate([none, *self.stream(portrait, waveform)])


def to_portrait(image: Any, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """An image, PIL's too, as an array; raises InputError for no face crop of the model's size."""
    portrait = np.asarray(image)
    if portrait.shape != (size, size, 3) or portrait.dtype != np.uint8:
        raise InputError(
            f"a portrait of shape {portrait.shape} and type {portrait.dtype}: this model takes a "
            f"face crop of {size}x{size} pixels in uint8 (data_pipeline.face.portrait_crop)"
        )
    return portrait


def in_chunks(
    render_chunk: Callable[[Float[np.ndarray, "1 w"]], UInt8[Array, "1 t h w 3"]],
    waveform: Float[np.ndarray, " n"],
    spec: AudioWindow,
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    """Yields the frames of a voice chunk by chunk; ceil(n / 640) frames in all."""
    pending: tuple[Array, int] | None = None
    for audio, count in audio_windows(waveform, spec):
        chunk = render_chunk(audio[None])
        if pending is not None:  # fetched while the device works on the next chunk
            yield np.asarray(pending[0])[0, : pending[1]]
        pending = chunk, count
    if pending is not None:
        yield np.asarray(pending[0])[0, : pending[1]]
