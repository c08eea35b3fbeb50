"""Live equals offline, however the sound is cut; interruptions; silence; many streams."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from data_pipeline.audio import load_audio, to_float
from data_pipeline.errors import InputError
from reta_jax.renderer import Renderer
from reta_jax.stream import Streamer, StreamServer
from reta_jax.utterance import Utterance
from reta_jax.windows import AudioWindow, audio_windows
from tests.live.voices import CHUNK, FRAME, LOOK_AHEAD, RATE, pieces, speech


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


def test_a_shorter_chunk_has_the_same_rest(renderer, portrait):
    """The window of a chunk's last frame is that of a chunk of one."""
    silence = np.zeros(10 * FRAME, np.float32)
    frames = [
        r.render(portrait, silence)[9].astype(int) for r in (renderer, renderer.with_chunk(1))
    ]
    np.testing.assert_allclose(*frames, atol=1)


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
    idle = streamer.idle_frame
    streamer.idle_frame[:] = 0  # a host's own drawing
    assert idle.shape == (32, 32, 3) and idle.any()
    np.testing.assert_array_equal(streamer.idle_frame, idle)


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
    restless = Renderer(renderer.reta, renderer.params, renderer.morphable, close_in_silence=False)
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
        Renderer(reta, renderer.params, renderer.morphable, close_in_silence=is_closed)
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


@pytest.mark.parametrize("ahead", [CHUNK + 1, 2 * CHUNK])
def test_what_nobody_plays_is_rendered_no_further_than_ahead(renderer, portrait, ahead):
    server = StreamServer(renderer, streams=1, ahead=ahead)
    stream = server.open(portrait)
    stream.push_audio(speech(60 * FRAME))
    while server.step():
        pass
    assert stream.waiting == 2 * CHUNK
    while stream.waiting >= ahead:
        assert not server.step() and stream.next_frame()
    assert server.step() == 1


@pytest.mark.parametrize("wrong", [{"streams": 0}, {"streams": 1, "ahead": 0}])
def test_a_server_of_nothing_is_refused(renderer, wrong):
    with pytest.raises(InputError, match="give 1 or more of each"):
        StreamServer(renderer, **wrong)


def test_an_image_that_waits_keeps_no_other_stream_s(renderer, portrait):
    """Nor does one that is given out keep its chunk; it may be drawn on."""
    server = StreamServer(renderer, streams=3)
    streams = [server.open(portrait) for _ in range(3)]
    for stream in streams:
        stream.push_audio(speech(12 * FRAME))
    server.step()
    for image in (streams[0].idle_frame, streams[0].next_frame().image):
        assert image.flags.owndata and image.flags.writeable
    waiting = streams[0]._utterances[0].next_frame().image
    assert waiting.base.nbytes == CHUNK * waiting.nbytes


def test_a_portrait_of_another_size_is_refused(renderer, portrait):
    with pytest.raises(InputError, match="32x32"):
        Streamer(renderer, portrait[:16])
