"""Forms by platform, and programs without a choice."""

import jax
import jax.numpy as jnp
import pytest

from reta_jax.ops.conv import conv
from reta_jax.ops.platforms import by_platform, forms_of
from reta_jax.ops.warp import grid_sample

CHOICE = "platform_index"  # JAX's name for what chooses


def convolve(x):
    return conv(x, jnp.ones((3, 3, 4, 4)), pad=(1, 1))


def warp(x):
    return grid_sample(x, jnp.zeros((1, 8, 8, 2)))


@pytest.mark.parametrize("function", [convolve, warp])
def test_asked_forms_are_no_choice_also_of_what_was_traced_before(function):
    x = jnp.ones((1, 8, 8, 4))
    trace = lambda: str(jax.make_jaxpr(function)(x))
    assert CHOICE in trace()
    with forms_of("simple"):
        assert CHOICE not in trace()
    assert CHOICE in trace()


def test_the_form_that_is_asked_for_is_taken():
    choose = lambda: by_platform(jnp.zeros(()), default=lambda x: x, simple=lambda x: x + 1)
    assert choose() == 0
    with forms_of("simple"):
        assert choose() == 1
