"""Talks live: sound goes in as it comes, frames come out with the sound that they belong to.

    streamer = Streamer(renderer, portrait)
    streamer.push_audio(pcm, 24_000)
    for frame in streamer:  # all that can be said by now; frame.image, frame.audio
        ...
    streamer.flush()  # the speaker is done: the rest comes out
    for frame in streamer:
        ...

An utterance, from its first sample to `flush`, gives the very frames that `Renderer.render` gives
of the same sound, however it was cut: both see the same windows. A frame waits for the rest of its
chunk and the look-ahead: (chunk + 2) * 40 ms of sound; `Renderer.with_chunk(1)` waits 120 ms.
Memory holds one window and the sound that was not played yet, however long the utterance.

`StreamServer` renders several streams in one call of the device. `AsyncReta` is the asynchronous
form that avatar hosts drive (push_audio, flush, interrupt, run, shutdown), paced at 25 frames a
second, with idle frames while nobody speaks.
"""

import asyncio
import collections
import functools
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int16, UInt8

from data_pipeline.audio import FPS, SAMPLE_RATE
from data_pipeline.errors import InputError
from reta_jax.utterance import Frame, Utterance
from reta_jax.windows import AudioWindow, ChunkRenderer, to_portrait

PATIENCE = 5  # frames that a voice waits for its images in an utterance
HELD = FPS // 2  # frames that the last image stays while an utterance's sound is late


class Streamer:
    """One portrait that talks live; see the module's description."""

    def __init__(self, renderer: ChunkRenderer, portrait: UInt8[np.ndarray, "h w 3"]):
        self._server = StreamServer(renderer, streams=1)
        self._stream = self._server.open(portrait)

    def push_audio(self, pcm: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
        """Adds sound of any length; see `Utterance.push`."""
        self._stream.push_audio(pcm, sample_rate)

    def flush(self) -> None:
        """Ends the utterance: what was pushed comes out to its end."""
        self._stream.flush()

    def interrupt(self) -> None:
        """Drops what has been pushed and not come out."""
        self._stream.interrupt()

    @property
    def idle_frame(self) -> UInt8[np.ndarray, "h w 3"]:
        """The portrait while nobody speaks: a copy, as every image that is given out."""
        return self._stream.idle_frame

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames whose sound is there; ends when more sound is needed."""
        while True:
            frame = self._stream.next_frame()
            if frame is not None:
                yield frame
            elif not self._server.step():
                return


class ServedStream:
    """One of a server's streams; made by `StreamServer.open`. Safe to call from two threads.

    Args:
      ahead: no chunk is begun while so many frames wait to be played.
    """

    def __init__(self, spec: AudioWindow, idle_frame: UInt8[np.ndarray, "h w 3"], ahead: int):
        self._idle_frame = idle_frame
        self._spec, self._ahead = spec, ahead
        self._utterances: collections.deque[Utterance] = collections.deque()
        self._is_open = False  # the last utterance may grow
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def idle_frame(self) -> UInt8[np.ndarray, "h w 3"]:
        """The portrait while nobody speaks: a copy, as every image that is given out."""
        return self._idle_frame.copy()

    def push_audio(self, pcm: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
        """Adds sound of any length; see `Utterance.push`.

        Raises:
          InputError: of `Utterance.push`, or the stream was closed.
        """
        with self._lock:
            if self._is_closed:
                raise InputError("this stream was closed: open another one")
            utterance = self._utterances[-1] if self._is_open else Utterance(self._spec)
            utterance.push(pcm, sample_rate)
            if not self._is_open:
                self._utterances.append(utterance)
                self._is_open = True

    def flush(self) -> None:
        """Ends the utterance: what was pushed comes out to its end."""
        with self._lock:
            if self._is_open:
                self._utterances[-1].finish()
                self._is_open = False

    def interrupt(self) -> None:
        """Drops what has been pushed and not come out."""
        with self._lock:
            self._clear()

    def close(self) -> None:
        """Drops what has been pushed, and takes no more."""
        with self._lock:
            self._is_closed = True
            self._clear()

    def take(self) -> tuple[Utterance, int, Float32[np.ndarray, " w"]] | None:
        """The next window to render, and what `put` asks back, unless enough frames wait."""
        with self._lock:
            if self._count_waiting() >= self._ahead:
                return None
            for utterance in self._utterances:
                if taken := utterance.take():
                    return utterance, *taken
            return None

    def put(self, utterance: Utterance, first: int, images: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Takes a chunk's images; those of an utterance that was interrupted go with it."""
        with self._lock:
            utterance.put(first, images)

    def next_frame(self) -> Frame | None:
        """The next frame with its sound, if it is rendered."""
        with self._lock:
            frame = self._utterances[0].next_frame() if self._current() else None
        # Waiting images are read-only views of their chunk.
        return frame and frame._replace(image=frame.image.copy())

    def next_sound(self) -> tuple[Int16[np.ndarray, "640"], bool] | None:
        """The next frame's sound and whether it is the last, without waiting for the image."""
        with self._lock:
            return self._utterances[0].next_sound() if self._current() else None

    @property
    def has_next(self) -> bool:
        """Whether `next_frame` would give one now."""
        with self._lock:
            return bool(self._current() and self._utterances[0].has_next)

    @property
    def is_late(self) -> bool:
        """The sound of the next frame is there and its image is not: the device is behind."""
        with self._lock:
            return bool(self._current() and self._utterances[0].is_heard)

    @property
    def is_speaking(self) -> bool:
        """An utterance has begun to come out and is not at its end."""
        with self._lock:
            return bool(self._current() and self._utterances[0].is_begun)

    @property
    def waiting(self) -> int:
        """Frames that are rendered and not played."""
        with self._lock:
            return self._count_waiting()

    def _count_waiting(self) -> int:
        return sum(utterance.waiting for utterance in self._utterances)

    def _clear(self) -> None:
        self._utterances.clear()
        self._is_open = False

    def _current(self) -> bool:
        while self._utterances and self._utterances[0].is_played:
            self._utterances.popleft()
        return bool(self._utterances)


class StreamServer:
    """Several streams, rendered together: every `step` is one call of the device.

    A step renders the streams that have a chunk to say: few speakers do not wait for the silent.
    Their number is padded to 1, 2, 4, ... All these sizes are compiled here, before anybody speaks.

    Safe to call from several threads: steps wait for each other, and nobody else waits for a step.

    Args:
      streams: how many there can be at a time.
      ahead: a stream's next chunk is begun once fewer than `ahead` of its frames wait to be played.
        So at most `ahead` - 1 frames and a chunk ever wait.

    Raises:
      InputError: no stream, or nothing that may ever be begun.
    """

    def __init__(self, renderer: ChunkRenderer, streams: int, ahead: int = 2 * FPS):
        if min(streams, ahead) < 1:
            raise InputError(f"{streams} streams, {ahead} frames ahead: give 1 or more of each")
        self._renderer, self._streams, self._ahead = renderer, streams, ahead
        # Weak: what a host dropped, or a cancelled task opened for nobody, gives its place back.
        self._identities: weakref.WeakKeyDictionary[ServedStream, Any] = weakref.WeakKeyDictionary()
        self._opening = 0
        self._lock = threading.Lock()  # of the places: nobody holds it while the device works
        self._stepping = threading.Lock()
        self.thread = ThreadPoolExecutor(1, "reta")  # steps of asynchronous hosts
        identity = renderer.encode(np.zeros((1, renderer.size, renderer.size, 3), np.uint8))
        for batch in sorted({self._batch(count) for count in range(1, streams + 1)}):
            self._render([identity] * batch, [self._silence] * batch)

    @property
    def _silence(self) -> Float32[np.ndarray, " n"]:
        return np.zeros(self._renderer.window.samples, np.float32)

    def open(self, portrait: UInt8[np.ndarray, "h w 3"]) -> ServedStream:
        """A new stream for a face crop of the model's size; the others go on meanwhile.

        Raises:
          InputError: all places are taken, or the portrait has another size.
        """
        portrait = to_portrait(portrait, self._renderer.size)
        with self._lock:
            if self._opening + len(self._identities) >= self._streams:
                raise InputError(f"all {self._streams} streams are taken: close one")
            self._opening += 1
        try:
            identity = self._renderer.encode(portrait[None])
            idle = self._render([identity], [self._silence])[0][0].copy()  # no view of the chunk
            stream = ServedStream(self._renderer.window, idle, self._ahead)
        except BaseException:
            self._opened()
            raise
        self._opened(stream, identity)
        return stream

    def _opened(self, stream: ServedStream | None = None, identity: Any = None) -> None:
        with self._lock:
            self._opening -= 1
            if stream is not None:
                self._identities[stream] = identity

    def close(self, stream: ServedStream) -> None:
        """Frees the stream's place; a second time, nothing."""
        with self._lock:
            stream.close()
            self._identities.pop(stream, None)

    def step(self) -> int:
        """Renders the next chunk of every stream that has one; returns of how many."""
        with self._stepping:
            work = self._take()
            if not work:
                return 0
            places, identities, utterances, firsts, windows = zip(*work, strict=True)
            chunks = self._render(identities, windows)
            for place, utterance, first, chunk in zip(
                places, utterances, firsts, chunks, strict=True
            ):
                if (stream := place()) is not None:
                    stream.put(utterance, first, chunk)
            return len(work)

    def _take(self) -> list[tuple[Any, ...]]:
        """What is to be rendered now: of each stream a weak reference, its identity, its window.

        Weak, for a stream that is dropped while the device works gives its place back at once.
        """
        with self._lock:
            served = list(self._identities.items())
        return [
            (weakref.ref(stream), identity, *taken)
            for stream, identity in served
            if (taken := stream.take())
        ]

    def _render(
        self, identities: Sequence[Any], windows: Sequence[Float32[np.ndarray, " n"]]
    ) -> Sequence[UInt8[np.ndarray, "t h w 3"]]:
        """The frames of each window, read-only. The batch is padded; its padding is not fetched."""
        spare = self._batch(len(windows)) - len(windows)
        rows = (*identities, *identities[:1] * spare)
        together = rows[0] if len(rows) == 1 else _concatenate(rows)
        audio = np.pad(np.stack(windows), ((0, spare), (0, 0)))
        chunks = _split(self._renderer.render_windows(together, audio))
        return jax.device_get(chunks[: len(windows)])

    def _batch(self, streams: int) -> int:
        """The next power of two, as far as there are places."""
        return min(1 << (streams - 1).bit_length(), self._streams)


@jax.jit
def _concatenate(identities: tuple[Any, ...]) -> Any:
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *identities)


@jax.jit
def _split(images: UInt8[Array, "b t h w 3"]) -> tuple[UInt8[Array, "t h w 3"], ...]:
    """Splits on the device: fetched one by one, no stream's images keep another's in memory."""
    return tuple(images)


class AudioChunk(NamedTuple):
    """Sound as avatar hosts expect it."""

    array: Int16[np.ndarray, " n"]
    sample_rate: int = SAMPLE_RATE

    @property
    def bytes(self) -> bytes:
        return self.array.astype("<i2").tobytes()


class HostFrame(NamedTuple):
    """What avatar hosts play: an image, a piece of sound, or both."""

    bgr_image: UInt8[np.ndarray, "h w 3"] | None  # None: it came too late, its sound goes on
    audio_chunk: AudioChunk | None  # None: nobody speaks
    end_of_speech: bool = False


class HostSettings(NamedTuple):
    """What hosts ask before they begin; any other rate of sound is taken as well."""

    FPS: int = FPS
    INPUT_SAMPLE_RATE: int = SAMPLE_RATE


class _Run(NamedTuple):
    """A `run` under way, and its events, which belong to its event loop."""

    wake: asyncio.Event  # there may be something to render
    rendered: asyncio.Event  # there may be a frame


class AsyncReta:
    """The asynchronous form: `run` yields 25 frames a second, speaking or idle.

    Images are the host's, who may draw on them.

    The device works in a thread, ahead of what is played. Where sound is late, the last frame
    stays, after `HELD` frames the idle one. Where images are late, the voice may wait for them
    `PATIENCE` frames in an utterance; then it goes on without: a frame whose time is over is
    dropped and counted (`dropped`), never queued. A device that is too slow leaves out chunks that
    it would bring late, and shows the others whole.

    Args:
      server: shared with other avatars, whose frames are rendered in the same calls of the device;
        None: one of its own.
    """

    settings = HostSettings()

    def __init__(
        self,
        renderer: ChunkRenderer,
        portrait: UInt8[np.ndarray, "h w 3"],
        server: StreamServer | None = None,
    ):
        self._server = server or StreamServer(renderer, streams=1)
        self._stream = self._server.open(portrait)
        self._is_shut = False
        self._run: _Run | None = None
        self._idle = self._shown = self._stream.idle_frame  # RGB: hosts draw on what they get
        self._is_resting = True  # the idle frame is shown: a speech may begin at any time
        self._waited = self._held = 0  # frames: for images in this utterance, for its sound now
        self.dropped = 0

    @classmethod
    async def create(
        cls,
        renderer: ChunkRenderer,
        portrait: UInt8[np.ndarray, "h w 3"],
        server: StreamServer | None = None,
    ) -> "AsyncReta":
        """The same, compiled in a thread while the host's other tasks go on."""
        return await asyncio.to_thread(cls, renderer, portrait, server)

    def get_first_frame(self) -> UInt8[np.ndarray, "h w 3"]:
        """The idle frame, BGR."""
        return _to_bgr(self._idle)

    async def push_audio(
        self, data: bytes, sample_rate: int = SAMPLE_RATE, last_chunk: bool = True
    ) -> None:
        """Adds little-endian 16-bit mono samples, which wait in memory until they are played.

        Args:
          last_chunk: they end the utterance, as `flush` does: False for all pieces but the last. An
            utterance without any sample is a frame of silence, which has its `end_of_speech`, too.
        """
        if len(data) % 2:
            raise InputError(f"{len(data)} bytes of 16-bit sound: an even number is needed")
        self._stream.push_audio(np.frombuffer(data, "<i2").astype(np.int16), sample_rate)
        if last_chunk:
            self._stream.flush()
        self._wake()

    async def flush(self) -> None:
        """Ends the utterance: what was pushed is said to its end."""
        self._stream.flush()
        self._wake()

    def interrupt(self) -> None:
        """Falls silent at once: what has been pushed and not been played is dropped."""
        self._stream.interrupt()

    async def shutdown(self) -> None:
        """Ends `run` and gives the server's place back, for good."""
        self._is_shut = True
        await asyncio.to_thread(self._server.close, self._stream)
        self._wake()

    stop = shutdown

    def _wake(self) -> None:
        if self._run is not None:
            self._run.wake.set()

    async def run(self) -> AsyncIterator[HostFrame]:
        """Yields a frame each 40 ms until `shutdown`; one that is begun ends the one before.

        The first frame of a speech comes as soon as it is rendered.
        """
        run = self._run = _Run(asyncio.Event(), asyncio.Event())
        rendering = asyncio.create_task(self._render(run))
        due = time.monotonic()
        try:
            while self._run is run and not (self._is_shut or rendering.done()):
                due = await self._sleep_until(due, run)
                if late := int((time.monotonic() - due) * FPS):
                    for _ in range(late):  # the host was slow: their time is over
                        if (frame := self._sound_alone()) is not None:
                            yield frame
                    # A host that waits while their sound is played is not late again for it.
                    due = max(due + late / FPS, time.monotonic())
                yield self._next()
                run.wake.set()
                due += 1 / FPS
        finally:
            if self._run is run:
                self._run = None
            run.wake.set()
            await rendering  # raises what went wrong

    async def _sleep_until(self, due: float, run: _Run) -> float:
        """Sleeps until a frame is due, at rest until a speech begins; says when that was."""
        pause = max(0.0, due - time.monotonic())
        if not self._is_resting:
            await asyncio.sleep(pause)
            return due
        try:
            await asyncio.wait_for(self._has_begun(run), pause)
        except TimeoutError:
            return due
        return min(due, time.monotonic())

    async def _has_begun(self, run: _Run) -> None:
        while not self._stream.has_next:
            run.rendered.clear()
            await run.rendered.wait()

    def _next(self) -> HostFrame:
        frame = self._stream.next_frame()
        if frame is not None:
            self._shown, self._is_resting, self._held = frame.image, False, 0
            return self._host_frame(_to_bgr(self._shown), frame.audio, frame.end_of_speech)
        if not self._stream.is_speaking:
            self._waited = self._held = 0
            self._rest()
        elif self._stream.is_late:
            self._waited += 1
            if self._waited > PATIENCE and (sound := self._sound_alone()) is not None:
                return sound
        else:
            self._held += 1
            if self._held > HELD:
                self._rest()
        return HostFrame(_to_bgr(self._shown), None)

    def _rest(self) -> None:
        self._shown, self._is_resting = self._idle, True

    def _sound_alone(self) -> HostFrame | None:
        if not self._stream.is_speaking or (sound := self._stream.next_sound()) is None:
            return None
        self.dropped += 1
        self._is_resting = False
        return self._host_frame(None, *sound)

    def _host_frame(
        self, image: np.ndarray | None, sound: Int16[np.ndarray, "640"], is_last: bool
    ) -> HostFrame:
        if is_last:
            self._waited = 0
        return HostFrame(image, AudioChunk(sound), is_last)

    async def _render(self, run: _Run) -> None:
        # The server's own thread: as many avatars waiting for it would fill the host's pool.
        step = functools.partial(
            asyncio.get_running_loop().run_in_executor, self._server.thread, self._server.step
        )
        while self._run is run and not self._is_shut:
            run.wake.clear()
            has_rendered = await step()
            if self._stream.has_next:  # a step may be another avatar's alone, or another's ours
                run.rendered.set()
            if not has_rendered:
                await run.wake.wait()


def _to_bgr(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """A new image."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
