"""Attention against NumPy, and the way to cuDNN's, whose kernels themselves need a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.ops import attention
from reta_jax.ops.attention import MANY_SCORES, attend
from reta_jax.ops.platforms import forms_of

LONG = 2**11 + 1  # one head's scores are many


def parts(batch, length, heads, width, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (batch, length, heads, width), dtype) for key in keys]


def test_equals_numpy():
    query, key, value = parts(2, 5, 3, 4, jnp.float32)
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / 2
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", shares, value)
    np.testing.assert_allclose(attend(query, key, value), expected, atol=1e-6)


@pytest.mark.parametrize("length", [8, 9])
def test_a_library_that_takes_even_lengths_alone_gives_the_same(monkeypatch, length):
    """XLA's attention in the library's place, which sees what the library would be given."""
    plain = jax.nn.dot_product_attention

    def in_its_place(query, *others, implementation, **lengths):
        assert implementation == "cudnn" and query.shape[1] % 2 == 0
        return plain(query, *others, **lengths)

    monkeypatch.setattr(jax.nn, "dot_product_attention", in_its_place)
    given = parts(2, length, 3, 4, jnp.float32)
    square = lambda form: lambda *parts: jnp.square(form(*parts)).sum()
    found = jax.value_and_grad(square(attention._in_tiles), (0, 1, 2))(*given)
    expected = jax.value_and_grad(square(plain), (0, 1, 2))(*given)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, expected)


@pytest.mark.parametrize(
    ("length", "dtype", "platform", "asked"),
    [
        (LONG, jnp.bfloat16, "cudnn", True),
        (LONG, jnp.bfloat16, "cuda", False),
        (LONG, jnp.float32, "cudnn", False),
        (LONG // 2, jnp.bfloat16, "cudnn", False),
    ],
)
def test_the_library_is_asked_for_many_scores_in_bfloat16_on_a_gpu(
    monkeypatch, length, dtype, platform, asked
):
    shapes = []
    monkeypatch.setattr(attention, "_is_there", lambda shape: shapes.append(shape))
    given = [jax.ShapeDtypeStruct((1, length, 1, 8), dtype)] * 3
    with forms_of(platform):
        jax.eval_shape(lambda *parts: attend(*parts), *given)
    assert shapes == [(1, length, 1, 8)] * asked
    assert (4 * length**2 >= MANY_SCORES) == (length == LONG)


def test_without_the_library_scores_are_written_and_it_is_said_once(monkeypatch):
    def refuses(*_, implementation=None, **__):
        if implementation == "cudnn":
            raise RuntimeError("cuDNN is not detected.")
        return given[2]

    given, said = parts(1, LONG, 1, 8, jnp.bfloat16), []
    attention._is_there.cache_clear()
    monkeypatch.setattr(attention.logging, "warning", lambda *words: said.append(words))
    monkeypatch.setattr(jax.nn, "dot_product_attention", refuses)
    with forms_of("cudnn"):
        for _ in range(2):
            assert attend(*given) is given[2]
    attention._is_there.cache_clear()
    ((text, *values),) = said
    assert text % tuple(values) == (
        "Attention writes its scores, 17 MB a layer: cuDNN is not detected."
    )
