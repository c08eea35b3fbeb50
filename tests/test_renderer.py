"""The frames of a portrait and a voice: how many, of what, and chunk by chunk as all at once."""

import functools
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image

from data_pipeline.audio import load_audio
from data_pipeline.errors import InputError
from reta_jax import renderer as rendering
from reta_jax.renderer import Renderer, controls_in_silence, render_chunk, window_controls
from reta_jax.weights import SHIPPED_WEIGHTS
from reta_jax.windows import AudioWindow, audio_windows, to_portrait
from tests.tiny import save_tiny_model
from tests.voices import FRAME, RATE, speech

CHUNK, LOOK_AHEAD, PAST = 10, 2, 50
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def renderer(weights) -> Renderer:
    return Renderer.from_pretrained(weights)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    woman = skimage.data.astronaut()[:300, 80:380]
    return cv2.resize(woman, (32, 32), interpolation=cv2.INTER_AREA)


def test_one_frame_for_every_640_samples_begun_and_one_compilation(renderer, portrait):
    renderer.render(portrait, speech(1))
    compiled = render_chunk._cache_size()
    for samples in (0, 1, 639, 640, 641, 10 * FRAME, 10 * FRAME + 1, 23 * FRAME, 47 * FRAME - 1):
        frames = renderer.render(portrait, speech(samples))
        assert frames.shape == (-(-samples // FRAME), 32, 32, 3) and frames.dtype == np.uint8
    assert render_chunk._cache_size() == compiled


def test_sound_of_other_types_is_the_same_sound(renderer, portrait):
    pcm = (8000 * np.sin(np.arange(5 * FRAME) / 9)).astype(np.int16)
    expected = renderer.render(portrait, pcm / np.float32(32768))
    np.testing.assert_array_equal(renderer.render(portrait, pcm), expected)
    stereo = np.stack([pcm, pcm], axis=1)
    np.testing.assert_array_equal(renderer.render(portrait, stereo), expected)


@pytest.mark.parametrize(
    ("sound", "what"),
    [
        (np.full(640, np.nan, np.float32), "not numbers"),
        (np.full(640, 9000.0, np.float32), "up to 9000"),
        (np.zeros(640, np.int32), "type int32"),
        (np.zeros((2, 640), np.float32), "shape"),
    ],
)
def test_what_is_no_sound_is_refused_offline_as_live(renderer, portrait, sound, what):
    with pytest.raises(InputError, match=what):
        renderer.render(portrait, sound)


def test_a_portrait_in_floats_is_refused(renderer, portrait):
    with pytest.raises(InputError, match="type float32: .* in uint8"):
        to_portrait(portrait / np.float32(255), renderer.size)


def test_a_portrait_of_pil_is_one(portrait):
    np.testing.assert_array_equal(to_portrait(Image.fromarray(portrait), 32), portrait)


def test_the_voice_moves_the_frames_and_the_portrait_shapes_them(renderer, portrait):
    frames = renderer.render(portrait, speech(20 * FRAME)).astype(int)
    assert np.abs(np.diff(frames, axis=0)).max() > 2
    other = renderer.render(portrait[::-1].copy(), speech(20 * FRAME)).astype(int)
    assert np.abs(frames - other).mean() > 1


def test_a_long_voice_is_its_chunks_one_by_one(renderer, portrait):
    """Each chunk needs only what is before it, itself, and the look-ahead: live is offline."""
    voice = speech(75 * FRAME + 100)
    whole = renderer.render(portrait, voice)
    for first in (0, 10, 60, 70):
        start, end = max(0, first - PAST) * FRAME, (first + CHUNK + LOOK_AHEAD) * FRAME
        place = min(first, PAST)  # of the chunk in what is heard of the voice here
        chunk = renderer.render(portrait, voice[start:end])[place : place + CHUNK]
        np.testing.assert_array_equal(chunk, whole[first : first + CHUNK])


def test_what_comes_after_the_look_ahead_changes_nothing(renderer, portrait):
    voice = speech(50 * FRAME)
    before = renderer.render(portrait, voice)
    changed = voice.copy()
    changed[(20 + LOOK_AHEAD) * FRAME :] *= -0.3
    after = renderer.render(portrait, changed)
    np.testing.assert_array_equal(after[:20], before[:20])
    assert (after[20:30] != before[20:30]).any()
    changed = voice.copy()
    changed[20 * FRAME : (20 + LOOK_AHEAD) * FRAME] = 0
    assert (renderer.render(portrait, changed)[10:20] != before[10:20]).any()


def test_streaming_computes_one_chunk_ahead(renderer, portrait, monkeypatch):
    started = []

    def counted(*arguments):
        started.append(1)
        return render_chunk(*arguments)

    monkeypatch.setattr(rendering, "render_chunk", counted)
    hour = np.broadcast_to(np.float32(0.1), 3600 * RATE)
    for number, chunk in zip(range(1, 5), renderer.stream(portrait, hour), strict=False):
        assert len(chunk) == CHUNK
        assert len(started) == number + 1


def test_an_hour_is_cut_into_windows_one_at_a_time():
    hour = np.broadcast_to(np.float32(0.1), 3600 * RATE + 1)
    spec, first = AudioWindow(), None
    counts = []
    for audio, count in audio_windows(hour, spec):
        assert audio.shape == (spec.samples,)
        first = audio if first is None else first
        counts.append(count)
    assert counts == [CHUNK] * 9000 + [1]
    assert not first[: PAST * FRAME].any() and first[PAST * FRAME :].all()
    assert not audio[PAST * FRAME + 1 :].any() and audio[: PAST * FRAME + 1].all()


def test_a_portrait_of_another_size(renderer, portrait):
    """At once: not when the first frame is asked for."""
    for other in (portrait[:-1], np.zeros((64, 64, 3), np.uint8)):
        with pytest.raises(InputError, match="takes a face crop of 32x32"):
            renderer.stream(other, speech(FRAME))


def test_scripts_are_told_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="give a folder with params.safetensors"):
        Renderer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_expression_scale_moves_the_controls_away_from_their_rest(weights, scale):
    plain, scaled = (
        Renderer.from_pretrained(weights, close_in_silence=False, expression_scale=s)
        for s in (1.0, scale)
    )
    window, _ = next(audio_windows(speech(CHUNK * FRAME), plain.reta.window))

    def controls(renderer, audio=jnp.asarray(window[None])):
        of = jax.jit(functools.partial(window_controls, renderer.reta))
        return of(renderer.params, renderer.morphable, audio)

    rest = controls_in_silence(plain.reta, plain.params, plain.morphable)
    before, after = controls(plain), controls(scaled)
    for name in ("motion", "emotion"):
        still, moved, found = (getattr(x, name) for x in (rest, before, after))
        assert np.abs(moved - still).max() > 1e-3
        np.testing.assert_allclose(found, still + scale * (moved - still), atol=1e-4)
    np.testing.assert_array_equal(after.p_exp, before.p_exp)


@pytest.mark.slow
def test_what_is_cast_beforehand_is_what_every_call_would_cast(weights):
    renderer = Renderer.from_pretrained(weights, dtype="bfloat16")
    decoder = renderer.prepared["motion_decoder"]
    types = [decoder[name]["kernel"].dtype for name in ("stem", "head")]
    assert types == [jnp.bfloat16, jnp.float32]
    listen = jax.jit(
        functools.partial(renderer.reta.apply, method="encode_voice"), static_argnums=3
    )
    voice = speech(renderer.window.samples)[None]
    before, now = (
        listen({"params": params}, voice, None, CHUNK, renderer.morphable)
        for params in (renderer.params, renderer.prepared)
    )
    for ours, theirs in zip(jax.tree.leaves(now), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_bfloat16_shows_the_same_face_with_the_same_mouth():
    """The weights of the repository, a photograph and a voice: 45 dB between the two."""
    voice = load_audio(REPOSITORY / "docs" / "voice.flac")[:20_000]
    exact = Renderer.from_pretrained(SHIPPED_WEIGHTS)
    half = Renderer.from_pretrained(SHIPPED_WEIGHTS, dtype="bfloat16")
    woman = skimage.data.astronaut()[:300, 80:380]
    portrait = cv2.resize(woman, (exact.size, exact.size), interpolation=cv2.INTER_AREA)
    frames = [renderer.render(portrait, voice).astype(int) for renderer in (exact, half)]
    error = np.square(frames[0] - frames[1]).mean()
    assert 0 < error < 255**2 / 10**4.5
    assert np.square(np.diff(frames[0], axis=0)).mean() > error  # mouths move by more than that
