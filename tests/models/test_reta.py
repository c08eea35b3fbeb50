"""RETA as a whole: the published sizes, the ablations of Table 4, and who may reach what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.synthetic import get_config
from data_pipeline.audio import window as cut
from data_pipeline.errors import InputError
from reta_jax.config import paper
from reta_jax.models.morphable import builtin_morphable
from reta_jax.models.reta import RETA, Controls, Identity, build_reta, gain_to_light
from reta_jax.state import build_networks
from reta_jax.windows import AudioWindow
from tests.products import is_exact, products_of
from tests.weights import random_variables

pytestmark = pytest.mark.usefixtures("quickly_compiled")

WIDTH = 32  # of the smoke model's codes
FRAMES = 5


def smoke_model(**changes):
    config = get_config("smoke").model
    config.update(changes)
    return config


def inputs(config, clips=2):
    """Portrait, audio, offset, frames and the face model, in the shapes the model asks for."""
    audio = jnp.zeros((clips, AudioWindow(**config.window).samples))
    portrait = jnp.zeros((clips, config.size, config.size, 3))
    return portrait, audio, jnp.zeros(clips, int), FRAMES, builtin_morphable(config.uv_resolution)


def shapes_of(config, clips=2):
    """Shapes of (output, identity, controls) and of the parameters; nothing is computed."""
    reta = build_reta(config)
    portrait, audio, offset, frames, morphable = inputs(config, clips)
    made, variables = jax.eval_shape(
        lambda *arrays: reta.init_with_output(jax.random.key(0), *arrays[:3], frames, arrays[3]),
        *(portrait, audio, offset, morphable),
    )
    return made, variables["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def morphable():
    return builtin_morphable(64)


@pytest.fixture(scope="module")
def small(morphable):
    """The smoke model with weights of which none is zero, so that every branch speaks."""
    config = smoke_model()
    reta = build_reta(config)
    portrait, audio, offset, _, _ = inputs(config, 1)
    # `frames` is a number, not an array: one wrapper gives it to eval_shape as such.
    variables = random_variables(_Fixed(reta, morphable), portrait, audio, offset)
    return reta, variables


class _Fixed:
    """`reta.init` with the arguments that are no arrays filled in."""

    def __init__(self, reta, morphable):
        self.init = lambda key, *arrays: reta.init(key, *arrays, FRAMES, morphable)


# The published sizes.


@pytest.fixture(scope="module")
def published():
    config = paper().model
    config.dtype, config.modulation = "float32", "modconv"
    return shapes_of(config)


def test_has_the_published_numbers_of_parameters(published):
    params = published[1]
    assert count(params["image_encoder"]) == 21_635_648
    assert count(params["audio_encoder"]) == 94_371_712
    # 22,409,545 without the 13 noise weights and to_rgb1 (1,542), which nothing ever reads.
    assert count(params["generator"]) == 22_409_545 - 13 - 1_542


def test_published_shapes(published):
    (output, identity, controls), params = published
    assert output.frames.shape == (2, FRAMES, 256, 256, 3)
    sizes = (8, 16, 32, 64, 128, 256)
    assert [x.shape for x in output.flows] == [(2, FRAMES, s, s, 2) for s in sizes]
    assert [x.shape for x in output.masks] == [(2, FRAMES, s, s, 1) for s in sizes]
    assert identity.style.shape == (2, 512)
    widths = (512, 512, 512, 256, 128, 64)
    assert [x.shape for x in identity.textures] == [
        (2, s, s, w) for s, w in zip(sizes, widths, strict=True)
    ]
    assert controls.motion.shape == controls.emotion.shape == (2, FRAMES, 512)
    assert controls.p_exp.shape == (2, FRAMES, 64)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((published[0], params)))


def test_paper_configuration_computes_in_bfloat16_and_keeps_float32():
    config = paper().model
    reta = build_reta(config)
    assert config.dtype == "bfloat16" and config.modulation == "adain"
    for network in (reta.image_encoder, reta.generator, reta.motion_decoder, reta.emotion_student):
        assert network.dtype == jnp.bfloat16
    (output, identity, controls), params = shapes_of(config, clips=1)
    results = (output.frames, identity.style, controls, params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(results))


# Table 4.

ALL = {"image_encoder", "audio_encoder", "generator", "motion_decoder", "motion_encoder",
       "emotion_student"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "networks", "missing"),
    [
        ({}, ALL, set()),
        ({"geometry": "direct"}, ALL - {"motion_encoder"}, {"p_exp"}),
        ({"geometry": "framewise"}, ALL - {"motion_encoder"}, {"p_exp"}),
        ({"geometry": "none"}, ALL - {"motion_decoder", "motion_encoder"}, {"motion", "p_exp"}),
        ({"emotion": False}, ALL - {"emotion_student"}, {"emotion"}),
        ({"injection": "concat"}, ALL | {"fusion"}, set()),
        ({"use_style": False}, ALL, set()),
        ({"modulation": "modconv"}, ALL, set()),
    ],
)
def test_every_ablation_has_its_branches_and_no_other(changes, networks, missing):
    config = smoke_model(**changes)
    (output, _, controls), params = shapes_of(config)
    assert set(params) == networks
    assert output.frames.shape == (2, FRAMES, config.size, config.size, 3)
    assert {name for name, value in controls._asdict().items() if value is None} == missing
    if changes.get("geometry") in ("direct", "framewise"):
        assert params["motion_decoder"]["head"]["kernel"].shape[-1] == WIDTH
    if changes.get("injection") == "concat":
        assert params["fusion"]["kernel"].shape == (3 * WIDTH, WIDTH)
    has_beta = "beta" in params["generator"]["conv"]["style"]
    assert has_beta == (changes.get("modulation") != "modconv")


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"geometry": "flame"}, "flame"),
        ({"injection": "early"}, "early"),
        ({"modulation": "film"}, "film"),
        ({"rgb_from": "nowhere"}, "nowhere"),
        ({"audio_encoder": {"kind": "hubert"}}, "hubert"),
    ],
)
def test_unknown_values_are_refused_by_name(changes, value):
    with pytest.raises(InputError, match=f"model.*{value}.*use '"):
        build_reta(smoke_model(**changes))


def test_a_model_without_any_control_is_refused():
    with pytest.raises(InputError, match=r"model\.geometry.*model\.emotion"):
        build_reta(smoke_model(geometry="none", emotion=False))


# Who may reach what.


@pytest.fixture
def codes():
    random = np.random.default_rng(0)
    style = random.standard_normal((2, WIDTH)).astype(np.float32)
    motion, emotion = random.standard_normal((2, 2, 3, WIDTH)).astype(np.float32)
    return style, motion, emotion


def control_codes(reta, variables, style, motion, emotion):
    controls = Controls(motion, emotion, None)
    controls = jax.tree.map(jnp.asarray, controls)
    return reta.apply(variables, jnp.asarray(style), controls, method=RETA.control_codes)


def test_motion_goes_to_the_early_code_and_emotion_to_the_late_one(codes):
    style, motion, emotion = codes
    reta = build_reta(smoke_model())
    early, late = control_codes(reta, {}, style, motion, emotion)
    np.testing.assert_array_equal(early, style[:, None] + motion)
    np.testing.assert_array_equal(late, style[:, None] + emotion)


@pytest.mark.parametrize("absent", ["motion", "emotion", "style"])
def test_an_absent_signal_adds_nothing(codes, absent):
    style, motion, emotion = codes
    reta = build_reta(smoke_model(use_style=absent != "style"))
    controls = [None if absent == "motion" else motion, None if absent == "emotion" else emotion]
    early, late = control_codes(reta, {}, style, *controls)
    zero = np.zeros_like(motion)
    base = zero if absent == "style" else zero + style[:, None]
    np.testing.assert_array_equal(early, base + (zero if absent == "motion" else motion))
    np.testing.assert_array_equal(late, base + (zero if absent == "emotion" else emotion))


def test_concatenation_gives_every_level_one_code_of_all_signals(codes):
    style, motion, emotion = codes
    reta = build_reta(smoke_model(injection="concat"))
    random = np.random.default_rng(1)
    fusion = {
        "kernel": random.standard_normal((3 * WIDTH, WIDTH)).astype(np.float32),
        "bias": random.standard_normal(WIDTH).astype(np.float32),
    }
    variables = {"params": {"fusion": jax.tree.map(jnp.asarray, fusion)}}
    early, late = control_codes(reta, variables, style, motion, emotion)
    everything = np.concatenate([np.broadcast_to(style[:, None], motion.shape), motion, emotion], 2)
    np.testing.assert_allclose(early, everything @ fusion["kernel"] + fusion["bias"], atol=1e-4)
    np.testing.assert_array_equal(early, late)


def test_only_with_use_style_do_frames_depend_on_the_style_code(small, codes):
    reta, variables = small
    style, motion, emotion = codes
    sizes = (8, 16, 32)
    keys = jax.random.split(jax.random.key(0), 3)
    channels = [x.shape[-1] for x in shapes_of(smoke_model())[0][1].textures]
    textures = tuple(
        jax.random.normal(key, (2, s, s, c))
        for key, s, c in zip(keys, sizes, channels, strict=True)
    )
    controls = Controls(jnp.asarray(motion), jnp.asarray(emotion), None)

    def frames(use_style, style):
        identity = Identity(jnp.asarray(style), textures)
        network = reta.clone(use_style=use_style)
        return network.apply(variables, identity, controls, method=RETA.generate).frames

    render = jax.jit(frames, static_argnums=0)
    np.testing.assert_array_equal(render(False, style), render(False, style + 1))
    assert jnp.abs(render(True, style) - render(True, style + 1)).max() > 1e-2


def test_a_portrait_is_seen_in_the_models_light_and_shown_in_its_own(small):
    """Darker and bluer: the same textures, and frames as dark and blue as the portrait."""
    reta, variables = small
    reta = reta.clone(light=(0.6, 0.5, 0.4))
    size = smoke_model().size
    bright = jax.random.uniform(jax.random.key(0), (1, size, size, 3), minval=0.2, maxval=0.6)
    lamp = jnp.array([0.7, 0.6, 0.9])[None, None, None]
    controls = Controls(jnp.ones((1, 2, WIDTH)), jnp.ones((1, 2, WIDTH)), None)

    def show(pixels):
        portrait = 2 * pixels - 1
        identity = reta.apply(variables, portrait, method=RETA.encode_portrait)
        frames = reta.apply(variables, identity, controls, method=RETA.generate).frames
        return identity, (frames + 1) / 2

    (seen, frames), (other, lit) = jax.jit(show)(bright), jax.jit(show)(bright * lamp)
    np.testing.assert_allclose(other.textures[-1], seen.textures[-1], atol=1e-4)
    np.testing.assert_allclose(lit, frames * lamp[None], atol=1e-4)
    face = bright[:, 3 * size // 8 : 3 * size // 4, 3 * size // 8 : 5 * size // 8]
    np.testing.assert_allclose((face * seen.gain).mean((1, 2)), [[0.6, 0.5, 0.4]], rtol=1e-5)
    dark = gain_to_light(jnp.full((1, size, size, 3), -1.0), reta.light)
    np.testing.assert_array_equal(dark, np.full((1, 1, 1, 3), 3.0))  # no more than three times


@pytest.mark.parametrize("light", [(0.5, 0.5), (0.5, 0.5, 1.5), (0.0, 0.5, 0.5)])
def test_a_light_that_is_none_is_refused(light):
    with pytest.raises(InputError, match="model.light is .* give red, green and blue"):
        build_reta(smoke_model(light=light))


# The audio rule.


@pytest.fixture(scope="module")
def listen(small, morphable):
    """`listen(audio, offset, frames)` gives the controls of the small model."""
    reta, variables = small

    def controls(audio, offset, frames):
        arguments = (jnp.asarray(audio), jnp.asarray(offset, jnp.int32), frames, morphable)
        return reta.apply(variables, *arguments, method=RETA.encode_voice)

    return jax.jit(controls, static_argnums=2)


def voice(frames, clips=None):
    shape = (640 * frames,) if clips is None else (clips, 640 * frames)
    return 0.2 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_controls_are_rows_of_the_chunk(listen):
    window = AudioWindow()
    audio = voice(window.frames, 6)
    whole = listen(audio, np.zeros(6, int), window.chunk)
    offsets = np.arange(6)
    part = listen(audio, offsets, FRAMES)
    for ours, rows in zip(part, whole, strict=True):
        expected = np.stack([row[k : k + FRAMES] for row, k in zip(rows, offsets, strict=True)])
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
        assert np.abs(np.diff(rows, axis=1)).max() > 1e-3  # rows that differ, or nothing is shown


def test_controls_of_a_chunk_depend_on_its_window_alone(listen):
    window = AudioWindow()
    first = (80 - window.past) * 640  # the window of the chunk that begins at frame 80
    inside = slice(first, first + window.samples)
    clean = voice(200)
    noisy = clean.copy()
    noisy[: inside.start], noisy[inside.stop :] = 1, -1
    heard = [cut(x, first, window.samples)[None] for x in (clean, noisy)]
    ours, theirs = (listen(audio, [0], window.chunk) for audio in heard)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)

    louder = clean.copy()
    louder[inside.stop - 640 : inside.stop] *= 3  # the last frame of the look-ahead does count
    changed = listen(cut(louder, first, window.samples)[None], [0], window.chunk)
    assert all(jnp.abs(a - b).max() > 1e-4 for a, b in zip(ours, changed, strict=True))


def test_an_emotion_is_the_mean_of_its_span(small, morphable, listen):
    reta, variables = small
    audio, chunk = jnp.asarray(voice(reta.window.frames, 1)), reta.window.chunk

    def emotion(audio):
        calm = reta.clone(emotion_span=4)
        controls = calm.apply(variables, audio, None, chunk, morphable, method=RETA.encode_voice)
        return controls.emotion[0]

    before = listen(np.asarray(audio), np.full(1, -3), chunk + 3).emotion[0]
    expected = np.stack([before[i : i + 4].mean(0) for i in range(chunk)])
    np.testing.assert_allclose(jax.jit(emotion)(audio), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("span", [0, 52])
def test_a_span_beyond_the_window_is_refused(span):
    with pytest.raises(InputError, match=f"model.emotion_span is {span}; give 1 to 51"):
        build_reta(smoke_model(emotion_span=span))


def test_windows_of_a_batch_are_apart(listen):
    audio = voice(AudioWindow().frames, 6)
    offsets = np.arange(6)
    all_six = listen(audio, offsets, FRAMES)
    silenced = audio.copy()
    silenced[1:] = 0
    first = listen(silenced, offsets, FRAMES)
    for ours, theirs in zip(all_six, first, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])


@pytest.mark.parametrize(("geometry", "kind"), [("3dmm", "mel"), ("framewise", "whisper")])
def test_codes_are_exact_on_gpus_and_tpus(morphable, geometry, kind):
    """Networks in bfloat16 round what they hear; what they say of it is rounded no more."""
    config = smoke_model(dtype="bfloat16", geometry=geometry, injection="concat", emotion_span=4)
    config.tcn.linear, config.audio_encoder.kind = 3, kind
    reta = build_reta(config)

    def codes(model, audio, style):
        controls = model.encode_voice(audio, None, FRAMES, morphable)
        return model.control_codes(style, controls)

    run = lambda *arrays: reta.init_with_output(jax.random.key(0), *arrays, method=codes)[0]
    products = products_of(run, jnp.zeros((1, reta.window.samples)), jnp.zeros((1, WIDTH)))
    of_float32 = [one for one in products if one.invars[1].aval.dtype == jnp.float32]
    assert len(of_float32) >= 6
    assert not [one.source_info.name_stack for one in of_float32 if not is_exact(one)]


def test_what_a_teacher_is_compared_with_is_exact():
    projection = build_networks(get_config("smoke"), 8).projection
    run = lambda code: projection.init_with_output(jax.random.key(0), code)[0]
    (product,) = products_of(run, jnp.zeros((1, WIDTH)))
    assert is_exact(product)


def test_untrained_controls_are_zero_so_the_generator_sees_the_style_alone(morphable):
    config = smoke_model()
    reta = build_reta(config)
    audio = jnp.asarray(voice(AudioWindow().frames, 1))

    def controls(key, audio):
        arguments = (audio, jnp.zeros(1, jnp.int32), FRAMES, morphable)
        return reta.init_with_output(key, *arguments, method=RETA.encode_voice)[0]

    made = jax.jit(controls)(jax.random.key(0, impl="rbg"), audio)
    np.testing.assert_array_equal(made.motion, np.zeros((1, FRAMES, WIDTH)))
    np.testing.assert_array_equal(made.emotion, np.zeros((1, FRAMES, WIDTH)))
    assert jnp.abs(made.p_exp).max() > 0.01
