"""The temporal network of D and S: what it sees, and how it starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.models.tcn import TCN, ResidualBlock
from tests.weights import random_variables

FRAMES, WIDTH = 62, 6


@pytest.fixture
def features():
    return jax.random.normal(jax.random.key(0), (2, FRAMES, WIDTH))


def test_one_vector_a_frame_in_float32(features):
    network = TCN(outputs=5, features=8, dtype=jnp.bfloat16)
    variables = random_variables(network, features)
    out = jax.eval_shape(network.apply, variables, features)
    assert (out.shape, out.dtype) == ((2, FRAMES, 5), jnp.float32)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_zero_head_starts_at_exactly_zero(features):
    plain, zero = (TCN(outputs=5, features=8, dilations=(1, 2), head_scale=s) for s in (1.0, 0.0))
    out, _ = jax.jit(zero.init_with_output)(jax.random.key(0), features)
    np.testing.assert_array_equal(out, np.zeros((2, FRAMES, 5)))
    out, _ = jax.jit(plain.init_with_output)(jax.random.key(0), features)
    assert jnp.abs(out).mean() > 0.1


@pytest.mark.parametrize(("dilations", "radius"), [((1, 2, 4, 8), 15), ((1, 2, 4), 7), ((3,), 3)])
def test_a_frame_sees_the_sum_of_the_dilations_on_either_side(features, dilations, radius):
    network = TCN(outputs=5, features=8, dilations=dilations)
    variables = random_variables(network, features)
    run = jax.jit(network.apply)
    at = FRAMES // 2
    changed = run(variables, features.at[1, at].add(1.0)) != run(variables, features)
    assert not changed[0].any()
    seen = np.flatnonzero(np.asarray(changed[1]).any(-1))
    assert (seen[0], seen[-1]) == (at - radius, at + radius)


def test_residual_block_is_norm_convolution_and_a_layer():
    block = ResidualBlock(features=4, kernel=3, dilation=2)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 9, 4)).astype(np.float32)
    variables = random_variables(block, jnp.asarray(x))
    ours = block.apply(variables, jnp.asarray(x))

    params = jax.tree.map(np.asarray, variables["params"])
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y = np.pad(y, ((0, 0), (2, 2), (0, 0)))
    y = sum(y[:, 2 * i : 2 * i + 9] @ params["Conv_0"]["kernel"][i] for i in range(3))
    gelu = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    np.testing.assert_allclose(ours, x + gelu @ params["Dense_0"]["kernel"], atol=1e-5)


def test_a_linear_path_is_nothing_at_first_and_then_a_convolution(features):
    plain, network = TCN(5, 8), TCN(5, 8, linear=3)
    variables = network.init(jax.random.key(0), features)
    straight = variables["params"]["linear"]["kernel"]
    assert straight.shape == (3, WIDTH, 5) and not straight.any()
    before = plain.apply(variables, features)
    np.testing.assert_array_equal(network.apply(variables, features), before)
    kernel = np.random.default_rng(0).normal(size=straight.shape).astype(np.float32)
    variables["params"]["linear"] = {"kernel": jnp.asarray(kernel)}
    x = np.pad(features, ((0, 0), (1, 1), (0, 0)))
    expected = before + sum(x[:, i : i + FRAMES] @ kernel[i] for i in range(3))
    np.testing.assert_allclose(network.apply(variables, features), expected, atol=1e-5)


@pytest.mark.parametrize("disturbed", [{"dropout": 0.5}, {"noise": 0.5}])
def test_disturbed_with_a_key_only_and_otherwise_as_without(features, disturbed):
    network, plain = TCN(5, 8, **disturbed), TCN(5, 8)
    variables = random_variables(plain, features)
    run = jax.jit(lambda seed: network.apply(variables, features, rngs={"dropout": seed}))
    expected = plain.apply(variables, features)
    np.testing.assert_array_equal(network.apply(variables, features), expected)
    first, again, other = (run(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - expected).max() > 1e-2
    assert jnp.abs(first - other).max() > 1e-2


def test_noise_is_of_the_features_own_spread():
    """A dimension ten thousand times as large is disturbed as much in proportion."""
    x = jax.random.normal(jax.random.key(0), (4, 500, 2)) * jnp.array([[[1.0, 1e4]]])
    network = TCN(2, 2, dilations=(), noise=0.5)
    variables = jax.tree.map(jnp.zeros_like, random_variables(network, x))
    stem = variables["params"]["stem"]
    variables["params"]["stem"] = stem | {"kernel": jnp.eye(2)}
    _, state = network.apply(
        variables, x, rngs={"dropout": jax.random.key(1)}, capture_intermediates=True
    )
    (seen,) = state["intermediates"]["stem"]["__call__"]
    np.testing.assert_allclose(jnp.std(seen - x, (0, 1)), [0.5, 0.5e4], rtol=0.05)
