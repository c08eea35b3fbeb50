"""Forms by platform, and programs without a choice."""

import jax
import jax.numpy as jnp
import pytest
from jax import export

from reta_jax.ops.conv import conv
from reta_jax.ops.platforms import by_platform, forms_of
from reta_jax.ops.warp import grid_sample

CHOICE = "platform_index"  # JAX's name for what chooses


def convolve(x):
    return conv(x, jnp.ones((3, 3, 4, 4)), pad=(1, 1))


def warp(x):
    return grid_sample(x, jnp.zeros((1, 8, 8, 2)))


def choose(x):
    return by_platform(
        x,
        default=lambda x: x,
        simple=lambda x: x + 1,
        cpu=lambda x: x + 2,
        tpu=lambda x: x + 3,
        cudnn=lambda x: x + 4,
    )


@pytest.mark.parametrize("function", [convolve, warp])
def test_only_a_program_for_several_platforms_chooses(function):
    x = jnp.ones((1, 8, 8, 4))
    trace = lambda: str(jax.make_jaxpr(function)(x))
    assert CHOICE not in trace()
    with forms_of("cpu", "cuda", "tpu"):
        assert CHOICE in trace()
    with forms_of("simple"):
        assert CHOICE not in trace()
    assert CHOICE not in trace()


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, jax.vmap])
def test_the_form_that_is_asked_for_is_taken_also_of_what_was_traced_before(wrap):
    function, zero = wrap(choose), jnp.zeros(1)
    assert function(zero) == 2  # tests run on CPU
    for name, form in (("simple", 1), ("tpu", 3), ("cuda", 0), ("cudnn", 4), ("cpu", 2)):
        with forms_of(name):
            assert function(zero) == form, name
    assert function(zero) == 2


def test_a_program_for_several_platforms_takes_its_form_when_it_is_compiled():
    with forms_of("cpu", "tpu"):
        exported = export.export(jax.jit(choose), platforms=["cpu", "tpu"])(jnp.zeros(1))
    assert exported.call(jnp.zeros(1)) == 2


def test_a_gpu_takes_its_library_s_forms_else_cuda_s_and_a_file_takes_none_of_a_library(
    monkeypatch,
):
    only_cuda = lambda x: by_platform(x, default=lambda x: x, cuda=lambda x: x + 5)
    monkeypatch.setattr(export, "default_export_platform", lambda: "cuda")
    assert choose(jnp.zeros(1)) == 4 and only_cuda(jnp.zeros(1)) == 5
    with forms_of("cuda"):
        assert choose(jnp.zeros(1)) == 0
    with forms_of("cpu", "cuda"):
        assert "+ 4" not in str(jax.make_jaxpr(choose)(jnp.zeros(1)))


def test_forms_of_what_is_no_platform_are_refused():
    with pytest.raises(ValueError, match="forms of gpu: they"), forms_of("cpu", "gpu"):
        pass
