"""The paced form that avatar hosts drive: idle frames, late hosts and devices, shared servers."""

import asyncio
import functools
import gc
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_pipeline.audio import to_float
from data_pipeline.errors import InputError
from reta_jax import stream as streaming
from reta_jax.renderer import Renderer
from reta_jax.stream import HELD, AsyncReta, StreamServer
from reta_jax.utterance import Utterance
from reta_jax.windows import AudioWindow, ChunkRenderer
from tests.live.voices import FRAME, RATE, pieces, speech


class Statue(ChunkRenderer):
    """Needs no time, and hears no future."""

    size, window, closes_in_silence = 8, AudioWindow(past=5, chunk=2, look_ahead=0), False

    def encode(self, portraits):
        return np.zeros((len(portraits), 1), np.float32)

    def render_windows(self, identities, audio):
        return np.zeros((len(audio), 2, 8, 8, 3), np.uint8)


STONE = np.zeros((8, 8, 3), np.uint8)


async def listen(reta: AsyncReta, until) -> list:
    frames = []
    async for frame in reta.run():
        frames.append(frame)
        if until(frames):
            await reta.shutdown()
    return frames


def said(frames) -> np.ndarray:
    return np.concatenate([f.audio_chunk.array for f in frames if f.audio_chunk is not None])


def has_ended(frames) -> bool:
    """Five frames after the end of the speech."""
    return len(frames) > 5 and frames[-6].end_of_speech


def test_a_host_gets_idle_frames_then_the_speech_then_idle_frames(renderer, portrait):
    voice = speech(23 * FRAME)

    async def host():
        reta = AsyncReta(renderer, portrait)
        await reta.push_audio(voice[:9_000].tobytes(), RATE, last_chunk=False)
        await reta.push_audio(voice[9_000:].tobytes(), RATE)
        await reta.flush()
        return reta, await listen(reta, has_ended)

    reta, frames = asyncio.run(host())
    np.testing.assert_array_equal(said(frames), voice)
    assert frames[-6].audio_chunk.bytes == voice[-FRAME:].tobytes()
    for frame in frames[-5:]:
        assert frame.audio_chunk is None
        np.testing.assert_array_equal(frame.bgr_image[..., ::-1], reta._stream.idle_frame)
    shown = [f.bgr_image for f in frames if f.audio_chunk and f.bgr_image is not None]
    assert len(shown) + reta.dropped == 23
    if not reta.dropped:
        whole = renderer.render(portrait, to_float(voice))
        np.testing.assert_array_equal(np.stack(shown)[..., ::-1], whole)


def test_a_slow_device_drops_images_and_never_sound(renderer, portrait, monkeypatch):
    voice = speech(60 * FRAME)
    render, delay = StreamServer._render, iter([0.0] * 3)

    def slow(*asked):
        time.sleep(next(delay, 0.9))  # more than twice what its frames last, after the first
        return render(*asked)

    monkeypatch.setattr(StreamServer, "_render", slow)

    async def host():
        reta = AsyncReta(renderer, portrait)
        await reta.push_audio(voice.tobytes())
        await reta.flush()
        return reta, await listen(reta, has_ended)

    reta, frames = asyncio.run(host())
    np.testing.assert_array_equal(said(frames), voice)
    without = sum(f.audio_chunk is not None and f.bgr_image is None for f in frames)
    assert without == reta.dropped > 0


class Busy(Statue):
    """Its calls last ticks of 40 ms, which the host plays meanwhile: in no time at all."""

    def __init__(self, chunk: int):
        self.window = AudioWindow(past=5, chunk=chunk)
        self.lasting = lambda together: 0.0  # ticks of a call for so many streams
        self.play = lambda: None
        self._left = 0.0  # of a tick

    def render_windows(self, identities, audio):
        self._left += self.lasting(len(audio))
        while self._left >= 1:
            self._left -= 1
            self.play()
        return np.zeros((len(audio), self.window.chunk, 8, 8, 3), np.uint8)


def shown_of(voice: np.ndarray, chunk: int, lasting, avatars: int = 1) -> list[str]:
    """Of avatars that say a voice together: # for an image, . for none, in virtual time."""
    device = Busy(chunk)
    server = StreamServer(device, avatars)
    retas = [AsyncReta(device, STONE, server) for _ in range(avatars)]
    frames = [[] for _ in retas]

    def play():
        for reta, played in zip(retas, frames, strict=True):
            played.append(reta._next())

    for reta in retas:
        asyncio.run(reta.push_audio(voice.tobytes()))
    device.lasting, device.play = lasting, play
    while not all(any(frame.end_of_speech for frame in played) for played in frames):
        if not server.step():
            play()
    shown = []
    for reta, played in zip(retas, frames, strict=True):
        np.testing.assert_array_equal(said(played), voice)
        images = [f.bgr_image is not None for f in played if f.audio_chunk is not None]
        assert images.count(False) == reta.dropped
        shown.append("".join(".#"[has_image] for has_image in images))
    return shown


@pytest.mark.parametrize(
    ("chunk", "avatars", "ticks"),
    [(10, 1, 10.5), (10, 1, 12.5), (3, 1, 3.5), (1, 1, 1.1), (1, 1, 1.25), (10, 3, 3.8)],
)
def test_a_device_that_is_too_slow_shows_its_share_to_the_end(chunk, avatars, ticks):
    """The best that is possible: each call brings all its frames in time."""
    possible = chunk / (ticks * avatars)
    for shown in shown_of(speech(250 * FRAME), chunk, lambda n: ticks * n, avatars):
        assert 0.9 * possible < shown.count("#") / 250 < 1
        assert shown[-25:].count("#") >= 10
        assert 11 * "." not in shown


@pytest.mark.parametrize("chunk", [10, 3, 1])
@pytest.mark.parametrize(("slow", "lost"), [([100], 50), ([26] * 8, 8 * 26 - 50 + 26)])
def test_after_slow_calls_all_frames_are_shown_again(chunk, slow, lost):
    """At once after one; after more, those of one more. Speaking begins with the first call."""
    quick = chunk / 2
    ticks = iter([100, *[quick] * (300 // chunk), *slow])  # fifty frames are ahead by then
    (shown,) = shown_of(speech(700 * FRAME), chunk, lambda _: next(ticks, quick))
    first, last = shown.find("."), shown.rfind(".")
    assert 0 < first < last < first + lost + 2 * chunk


def test_a_host_that_waits_for_images_gets_them_all():
    """As late as they are: it says nothing without them."""
    device, frames, ticks = Busy(10), [], iter([5] * 8 + [60])
    stream = (server := StreamServer(device, 1)).open(STONE)
    stream.push_audio(speech(155 * FRAME))
    stream.flush()
    device.lasting = lambda _: next(ticks, 14)
    device.play = lambda: frames.append(stream.next_frame())
    while server.step():
        pass
    frames += iter(stream.next_frame, None)
    assert sum(frame is not None for frame in frames) == 155


def test_a_host_that_stood_still_once_sees_images_again(renderer, portrait):
    """One that waits for its sound to be played, for that of dropped images, too."""
    voice = speech(100 * FRAME)

    async def host():
        reta, played, frames = AsyncReta(renderer, portrait), 0.0, 0
        await reta.push_audio(voice.tobytes())
        async for frame in reta.run():
            if frame.audio_chunk is not None:
                now, frames = time.monotonic(), frames + 1
                played = max(played, now) + 0.04
                await asyncio.sleep(max(0.0, played - now - 0.1) + 0.3 * (frames == 10))
            if frame.end_of_speech:
                return reta.dropped

    assert 0 < asyncio.run(host()) < 50


def test_avatars_leave_the_host_s_threads_alone(renderer, portrait, monkeypatch):
    server, names, render = StreamServer(renderer, 2), set(), StreamServer._render

    def named(*asked):
        names.add(threading.current_thread().name)
        return render(*asked)

    async def host():
        avatars = [AsyncReta(renderer, portrait, server) for _ in range(2)]
        monkeypatch.setattr(StreamServer, "_render", named)
        for avatar in avatars:
            await avatar.push_audio(speech(12 * FRAME).tobytes())
        await asyncio.gather(*(listen(avatar, has_ended) for avatar in avatars))

    asyncio.run(host())
    assert names == {"reta_0"}


def by_hand(reta: AsyncReta, frames: int) -> list:
    """What `run` gives of so many ticks where the device needs no time, to a host that draws."""
    found = []
    for _ in range(frames):
        while reta._server.step():
            pass
        frame = reta._next()
        found.append(frame._replace(bgr_image=frame.bgr_image.copy()))
        frame.bgr_image[:] //= 2
    return found


def test_a_voice_that_is_late_is_waited_for_and_nothing_is_dropped(renderer, portrait):
    """Pauses of any length: the last image stays, after half a second the idle one."""
    voice = speech(100 * FRAME)
    shown, ends = [], 0

    async def host(pause: int):
        reta = AsyncReta(renderer, portrait)
        idle = reta.get_first_frame()
        await reta.push_audio(voice[: 37 * FRAME].tobytes(), RATE, last_chunk=False)
        frames = by_hand(reta, 30 + pause)
        rest = frames[30:]
        assert all(f.audio_chunk is None for f in rest)
        reta.get_first_frame()[:] = 0  # drawn on: the next one is as before
        for shown, held in ((rest[:HELD], frames[29].bgr_image), (rest[HELD:], idle)):
            for frame in shown:
                np.testing.assert_array_equal(frame.bgr_image, held)
        await reta.push_audio(voice[37 * FRAME :].tobytes(), RATE, last_chunk=False)
        frames += by_hand(reta, 58)
        assert not any(frame.end_of_speech for frame in frames)
        await reta.flush()
        return reta, frames + by_hand(reta, 15)

    whole = renderer.render(portrait, to_float(voice))
    for pause in (3, 10, 40):
        reta, frames = asyncio.run(host(pause))
        np.testing.assert_array_equal(said(frames), voice)
        shown = [f.bgr_image for f in frames if f.audio_chunk is not None]
        np.testing.assert_array_equal(np.stack(shown)[..., ::-1], whole)
        ends = [f.audio_chunk.bytes for f in frames if f.end_of_speech]
        assert ends == [voice[-FRAME:].tobytes()] and reta.dropped == 0


def test_a_window_without_look_ahead_still_says_where_the_speech_ends():
    utterance = Utterance(AudioWindow(past=5, chunk=2, look_ahead=0))
    utterance.push(speech(4 * FRAME), RATE)
    while taken := utterance.take():
        utterance.put(taken[0], np.zeros((2, 1, 1, 3), np.uint8))
    frames = list(iter(utterance.next_frame, None))
    assert len(frames) == 3 and utterance.next_sound() is None, "the fourth may be the last"
    utterance.finish()
    assert utterance.next_frame().end_of_speech and utterance.is_played


async def seconds_of(reta: AsyncReta, frames: int) -> float:
    start = time.monotonic()
    await listen(reta, lambda shown: len(shown) == frames)
    return time.monotonic() - start


def test_a_voice_that_stops_where_a_chunk_ends_is_waited_for_in_step(monkeypatch):
    """An image waits, of which nobody knows yet whether it is the last: no frame to play."""
    monkeypatch.setattr(streaming, "FPS", 200)

    async def host():
        reta = AsyncReta(Statue(), STONE)
        await reta.push_audio(speech(2 * FRAME).tobytes(), last_chunk=False)
        return await seconds_of(reta, frames=HELD + 20)

    assert asyncio.run(host()) > (HELD + 18) / 200


def test_who_is_silent_keeps_step_while_others_speak():
    server = StreamServer(Statue(), 2)
    other = server.open(STONE)
    other.push_audio(speech(45 * FRAME))
    reta = AsyncReta(Statue(), STONE, server)
    assert asyncio.run(seconds_of(reta, frames=10)) > 8 / 25
    assert other.waiting == 44  # their chunks were rendered meanwhile


def test_nobody_waits_for_a_step_but_other_steps():
    """While the device works, places are taken and given back, and speeches broken off."""
    device, rendering, done = Busy(2), threading.Event(), threading.Event()
    server = StreamServer(device, 3)
    closed, interrupted, dropped = streams = [server.open(STONE) for _ in range(3)]
    while streams:
        streams.pop().push_audio(speech(4 * FRAME))
    device.lasting = lambda together: together == 3
    device.play = lambda: rendering.set() or done.wait(5)
    with ThreadPoolExecutor(2) as threads:
        steps = [threads.submit(server.step) for _ in range(2)]
        assert rendering.wait(5)
        server.close(closed)
        del dropped
        others = [server.open(STONE) for _ in range(2)]
        interrupted.interrupt()
        interrupted.push_audio(speech(4 * FRAME))
        assert not any(step.done() for step in steps)
        done.set()
    assert sorted(step.result() for step in steps) == [1, 3]
    assert [stream.waiting for stream in (closed, interrupted, *others)] == [0, 2, 0, 0]


def test_an_avatar_outlives_its_event_loop():
    reta = AsyncReta(Statue(), STONE)

    async def host():
        frames = 0
        async for _ in reta.run():
            frames += 1
            if frames == 3:
                return

    asyncio.run(host())
    asyncio.run(host())


def test_what_is_queued_is_not_copied_for_every_frame():
    utterance, second = Utterance(AudioWindow()), speech(RATE)
    for _ in range(600):
        utterance.push(second, RATE)
    tracemalloc.start()
    try:
        utterance.take()
        for _ in range(100):
            assert utterance.next_sound() is not None
        assert tracemalloc.get_traced_memory()[1] < 1_000_000  # ten minutes are 38 MB
    finally:
        tracemalloc.stop()


def test_avatars_that_share_a_server_are_rendered_together(renderer, portrait, monkeypatch):
    server, voices = StreamServer(renderer, 2), [speech(22 * FRAME, pitch=p) for p in (100, 200)]
    calls, render = [], StreamServer._render
    monkeypatch.setattr(StreamServer, "_render", lambda *asked: calls.append(1) or render(*asked))

    async def host():
        avatars = [await AsyncReta.create(renderer, portrait, server) for _ in voices]
        for avatar, voice in zip(avatars, voices, strict=True):
            await avatar.push_audio(voice.tobytes(), last_chunk=False)
            await avatar.flush()
        calls.clear()
        frames = [by_hand(avatar, 22) for avatar in avatars]
        for avatar in avatars:
            await avatar.stop()
        return frames

    for frames, voice in zip(asyncio.run(host()), voices, strict=True):
        np.testing.assert_array_equal(said(frames), voice)
    assert len(calls) == 3
    server.open(portrait), server.open(portrait)  # their places are free again


def test_a_consumer_that_leaves_may_come_back(renderer, portrait):
    async def host():
        reta = AsyncReta(renderer, portrait)
        voice = speech(20 * FRAME)
        async for _ in reta.run():
            break
        await reta.push_audio(voice.tobytes())  # the last piece: the speech ends with it
        return voice, await listen(reta, has_ended)

    voice, frames = asyncio.run(host())
    np.testing.assert_array_equal(said(frames), voice)
    assert sum(frame.end_of_speech for frame in frames) == 1


def test_a_speech_is_seen_as_soon_as_it_is_rendered(renderer, portrait, monkeypatch):
    """Not at the next tick: with ticks of a minute, it begins all the same."""
    monkeypatch.setattr(streaming, "FPS", 1 / 60)

    async def host():
        reta = AsyncReta(renderer, portrait)

        async def speak():
            await asyncio.sleep(0.3)
            await reta.push_audio(speech(15 * FRAME).tobytes())

        speaking = asyncio.create_task(speak())
        frames = await asyncio.wait_for(listen(reta, lambda f: f[-1].audio_chunk is not None), 30)
        await speaking
        return frames

    frames = asyncio.run(host())
    assert [frame.audio_chunk is None for frame in frames] == [True, False]


def test_an_interruption_silences_at_once(renderer, portrait):
    async def host():
        reta = AsyncReta(renderer, portrait)
        await reta.push_audio(speech(60 * FRAME).tobytes())
        after = []

        def until(frames):
            if frames[-1].audio_chunk is not None and not after:
                reta.interrupt()
                after.append(len(frames))
            return after and len(frames) == after[0] + 8

        frames = await listen(reta, until)
        return frames[after[0] :]

    assert all(frame.audio_chunk is None for frame in asyncio.run(host()))


def test_what_breaks_in_the_device_reaches_the_host(renderer, portrait, monkeypatch):
    async def host():
        reta = AsyncReta(renderer, portrait)

        def broken(*_):
            raise RuntimeError("the device is gone")

        monkeypatch.setattr(StreamServer, "_render", broken)
        await reta.push_audio(speech(20 * FRAME).tobytes())
        await asyncio.wait_for(listen(reta, lambda frames: False), 20)

    with pytest.raises(RuntimeError, match="the device is gone"):
        asyncio.run(host())


def test_bytes_that_are_no_samples_are_refused(renderer, portrait):
    with pytest.raises(InputError, match="3 bytes"):
        asyncio.run(AsyncReta(renderer, portrait).push_audio(b"abc"))


def test_the_protocol_of_hosts(renderer, portrait):
    """As LiveKit's plugin for such avatars drives them, and Pipecat's makes them."""
    make = functools.partial(AsyncReta.create, renderer, portrait)

    async def host():
        runtime = await make()
        assert (runtime.settings.FPS, runtime.settings.INPUT_SAMPLE_RATE) == (25, 16_000)
        assert runtime.get_first_frame().shape == (32, 32, 3)
        voice = speech(14 * FRAME)
        for piece in pieces(voice, 320):
            await runtime.push_audio(piece.tobytes(), RATE, last_chunk=False)
        await runtime.flush()
        sound = b""
        async for frame in runtime.run():
            if frame.bgr_image is not None:
                assert memoryview(frame.bgr_image).cast("B").nbytes == 32 * 32 * 3
            if frame.audio_chunk is not None:
                assert len(frame.audio_chunk.array) == 640
                assert frame.audio_chunk.sample_rate == RATE
                sound += frame.audio_chunk.bytes
            if frame.end_of_speech:
                break
        await runtime.stop()
        with pytest.raises(InputError, match="closed"):
            await runtime.push_audio(sound)
        return voice, sound

    voice, sound = asyncio.run(host())
    assert sound == voice.tobytes()


def test_an_avatar_that_nobody_waited_for_leaves_its_place(renderer, portrait, monkeypatch):
    server, opening, cancelled = StreamServer(renderer, 1), threading.Event(), threading.Event()
    encode = Renderer.encode

    def slow(self, portraits):
        opening.set()
        assert cancelled.wait(60)
        return encode(self, portraits)

    async def host():
        task = asyncio.create_task(AsyncReta.create(renderer, portrait, server))
        await asyncio.to_thread(opening.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()

    with monkeypatch.context() as patch:
        patch.setattr(Renderer, "encode", slow)
        asyncio.run(host())  # which waits for its threads
    gc.collect()
    assert server.open(portrait).waiting == 0
