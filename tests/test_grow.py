"""A grown model does what the small one did, on a portrait of twice the size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate1d

from reta_jax.grow import grow
from reta_jax.models.generator import Generator, add_detail
from reta_jax.models.image_encoder import ImageEncoder
from reta_jax.ops.blur import upsample
from reta_jax.ops.warp import grid_sample, inherited_grid
from reta_jax.state import take_fitting

pytestmark = pytest.mark.usefixtures("quickly_compiled")

MULTIPLIER = 1 / 32
BOX = np.array([-1, 1, 8, 8, 1, -1]) / 16  # nearly the mean of two pixels


def networks(size):
    options = {"size": size, "style_dim": 8, "channel_multiplier": MULTIPLIER}
    return ImageEncoder(**options), Generator(**options, split_res=16, rgb_from="blended")


@functools.partial(jax.jit, static_argnums=0)  # one program in place of hundreds
def start(size, key):
    encoder, generator = networks(size)
    picture = jnp.zeros((1, size, size, 3))
    keys = jax.random.split(key)
    image = encoder.init(keys[0], picture)["params"]
    style, textures = encoder.apply({"params": image}, picture)
    code = jnp.zeros((1, 1, 8))
    return {
        "image_encoder": image,
        "generator": generator.init(keys[1], textures, code, code)["params"],
    }


def filled(params):
    """No zeros: biases count, and the flow moves."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), params)


@jax.jit
def run(params, portrait, codes):
    encoder, generator = networks(portrait.shape[1])
    style, textures = encoder.apply({"params": params["image_encoder"]}, portrait)
    return style, textures, generator.apply({"params": params["generator"]}, textures, *codes)


def halve(picture):
    for axis in (1, 2):
        picture = correlate1d(picture, BOX, axis=axis, mode="constant", origin=-1)
        picture = np.take(picture, np.arange(0, picture.shape[axis], 2), axis=axis)
    return picture


def test_twice_grown_weights_see_half_the_picture_and_double_the_frames():
    rng = np.random.default_rng(0)
    small = filled(start(8, jax.random.key(0)))
    grown, portrait = small, rng.uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    for size in (8, 16):
        grown = take_fitting(start(2 * size, jax.random.key(size)), grow(grown, size, MULTIPLIER))
    codes = rng.standard_normal((2, 1, 3, 8)).astype(np.float32)
    style, textures, output = run(grown, portrait, codes)
    expected_style, expected_textures, expected = run(small, halve(halve(portrait)), codes)

    np.testing.assert_allclose(style, expected_style, atol=1e-4)
    for texture, small_texture in zip(textures, expected_textures, strict=False):
        np.testing.assert_allclose(texture, small_texture, atol=1e-4)
    for raw, small_raw in zip(output.raw, expected.raw, strict=False):
        np.testing.assert_allclose(raw, small_raw, atol=1e-4)
    doubled = upsample(upsample(expected.frames[0]))
    np.testing.assert_allclose(output.frames[0], doubled, atol=1e-4)
    assert np.ptp(doubled) > 0.5
    flow = upsample(upsample(expected.raw[-1][0]))
    np.testing.assert_allclose(output.raw[-1][0], flow, atol=1e-4)


def test_every_new_leaf_fits():
    """take_fitting leaves out what does not: nothing of a growth may be lost in silence."""
    grown, wanted = grow(start(16, jax.random.key(0)), 16, MULTIPLIER), start(32, jax.random.key(1))
    for path, leaf in jax.tree_util.tree_leaves_with_path(grown):
        target = wanted
        for key in path:
            target = target[key.key]
        assert target.shape == leaf.shape, path


def test_a_level_of_detail_begins_with_the_portraits():
    """Where the mask is 1: the small frames, and what they are too small for of the portrait."""
    small = start(8, jax.random.key(0))
    small["generator"]["level_8"]["to_flow"]["bias"] = jnp.array([0.0, 0.0, 50.0])
    grown = take_fitting(start(16, jax.random.key(1)), grow(small, 8, MULTIPLIER, only_detail=True))
    rng = np.random.default_rng(0)
    portrait = rng.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    codes = rng.standard_normal((2, 1, 2, 8)).astype(np.float32)
    textures = run(grown, portrait, codes)[1]
    generator = networks(16)[1].clone(grid_size=8, detail_from=16)
    output = jax.jit(generator.apply)({"params": grown["generator"]}, textures, *codes)
    before = run(small, halve(portrait), codes)[2].frames
    shown = grid_sample(jnp.asarray(portrait) + 1, inherited_grid(16, 8)[None])
    for frame in range(2):
        expected = add_detail(before[:, frame], shown)
        np.testing.assert_allclose(output.frames[:, frame], expected, atol=1e-4)


def test_all_new_layers_learn():
    """What starts without effect is reached by the gradient within two steps."""
    params = take_fitting(
        start(16, jax.random.key(2)), grow(start(8, jax.random.key(0)), 8, MULTIPLIER)
    )
    rng = np.random.default_rng(0)
    portrait = rng.uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    codes = rng.standard_normal((2, 1, 2, 8)).astype(np.float32)
    loss = lambda params: jnp.abs(run(params, portrait, codes)[2].frames - portrait[:, None]).mean()
    find = jax.jit(jax.grad(loss))
    for _ in range(2):
        params = jax.tree.map(lambda x, gradient: x - 0.1 * gradient, params, find(params))
    gradient = find(params)
    entrance = gradient["image_encoder"]["trunk"]
    new = entrance["from_rgb"], entrance["down_8"], gradient["generator"]["level_16"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(new):
        if path[-1].key != "spread":  # of imported weights only
            assert np.abs(leaf).max() > 0, path
