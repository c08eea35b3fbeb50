"""Live equals offline, however the sound is cut; interruptions; many streams; the paced form."""

import asyncio
import functools
import gc
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import skimage.data
import soundfile

from data_pipeline.audio import load_audio, to_float, to_int16
from data_pipeline.errors import InputError
from reta_jax import stream as streaming
from reta_jax.render import Renderer
from reta_jax.stream import HELD, AsyncReta, Streamer, StreamServer
from reta_jax.utterance import Utterance
from reta_jax.windows import AudioWindow, audio_windows
from tests.tiny import save_tiny_model

RATE, FRAME, CHUNK, LOOK_AHEAD = 16_000, 640, 10, 2


@pytest.fixture(scope="module")
def renderer(tmp_path_factory) -> Renderer:
    return Renderer.from_pretrained(save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny"))


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    woman = skimage.data.astronaut()[:300, 80:380]
    return cv2.resize(woman, (32, 32), interpolation=cv2.INTER_AREA)


def speech(samples: int, rate: int = RATE, pitch: float = 180) -> np.ndarray:
    """int16: a gliding tone in words of a second with gaps between them."""
    t = np.arange(samples) / rate
    tone = 0.4 * np.sin(2 * np.pi * (pitch * t + 40 * np.sin(3 * t)))
    return to_int16((tone * (np.sin(2 * np.pi * 0.7 * t) > -0.3)).astype(np.float32))


def pieces(samples: np.ndarray, size: int | None):
    if size is None:  # of every length from 10 ms to 1 s, odd ones too
        random = np.random.default_rng(0)
        cuts = np.cumsum(random.integers(160, RATE, len(samples) // 160))
        yield from np.split(samples, cuts[cuts < len(samples)])
    else:
        for start in range(0, len(samples), size):
            yield samples[start : start + size]


def talk(streamer: Streamer, samples: np.ndarray, size: int | None, rate: int = RATE):
    frames = []
    for piece in pieces(samples, size):
        streamer.push_audio(piece, rate)
        frames += list(streamer)
    streamer.flush()
    return frames + list(streamer)


def images(frames) -> np.ndarray:
    return np.stack([frame.image for frame in frames])


# Live is offline


@pytest.mark.parametrize("size", [160, 997, 4 * RATE, None])
@pytest.mark.parametrize("samples", [37 * FRAME + 5, 20 * FRAME])
def test_any_cut_of_the_sound_gives_the_frames_of_the_whole(renderer, portrait, samples, size):
    voice = speech(samples)
    frames = talk(Streamer(renderer, portrait), voice, size)
    np.testing.assert_array_equal(images(frames), renderer.render(portrait, to_float(voice)))
    sound = np.concatenate([frame.audio for frame in frames])
    np.testing.assert_array_equal(sound[:samples], voice)
    assert not sound[samples:].any()
    assert [frame.end_of_speech for frame in frames] == [False] * (len(frames) - 1) + [True]


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100])
def test_other_sample_rates_give_the_frames_of_the_file(renderer, portrait, tmp_path, rate):
    voice = speech(rate + 123, rate)
    soundfile.write(tmp_path / "voice.wav", voice, rate)
    whole = renderer.render(portrait, load_audio(tmp_path / "voice.wav"))
    for size in (rate // 100, None):
        frames = images(talk(Streamer(renderer, portrait), voice, size, rate)).astype(int)
        assert frames.shape == whole.shape
        assert np.abs(frames - whole).max() <= 1


def test_stereo_is_averaged(renderer, portrait):
    voice = speech(15 * FRAME)
    stereo = np.stack([voice, np.zeros_like(voice)], 1).astype(np.float32) / 32768
    frames = talk(Streamer(renderer, portrait), stereo, None)
    half = renderer.render(portrait, 0.5 * to_float(voice))
    np.testing.assert_array_equal(images(frames), half)


def test_frames_come_as_soon_as_their_chunk_and_the_look_ahead_are_there(renderer, portrait):
    voice = speech(40 * FRAME)
    for shorter in (renderer, renderer.with_chunk(1)):
        chunk = shorter.reta.window.chunk
        streamer = Streamer(shorter, portrait)
        needed = (chunk + LOOK_AHEAD) * FRAME
        streamer.push_audio(voice[: needed - 1])
        assert not list(streamer)
        streamer.push_audio(voice[needed - 1 : needed])
        assert len(list(streamer)) == chunk


def test_a_shorter_chunk_is_live_and_offline_the_same(renderer, portrait):
    voice = speech(17 * FRAME)
    quick = renderer.with_chunk(3)
    assert quick.reta.window.frames == renderer.reta.window.frames
    frames = images(talk(Streamer(quick, portrait), voice, None))
    np.testing.assert_array_equal(frames, quick.render(portrait, to_float(voice)))
    with pytest.raises(InputError, match="renders 1 to 10"):
        renderer.with_chunk(11)


def test_utterances_know_nothing_of_each_other(renderer, portrait):
    first, second = speech(13 * FRAME), speech(15 * FRAME, pitch=120)
    streamer = Streamer(renderer, portrait)
    streamer.push_audio(first)
    streamer.flush()
    streamer.push_audio(second)
    streamer.flush()
    frames = list(streamer)
    whole = [renderer.render(portrait, to_float(voice)) for voice in (first, second)]
    np.testing.assert_array_equal(images(frames), np.concatenate(whole))
    assert [i for i, frame in enumerate(frames) if frame.end_of_speech] == [12, 27]


def test_an_interruption_drops_the_rest_and_the_next_utterance_is_whole(renderer, portrait):
    streamer = Streamer(renderer, portrait)
    streamer.push_audio(speech(60 * FRAME))
    next(iter(streamer))
    streamer.interrupt()
    assert not list(streamer)
    voice = speech(15 * FRAME, pitch=120)
    frames = talk(streamer, voice, 1_000)
    np.testing.assert_array_equal(images(frames), renderer.render(portrait, to_float(voice)))


def test_nothing_pushed_is_nothing_said(renderer, portrait):
    streamer = Streamer(renderer, portrait)
    streamer.flush()
    assert not list(streamer)
    assert streamer.idle_frame.shape == (32, 32, 3)


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_an_utterance_without_samples_ends_after_a_frame_of_silence(renderer, portrait, rate):
    streamer = Streamer(renderer, portrait)
    streamer.push_audio(np.zeros(0, np.int16), rate)
    streamer.flush()
    (frame,) = streamer
    assert frame.end_of_speech and not frame.audio.any()


def test_memory_does_not_grow_with_the_utterance(renderer, portrait, monkeypatch):
    blank = np.zeros((1, CHUNK, 32, 32, 3), np.uint8)
    monkeypatch.setattr(StreamServer, "_render", lambda *_: blank)
    streamer, second = Streamer(renderer, portrait), speech(RATE)

    def minutes(count: int) -> int:
        for _ in range(60 * count):
            streamer.push_audio(second)
            for _ in streamer:
                pass
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        after_one = minutes(1)
        assert minutes(10) < after_one + 100_000  # ten minutes are 19 MB of sound
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "samples, rate, says",
    [
        (np.zeros(10, np.int32), RATE, "int16, or float"),
        (np.array([np.nan], np.float32), RATE, "not numbers"),
        (np.array([12_000.0], np.float32), RATE, r"up to 12000: give float in \[-1, 1\], or int16"),
        (np.zeros((2, 640), np.int16), RATE, r"shape \(2, 640\): give \(n,\) or \(n, channels\)"),
        (np.zeros((640, 0), np.float32), RATE, r"shape \(640, 0\)"),
        (np.zeros((2, 2, 2), np.float32), RATE, r"shape \(2, 2, 2\)"),
        (np.zeros(10, np.int16), 0, "0 Hz: give a whole number from 4000 to 384000"),
        (np.zeros(10, np.int16), 2**31, "2147483648 Hz: give a whole"),
        (np.zeros(10, np.int16), 24_000, "24000 Hz in an utterance of 16000 Hz"),
    ],
)
def test_sound_that_is_none_is_refused_and_the_rest_goes_on(
    renderer, portrait, samples, rate, says
):
    streamer = Streamer(renderer, portrait)
    voice = speech(15 * FRAME)
    streamer.push_audio(voice[:5_000])
    with pytest.raises(InputError, match=says):
        streamer.push_audio(samples, rate)
    frames = talk(streamer, voice[5_000:], None)
    np.testing.assert_array_equal(images(frames), renderer.render(portrait, to_float(voice)))


def test_any_cut_of_any_voice_gives_the_windows_of_the_whole():
    """Long voices and all chunks, without a model: windows that are equal give equal frames."""
    random = np.random.default_rng(1)
    for chunk in range(1, CHUNK + 1):
        spec = AudioWindow(past=50 + CHUNK - chunk, chunk=chunk)
        voice = random.integers(-(2**15), 2**15, random.integers(1, 12 * RATE), np.int16)
        utterance, found = Utterance(spec), []

        def take_all(utterance=utterance, found=found, chunk=chunk):
            while taken := utterance.take():
                found.append(taken)
                utterance.put(taken[0], np.zeros((chunk, 1, 1, 3), np.uint8))

        cuts = np.cumsum(random.integers(160, 10 * RATE, len(voice) // 160))
        for piece in np.split(voice, cuts[cuts < len(voice)]):
            utterance.push(piece, RATE)
            take_all()
        utterance.finish()
        take_all()
        whole = [samples for samples, _ in audio_windows(to_float(voice), spec)]
        assert [first for first, _ in found] == list(range(0, len(whole) * chunk, chunk))
        np.testing.assert_array_equal([samples for _, samples in found], whole)


def test_a_buffer_may_be_filled_again(renderer, portrait):
    voice, streamer = to_float(speech(15 * FRAME)), Streamer(renderer, portrait)
    buffer = np.zeros(1_000, np.float32)
    for piece in np.split(voice, range(1_000, len(voice), 1_000)):
        buffer[: len(piece)] = piece
        streamer.push_audio(buffer[: len(piece)])
    streamer.flush()
    np.testing.assert_array_equal(images(streamer), renderer.render(portrait, voice))


def test_a_call_of_the_device_that_fails_loses_nothing(renderer, portrait, monkeypatch):
    streamer, voice = Streamer(renderer, portrait), speech(25 * FRAME)
    streamer.push_audio(voice)
    streamer.flush()
    with monkeypatch.context() as patch:
        patch.setattr(StreamServer, "_render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(streamer)
    np.testing.assert_array_equal(images(streamer), renderer.render(portrait, to_float(voice)))


def interrupted(*_):
    raise KeyboardInterrupt


# Silence


def test_the_mouth_rests_where_nobody_speaks(renderer, portrait):
    voice = to_float(speech(10 * FRAME))
    silent = np.concatenate([voice, np.zeros(40 * FRAME, np.float32)])
    restless = Renderer(
        renderer.reta, renderer.params, renderer.morphable, 32, close_in_silence=False
    )
    frames, free = renderer.render(portrait, silent), restless.render(portrait, silent)
    difference = np.abs(frames.astype(int) - free)
    assert difference[:10].max() <= 1  # of 255: still + 1 (moving - still) is rounded
    assert difference[20:].max() > 1


@pytest.mark.parametrize("emotion_span", [1, 3])
def test_lips_rest_in_the_noise_of_a_room(renderer, portrait, emotion_span):
    """f_E that is made frame by frame moves lips, too; as a mean over time it is an expression."""
    noise = 1e-3 * np.random.default_rng(0).standard_normal(40 * FRAME)
    sound = np.concatenate([to_float(speech(10 * FRAME)), noise.astype(np.float32)])
    reta = renderer.reta.clone(emotion_span=emotion_span)
    closing, restless = (
        Renderer(reta, renderer.params, renderer.morphable, 32, close_in_silence=is_closed)
        for is_closed in (True, False)
    )
    changes = lambda renderer: np.ptp(renderer.render(portrait, sound)[26:].astype(int), axis=0)
    assert changes(restless).max() > 1
    assert (changes(closing).max() == 0) == (emotion_span == 1)


# Many streams


def test_streams_are_rendered_together_and_do_not_touch_each_other(renderer, portrait, monkeypatch):
    server = StreamServer(renderer, streams=3)
    portraits = [portrait, portrait[:, ::-1].copy(), portrait[::-1].copy()]
    voices = [speech(25 * FRAME, pitch=pitch) for pitch in (100, 180, 260)]
    streams = [server.open(image) for image in portraits]
    with pytest.raises(InputError, match="all 3 streams are taken"):
        server.open(portrait)
    for stream, voice in zip(streams, voices, strict=True):
        stream.push_audio(voice)
        stream.flush()
    steps = []
    while count := server.step():
        steps.append(count)
    assert steps == [3, 3, 3]
    for stream, image, voice in zip(streams, portraits, voices, strict=True):
        frames = images(iter(stream.next_frame, None)).astype(int)
        assert np.abs(frames - renderer.render(image, to_float(voice))).max() <= 1
    server.close(streams[1])
    successor = server.open(portrait)
    server.close(streams[1])  # once more: the place is another's now
    with pytest.raises(InputError, match="all 3 streams are taken"):
        server.open(portrait)
    with pytest.raises(InputError, match="this stream was closed"):
        streams[1].push_audio(voices[1])
    successor.push_audio(voices[0])
    successor.flush()
    assert server.step() == 1 and successor.waiting == CHUNK


def test_streams_opened_at_once_have_places_of_their_own(renderer, portrait):
    server = StreamServer(renderer, streams=4)
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(server.open, [portrait] * 4))
    assert len(set(opened)) == 4
    with pytest.raises(InputError, match="all 4 streams are taken"):
        server.open(portrait)


def test_a_step_renders_those_who_speak_in_sizes_that_were_compiled_before(
    renderer, portrait, monkeypatch
):
    sizes, render = [], Renderer.render_windows

    def recorded(self, identities, audio):
        sizes.append(len(audio))
        return render(self, identities, audio)

    monkeypatch.setattr(Renderer, "render_windows", recorded)
    server = StreamServer(renderer, streams=5)
    assert sizes == [1, 2, 4, 5]
    streams = [server.open(portrait) for _ in range(5)]
    assert sizes[4:] == [1] * 5
    for speakers in (1, 2, 3, 5):
        for stream in streams[-speakers:]:
            stream.push_audio(speech(12 * FRAME))
        assert server.step() == speakers
        for stream in streams:
            stream.interrupt()
    assert sizes[9:] == [1, 2, 4, 5]


def test_what_one_stream_s_portrait_says_is_not_copied(renderer, portrait, monkeypatch):
    given, encode, render = [], Renderer.encode, Renderer.render_windows
    identity = encode(renderer, portrait[None])
    monkeypatch.setattr(Renderer, "encode", lambda *_: identity)
    monkeypatch.setattr(
        Renderer,
        "render_windows",
        lambda self, who, audio: given.append(who) or render(self, who, audio),
    )
    streamer = Streamer(renderer, portrait)
    streamer.push_audio(speech(12 * FRAME))
    assert next(iter(streamer)).image.shape == (32, 32, 3)
    assert all(who is identity for who in given)


def test_others_go_on_while_a_stream_opens(renderer, portrait, monkeypatch):
    server, opening, spoken = StreamServer(renderer, 2), threading.Event(), threading.Event()
    stream, encode = server.open(portrait), Renderer.encode
    stream.push_audio(speech(12 * FRAME))

    def slow(self, portraits):
        opening.set()
        assert spoken.wait(60)
        return encode(self, portraits)

    monkeypatch.setattr(Renderer, "encode", slow)
    with ThreadPoolExecutor(1) as thread:
        another = thread.submit(server.open, portrait)
        assert opening.wait(60)
        assert server.step() == 1
        spoken.set()
        assert another.result() is not stream


def test_a_stream_that_could_not_open_leaves_its_place(renderer, portrait, monkeypatch):
    server = StreamServer(renderer, streams=1)
    with monkeypatch.context() as patch:
        patch.setattr(Renderer, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            server.open(portrait)
    assert server.open(portrait).waiting == 0


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


def test_what_nobody_plays_is_rendered_no_further_than_ahead(renderer, portrait):
    server = StreamServer(renderer, streams=1, ahead=2 * CHUNK)
    stream = server.open(portrait)
    stream.push_audio(speech(60 * FRAME))
    while server.step():
        pass
    assert stream.waiting == 2 * CHUNK
    stream.next_frame()
    assert server.step() == 1


def test_an_image_that_waits_keeps_no_other_stream_s(renderer, portrait):
    server = StreamServer(renderer, streams=3)
    stream = server.open(portrait)
    stream.push_audio(speech(12 * FRAME))
    server.step()
    for image in (stream.idle_frame, stream.next_frame().image):
        whole = image if image.base is None else image.base
        assert whole.nbytes <= CHUNK * image.nbytes


def test_a_portrait_of_another_size_is_refused(renderer, portrait):
    with pytest.raises(InputError, match="32x32"):
        Streamer(renderer, portrait[:16])


# The paced form


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
    """What `run` gives of so many ticks where the device needs no time."""
    found = []
    for _ in range(frames):
        while reta._server.step():
            pass
        found.append(reta._next())
    return found


def test_a_voice_that_is_late_is_waited_for_and_nothing_is_dropped(renderer, portrait):
    """Pauses of any length: the last image stays, after half a second the idle one."""
    voice = speech(100 * FRAME)
    shown, ends = [], 0

    async def host(pause: int):
        reta = AsyncReta(renderer, portrait)
        await reta.push_audio(voice[: 37 * FRAME].tobytes(), RATE, last_chunk=False)
        frames = by_hand(reta, 30 + pause)
        rest = frames[30:]
        assert all(f.audio_chunk is None for f in rest)
        assert all(f.bgr_image is frames[29].bgr_image for f in rest[:HELD])
        assert all(f.bgr_image is reta.get_first_frame() for f in rest[HELD:])
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
