import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.models.generator import (
    MASK_BIAS,
    Generator,
    StyledConv,
    ToRGB,
    add_detail,
)
from reta_jax.models.image_encoder import ImageEncoder
from reta_jax.models.prepare import prepare_generator
from reta_jax.ops.blur import blur
from reta_jax.ops.platforms import forms_of
from reta_jax.pretrained import lia
from reta_jax.weights import flatten, nest
from tests.golden.fill import golden, state_dict, uniform

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SMALL = Generator(size=32, style_dim=32, channel_multiplier=1 / 16, split_res=16)
FRAMES, CLIPS = 3, 2


@pytest.fixture(scope="module")
def textures():
    """Smooth, as trained ones are: the warp of white noise would amplify every rounding."""
    keys = jax.random.split(jax.random.key(0), 3)
    coarse = [jax.random.normal(key, (CLIPS, 4, 4, 32)) for key in keys]
    return tuple(
        jax.image.resize(x, (CLIPS, n, n, 32), "bicubic")
        for x, n in zip(coarse, (8, 16, 32), strict=True)
    )


@pytest.fixture(scope="module")
def codes():
    return tuple(jax.random.normal(jax.random.key(seed), (CLIPS, FRAMES, 32)) for seed in (1, 2))


@pytest.fixture(scope="module", params=["adain", "modconv"])
def network(request, textures, codes):
    """The small generator, its parameters, none of them zero, and what it makes of the inputs."""
    model = SMALL.clone(modulation=request.param)
    params = jax.eval_shape(model.init, jax.random.key(3), textures, *codes)
    params = jax.tree.map(random_parameter, params)
    return model, params, apply(model, params, textures, *codes)


def apply(model, *arrays):
    """Compiled as a whole, and on the host."""
    return jax.device_get(jax.jit(model.apply)(*arrays))


def random_parameter(shape):
    values = np.random.default_rng(shape.size).normal(size=shape.shape)
    return jnp.asarray(values if len(shape.shape) > 1 else 0.1 * values, jnp.float32)


def size_of(model):
    n = model.size
    textures = tuple(
        jnp.zeros((1, 2**i, 2**i, min(512, 2 ** (14 - i)))) for i in range(3, n.bit_length())
    )
    code = jnp.zeros((1, 1, 512))
    variables = jax.eval_shape(model.init, jax.random.key(0), textures, code, code)
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_parameter_count_is_the_reference():
    """22,409,545 in the reference, of which 13 noise weights and to_rgb1 (1,542) are never used."""
    assert size_of(Generator(modulation="modconv")) == 22_409_545 - 13 - 1_542
    inputs = 512 * 11 + 256 * 3 + 128 * 3 + 64 * 2  # channels into the 19 modulated layers
    beta, spread = inputs * 513, inputs
    assert size_of(Generator()) == 22_407_990 + beta + spread


def test_frames_equal_single_frames(network, textures, codes):
    model, params, output = network
    assert output.frames.shape == (CLIPS, FRAMES, 32, 32, 3)
    alone_of = jax.jit(model.apply)
    for frame in range(FRAMES):
        alone = alone_of(params, textures, *(code[:, frame : frame + 1] for code in codes))
        for many, one in zip(jax.tree.leaves(output), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(many[:, frame], one[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_forms_of_other_platforms_give_the_same_frames(
    network, textures, codes, platform, dtype
):
    """In bfloat16 on the whole: under random weights its rounding moves single pixels."""
    model, params, output = network
    model = model.clone(dtype=dtype)
    prepared = {"params": prepare_generator(model, params["params"], platform)}
    for values in (params, prepared):
        with forms_of(platform):
            there = apply(model, values, textures, *codes)
        for ours, theirs in zip(jax.tree.leaves(there), jax.tree.leaves(output), strict=True):
            if dtype == jnp.float32:
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)
            else:
                assert np.abs(ours - theirs).mean() < 0.02 * np.std(theirs)


def test_gradients_reach_everything(network, textures, codes):
    model, params, _ = network

    def loss(params, textures, early, late):
        return jnp.square(model.apply(params, textures, early, late).frames).mean()

    gradients = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(params, textures, *codes)
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(gradients)):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_early_code_governs_levels_below_split_res(network, textures, codes):
    model, params, output = network
    of = jax.jit(model.apply)
    early, late = codes
    other_late = jax.device_get(of(params, textures, early, late + 1))
    np.testing.assert_array_equal(output.raw[0], other_late.raw[0])  # 8^2 < split_res
    assert np.abs(output.raw[1] - other_late.raw[1]).max() > 1e-3  # 16^2
    other_early = jax.device_get(of(params, textures, early + 1, late))
    assert np.abs(output.raw[0] - other_early.raw[0]).max() > 1e-3


def test_flow_and_mask_are_read_off_the_raw_map(network):
    _, _, output = network
    for flow, mask, raw in zip(output.flows, output.masks, output.raw, strict=True):
        np.testing.assert_allclose(flow, np.tanh(raw[..., :2]), atol=1e-6)
        np.testing.assert_allclose(mask, 1 / (1 + np.exp(-np.asarray(raw[..., 2:]))), atol=1e-6)


def test_starts_with_no_flow_and_mostly_texture(textures, codes):
    params = jax.jit(SMALL.init)(jax.random.key(0), textures, *codes)
    output = apply(SMALL, params, textures, *codes)
    for flow in output.flows:
        np.testing.assert_array_equal(flow, 0)
    np.testing.assert_allclose(output.raw[0][..., 2], MASK_BIAS, rtol=1e-6)
    assert output.masks[-1].mean() > 0.8


@pytest.mark.parametrize("platform", ["cpu", None])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_prepared_parameters_give_the_same_frames(network, textures, codes, dtype, platform):
    model, params, _ = network
    model = model.clone(dtype=dtype)
    prepared = prepare_generator(model, params["params"], platform)
    outputs = [apply(model, {"params": p}, textures, *codes) for p in (params["params"], prepared)]
    for plain, ours in zip(*map(jax.tree.leaves, outputs), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)
    assert jax.tree.structure(nest(flatten(prepared))) == jax.tree.structure(prepared)
    again = prepare_generator(model, prepared, platform)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, prepared, again))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_convolutions_are_winograds_on_a_cpu_in_float32(dtype):
    model = Generator(size=16, style_dim=8, channel_multiplier=0.25, dtype=dtype)
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
    inputs = tuple(draw(1, n, n, 128) for n in (8, 16)), draw(1, 2, 8), draw(1, 2, 8)
    params = jax.tree.map(random_parameter, jax.eval_shape(model.init, jax.random.key(0), *inputs))
    elsewhere, on_cpu = (
        prepare_generator(model, params["params"], platform) for platform in (None, "cpu")
    )
    for kept in (elsewhere["level_16"], on_cpu["level_8"]):
        assert kept["conv"]["kernel"].shape == (3, 3, 128, 128)
    assert ("winograd" in on_cpu["level_16"]["conv"]) == (dtype == jnp.float32)
    frames = [apply(model, {"params": p}, *inputs).frames for p in (elsewhere, on_cpu)]
    np.testing.assert_allclose(*frames, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rgb_from", ["warped", "blended"])
def test_what_the_mask_leaves_is_painted_only_when_blended(network, textures, codes, rgb_from):
    """With every mask at 0 no texture is seen: the published form has biases alone to show."""
    model, params, _ = network
    params = jax.tree.map(lambda x: x, params)
    for name, level in params["params"].items():
        if name.startswith("level"):
            level["to_flow"]["bias"] = jnp.array([0.0, 0.0, -1e4])
    output = apply(model.clone(rgb_from=rgb_from), params, textures, *codes)
    assert all(not mask.any() for mask in output.masks)
    spread = np.ptp(output.frames[:, :, 8:-8, 8:-8], axis=(0, 1, 2, 3)).max()
    assert spread > 0.1 if rgb_from == "blended" else spread < 1e-5


def test_detail_is_what_the_coarser_frames_lack():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    picture, frames, nothing = draw(1, 16, 16, 3), draw(1, 8, 8, 3), jnp.zeros((1, 16, 16, 3))
    # A picture at half the size and its detail are the picture, up to its rim.
    edges = jnp.pad(picture, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    half = blur(edges, pad=(0, 0), stride=2)
    np.testing.assert_allclose(add_detail(half, picture), picture, atol=1e-5)
    # What is too coarse is not detail, and frames of one colour have no rim.
    np.testing.assert_allclose(
        add_detail(frames, picture + 3), add_detail(frames, picture), atol=1e-5
    )
    np.testing.assert_allclose(add_detail(jnp.ones((1, 8, 8, 3)), nothing), 1, atol=1e-6)


def test_adain_layer_is_equation_1_then_convolution():
    """In float64: normalise, alpha, spread, beta, convolve, divide by the styled kernel's norm."""
    layer = StyledConv(features=5, modulation="adain")
    rng = np.random.default_rng(0)
    x, code = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 4, 4, 3), (2, 6)))
    params = layer.init(jax.random.key(0), jnp.asarray(x), jnp.asarray(code))
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    result = layer.apply(params, jnp.asarray(x), jnp.asarray(code))

    params = jax.tree.map(np.asarray, params["params"])
    style = params["style"]
    alpha, beta = (
        code @ affine["kernel"] / np.sqrt(6) + affine["bias"]
        for affine in (style["alpha"], style["beta"])
    )
    normalised = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    styled = style["spread"] * alpha[:, None, None] * normalised + beta[:, None, None]
    padded = np.pad(styled, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    kernel = params["kernel"] / np.sqrt(27)
    convolved = np.einsum("nhwikl,klio->nhwo", windows, kernel)
    norm = np.sqrt(np.einsum("klio,ni->no", kernel**2, alpha**2) + 1e-8)
    expected = convolved / norm[:, None, None] + params["bias"]
    expected = np.where(expected > 0, expected, 0.2 * expected) * np.sqrt(2)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_bfloat16_keeps_flow_and_frames_in_float32(network, textures, codes):
    model, params, output = network
    half = apply(model.clone(dtype=jnp.bfloat16), params, textures, *codes)
    for ours, theirs in zip(jax.tree.leaves(half), jax.tree.leaves(output), strict=True):
        assert ours.dtype == jnp.float32
        assert np.abs(ours - theirs).mean() < 0.03 * theirs.std()


def test_colours_are_not_rounded():
    """Of bfloat16 features, too: 8 bits of them would be seen."""
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 64), jnp.bfloat16)
    params = jax.eval_shape(ToRGB().init, jax.random.key(0), x)["params"]
    params = jax.tree.map(random_parameter, params)
    kernel, bias = (np.float64(params["conv"][name]) for name in ("kernel", "bias"))
    colours = np.float64(x) @ kernel[0, 0] / 8 + bias
    colours = np.sqrt(2) * np.where(colours > 0, colours, 0.2 * colours)
    found = ToRGB().apply({"params": params}, x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, colours + np.float64(params["bias"]), atol=1e-5)


# The published networks. LIA, EDTalk and its lip-pose variant share keys and so the seeded weights
# of encoder and decoder: one encoding of the source and one batch of latents serves all goldens.


def linear_stack(x, state, name, layers):
    """LIA's equalised linear layers, with no activation between."""
    for n in range(layers):
        weight = state[f"{name}.{n}.weight"]
        x = x @ weight.T / np.sqrt(weight.shape[1]) + state[f"{name}.{n}.bias"]
    return x


def motion_bank(*weights):
    return np.linalg.qr(np.concatenate(weights, 1) + 1e-8)[0]


@pytest.fixture(scope="module")
def published():
    """Output of the decoder for the four goldens' latents, frame by frame."""
    params = jax.tree.map(jnp.asarray, lia.convert(state_dict("lia_gen")))
    encode = jax.jit(functools.partial(ImageEncoder().apply, {"params": params["image_encoder"]}))

    def image(name):
        return jnp.asarray(uniform(name, (1, 3, 256, 256), -1, 1).transpose(0, 2, 3, 1))

    style, textures = encode(image("src"))
    codes = {name: np.asarray(encode(image(name))[0]) for name in ("drv", "drv0", "lip")}
    codes["src"] = np.asarray(style)

    state = state_dict("lia_gen")
    alpha = {name: linear_stack(code, state, "enc.fc", 5) for name, code in codes.items()}
    bank = motion_bank(state["dec.direction.weight"])
    relative = alpha["drv"] - alpha["drv0"] + alpha["src"]

    lip_pose = state_dict("edtalk_lip_pose_gen")
    hidden = linear_stack(codes["lip"], lip_pose, "fc", 4)
    motion = [linear_stack(hidden, lip_pose, name, 3) for name in ("lip_fc", "pose_fc")]
    lip_pose_bank = motion_bank(lip_pose["direction_lipnonlip.weight"])

    still = np.zeros((1, 512), np.float32)
    shifts = [alpha["drv"] @ bank.T, relative @ bank.T, still]
    shifts.append(np.concatenate(motion, 1) @ lip_pose_bank.T)
    latents = jnp.asarray(codes["src"][:, None] + np.stack(shifts, 1))
    decode = jax.jit(Generator(modulation="modconv").apply)
    return decode({"params": params["generator"]}, textures, latents, latents)


@pytest.mark.parametrize(
    ("frame", "file", "name"),
    [
        (0, "lia_gen", "absolute"),
        (1, "lia_gen", "relative"),
        (2, "edtalk_gen", "dec_noexp"),
        (3, "edtalk_lip_pose_gen", "recon"),
    ],
)
def test_golden_frames(published, frame, file, name):
    """Textures of noise make much of a flow's last digits, at one value in ten thousand."""
    expected = golden(file)[name].transpose(0, 2, 3, 1)
    difference = np.asarray(published.frames[:, frame]) - expected
    assert np.sqrt(np.square(difference).mean()) < 1e-4
    assert np.quantile(np.abs(difference), 0.9999) < 1e-3
    assert np.abs(difference).max() < 1e-2


def test_golden_raw_flows(published):
    expected = golden("edtalk_gen")
    for level in range(4):
        raw = expected[f"flow{level}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(published.raw[level][:, 2], raw, atol=1e-5)
    for level, raw in enumerate(published.raw):
        statistics = [raw[:, 2].mean(), raw[:, 2].std(), jnp.abs(raw[:, 2]).max()]
        np.testing.assert_allclose(statistics, expected[f"flow{level}_stats"], atol=1e-5)
