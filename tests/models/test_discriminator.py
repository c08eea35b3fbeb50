from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.models.discriminator import Discriminator, append_minibatch_std
from reta_jax.models.stylegan import DownBlock
from reta_jax.ops.activation import leaky_relu
from reta_jax.ops.blur import blur
from reta_jax.ops.conv import conv
from reta_jax.ops.platforms import forms_of
from reta_jax.pretrained import edtalk
from tests.golden.fill import golden, state_dict, uniform

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SMALL = Discriminator(size=32, channel_multiplier=1 / 16)


def test_parameter_count_is_the_reference():
    variables = jax.eval_shape(Discriminator().init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 24_001_089


def test_golden_logits():
    params = {"params": edtalk.convert_discriminator(state_dict("edtalk_dis"))}
    images = jnp.asarray(uniform("dis", (4, 3, 256, 256), -1, 1).transpose(0, 2, 3, 1))
    expected = golden("edtalk_dis")
    logits = jax.jit(Discriminator().apply)
    np.testing.assert_allclose(logits(params, images), expected["batch4"][:, 0], atol=1e-5)
    np.testing.assert_allclose(logits(params, images[:1]), expected["batch1"][:, 0], atol=1e-5)


@pytest.mark.parametrize(("batch", "group"), [(8, 4), (4, 4), (3, 3), (1, 1), (10, 2)])
def test_minibatch_std_groups(batch, group):
    """Samples j, j + b/g, j + 2b/g ... form a group; its mean deviation is their channel."""
    x = np.random.default_rng(0).normal(size=(batch, 2, 2, 3)).astype(np.float32)
    result = np.asarray(append_minibatch_std(jnp.asarray(x), 4))
    np.testing.assert_array_equal(result[..., :3], x)
    for j in range(batch):
        members = x[j % (batch // group) :: batch // group]
        expected = np.sqrt(members.var(0) + 1e-8).mean()
        np.testing.assert_allclose(result[j, ..., 3], expected, rtol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_gains_in_kernels_are_the_published_block(platform):
    """Value, gradient and the penalty's second derivative, against gains on maps."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = DownBlock(4).init(jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)  # biases, too

    def ours(params, x):
        return DownBlock(4).apply({"params": params}, x)

    def published(params, x):
        def layer(x, name, **how):
            kernel = params[name]["kernel"]
            return conv(x, kernel * kernel[..., 0].size ** -0.5, **how)

        active = lambda x, name: leaky_relu(x + params[name]["bias"][None, None, None])
        y = blur(active(layer(x, "conv1", pad=(1, 1)), "conv1"), (2, 2))
        y = active(layer(y, "conv2", stride=2), "conv2")
        return (y + layer(blur(x, (1, 1), stride=2), "skip")) / 2**0.5

    def judged(block, params, x):
        loss = lambda x: jnp.sin(block(params, x)).sum()
        penalty = lambda params: jnp.square(jax.grad(lambda x: block(params, x).sum())(x)).sum()
        return block(params, x), jax.grad(loss)(x), jax.grad(penalty)(params)

    with forms_of(platform):
        found, expected = (jax.jit(partial(judged, form))(params, x) for form in (ours, published))
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_small_discriminator_and_its_gradients():
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    params = jax.jit(SMALL.init)(jax.random.key(1), images)
    gradients = jax.jit(jax.grad(lambda p, x: jnp.square(SMALL.apply(p, x)).sum(), (0, 1)))
    for path, leaf in jax.tree.leaves_with_path(gradients(params, images)):
        assert jnp.abs(leaf).max() > 0, path
    half = jax.jit(SMALL.clone(dtype=jnp.bfloat16).apply)(params, images)
    assert half.dtype == jnp.float32
