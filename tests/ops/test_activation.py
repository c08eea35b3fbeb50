"""Activations and their gradients; the modulated one's are in tests/ops/test_maps.py."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from reta_jax.ops.activation import gelu, relu

X = np.linspace(-9, 9, 4001, dtype=np.float32)


def test_gelu_is_the_normal_distribution_s_and_its_gradient_too():
    value, gradient = jax.vmap(jax.value_and_grad(gelu))(X)
    wide = X.astype(np.float64)
    np.testing.assert_allclose(value, wide * norm.cdf(wide), atol=1e-6)
    np.testing.assert_allclose(gradient, norm.cdf(wide) + wide * norm.pdf(wide), atol=1e-6)


def test_gelu_in_bfloat16_rounds_once_and_keeps_its_input_alone():
    half = jnp.asarray(X, jnp.bfloat16)
    value, backward = jax.vjp(gelu, half)
    exact = np.asarray(half, np.float64)
    expected = jnp.asarray(exact * norm.cdf(exact), jnp.bfloat16)
    np.testing.assert_allclose(  # half a step of bfloat16, beside what float32 leaves of a tail
        value.astype(jnp.float32), expected.astype(jnp.float32), rtol=2**-8, atol=1e-6
    )
    kept = jax.tree.leaves(backward)
    assert [(leaf.shape, leaf.dtype) for leaf in kept] == [(half.shape, half.dtype)]
    assert backward(value)[0].dtype == jnp.bfloat16


def test_relu_and_its_gradient():
    x = jnp.array([-2.0, -0.0, 0.0, 0.5, 3.0])
    for form in (relu, nn.relu):
        np.testing.assert_array_equal(form(x), [0, 0, 0, 0.5, 3])
        np.testing.assert_array_equal(jax.vjp(form, x)[1](x + 5)[0], [0, 0, 0, 5.5, 8])
