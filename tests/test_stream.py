"""Live equals offline, however the sound is cut; interruptions; many streams; the paced form."""

import asyncio
import time
import tracemalloc

import cv2
import numpy as np
import pytest
import skimage.data
import soundfile

from data_pipeline.audio import load_audio, to_float, to_int16
from data_pipeline.errors import InputError
from reta_jax import stream as streaming
from reta_jax.render import Renderer
from reta_jax.stream import AsyncReta, Streamer, StreamServer
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
    streamer.push_audio(np.zeros(0, np.int16))
    streamer.flush()
    assert not list(streamer)
    assert streamer.idle_frame.shape == (32, 32, 3)


def test_memory_does_not_grow_with_the_utterance(renderer, portrait, monkeypatch):
    blank = np.zeros((1, CHUNK, 32, 32, 3), np.uint8)
    monkeypatch.setattr(StreamServer, "_render", lambda self: blank)
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
        (np.zeros(10, np.int16), 0, "positive"),
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


# Silence


def test_the_mouth_rests_where_nobody_speaks(renderer, portrait):
    voice = to_float(speech(10 * FRAME))
    silent = np.concatenate([voice, np.zeros(40 * FRAME, np.float32)])
    restless = Renderer(
        renderer.reta, renderer.params, renderer.morphable, 32, close_in_silence=False
    )
    frames, free = renderer.render(portrait, silent), restless.render(portrait, silent)
    np.testing.assert_array_equal(frames[:10], free[:10])
    assert (frames[20:] != free[20:]).any()


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
    assert server.open(portrait).slot == 1


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
    render, delay = StreamServer._render, iter([0.0] * 2)

    def slow(self):
        time.sleep(next(delay, 0.9))  # more than twice what its frames last, after the first
        return render(self)

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

        def broken(self):
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
    reta = AsyncReta(renderer, portrait)
    for name in ("push_audio", "flush", "interrupt", "run", "shutdown"):
        assert callable(getattr(reta, name))
    assert streaming.FPS == 25
