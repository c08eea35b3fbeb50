import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.ops.conv import conv
from reta_jax.ops.winograd import winograd_conv, winograd_kernel


@pytest.mark.parametrize("shape", [(1, 4, 4, 5), (2, 8, 6, 3), (3, 2, 2, 4)])
def test_equals_the_convolution(shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, shape[-1], 7)), jnp.float32)
    ours = jax.jit(winograd_conv)(x, winograd_kernel(kernel))
    np.testing.assert_allclose(ours, conv(x, kernel, pad=(1, 1)), rtol=1e-5, atol=1e-5)


def test_saves_more_than_half_of_the_products():
    x, kernel = jnp.ones((1, 16, 16, 128)), jnp.ones((3, 3, 128, 128))

    def operations(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    ours = operations(winograd_conv, x, winograd_kernel(kernel))
    assert ours < 0.5 * operations(lambda *a: conv(*a, pad=(1, 1)), x, kernel)
