"""VGG-19 taps and the image pyramid against the published perceptual loss."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.experts.vgg19 import VGG19, image_pyramid, max_of_four, shrink
from reta_jax.pretrained import vgg19
from tests.golden.fill import golden, state_dict, uniform
from tests.weights import random_variables


def test_equals_the_published_perceptual_loss():
    variables = vgg19.convert(state_dict("vgg19_torchvision"))
    recon = jnp.moveaxis(uniform("recon", (1, 3, 256, 256), -1.2, 1.2), 1, -1)
    real = jnp.moveaxis(uniform("real", (1, 3, 256, 256), -1, 1), 1, -1)

    @jax.jit
    def per_scale_and_tap(variables, images):
        scales = [VGG19().apply(variables, image) for image in image_pyramid(images)]
        return [[10 * jnp.abs(tap[:1] - tap[1:]).mean() for tap in taps] for taps in scales]

    losses = np.array(per_scale_and_tap(variables, jnp.concatenate([recon, real])))
    expected = golden("vgg_loss")
    np.testing.assert_allclose(losses, expected["per"], rtol=1e-4)
    np.testing.assert_allclose(losses.sum(), expected["total"], rtol=1e-6)
    assert abs(losses.sum() - 21.9268) < 1e-4


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.125])
def test_pyramid_equals_the_published_one(scale):
    recon = jnp.moveaxis(uniform("recon", (1, 3, 256, 256), -1.2, 1.2), 1, -1)
    expected = np.moveaxis(golden("vgg_loss")[f"pyr_{scale}"], 1, -1)
    np.testing.assert_allclose(shrink(recon, round(1 / scale)), expected, atol=2e-6)


def test_sizes_that_do_not_divide_are_rounded_up():
    pyramid = image_pyramid(jnp.ones((1, 50, 33, 3)))
    assert [x.shape[1:3] for x in pyramid] == [(50, 33), (25, 17), (13, 9), (7, 5)]
    np.testing.assert_allclose(pyramid[1][0, 5:-5, 5:-5], 1, atol=1e-6)


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_the_largest_of_four_is_a_max_pool_with_its_gradient(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    pool = lambda x: nn.max_pool(x, (2, 2), (2, 2))
    np.testing.assert_array_equal(max_of_four(x), pool(x))
    ours, expected = (jax.grad(lambda x, f=f: jnp.sin(f(x)).sum())(x) for f in (max_of_four, pool))
    np.testing.assert_array_equal(ours, expected)


def test_where_several_are_largest_they_share_the_gradient():
    x = jnp.array([[2.0, 2, 1, 0], [2, 2, 1, 1], [0, 3, 0, 1], [3, 1, 1, 0]])[None, ..., None]
    expected = [[0.25, 0.25, 0.25, 0], [0.25, 0.25, 0.25, 0.5], [0, 0.5, 0, 0.5], [0.5, 0, 0.5, 0]]
    found = jax.grad(lambda x: max_of_four(x).sum())(x)[0, ..., 0]
    np.testing.assert_array_equal(found, expected)


def test_narrow_network_and_bfloat16():
    images = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3), minval=-1)
    network = VGG19(channel_multiplier=0.125)
    variables = random_variables(network, images)
    taps = jax.jit(network.apply)(variables, images)
    assert [tap.shape[1:] for tap in taps] == [
        (32, 32, 8), (16, 16, 16), (8, 8, 32), (4, 4, 64), (2, 2, 64)
    ]  # fmt: skip
    halves = jax.jit(network.clone(dtype=jnp.bfloat16).apply)(variables, images)
    for tap, half in zip(taps, halves, strict=True):
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype(np.float32), tap, atol=0.05)


def test_images_too_small_for_the_last_tap_are_refused():
    with pytest.raises(ValueError, match="halves its input four times"):
        VGG19().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
