"""The exact GELU against SciPy's normal distribution."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from reta_jax.ops.gelu import gelu

X = np.linspace(-9, 9, 4001, dtype=np.float32)


def test_is_the_normal_distribution_s_and_its_gradient_too():
    value, gradient = jax.vmap(jax.value_and_grad(gelu))(X)
    wide = X.astype(np.float64)
    np.testing.assert_allclose(value, wide * norm.cdf(wide), atol=1e-6)
    np.testing.assert_allclose(gradient, norm.cdf(wide) + wide * norm.pdf(wide), atol=1e-6)


def test_in_bfloat16_it_rounds_once_and_keeps_its_input_alone():
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
