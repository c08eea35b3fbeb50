import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.ops.activation import leaky_relu, modulated_leaky_relu
from reta_jax.ops.adain import adain_affine, modulate
from reta_jax.ops.maps import blend, shared, written

MAP, CHANNELS = (3, 8, 6, 5), (3, 5)


def plain_modulated_leaky_relu(x, scale, bias):
    return leaky_relu(x * scale[:, None, None] + bias[None, None, None])


def plain_adain(x, alpha, beta):
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    normalised = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
    return alpha[:, None, None] * normalised + beta[:, None, None]


def adain(x, alpha, beta):
    of_statistics, x = shared(written(x))
    return modulate(x, *adain_affine(of_statistics, alpha, beta))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("ours", "plain", "shapes"),
    [
        (modulated_leaky_relu, plain_modulated_leaky_relu, (MAP, CHANNELS, CHANNELS[1:])),
        (modulate, lambda x, scale: x * scale[:, None, None], (MAP, CHANNELS)),
        (adain, plain_adain, (MAP, CHANNELS, CHANNELS)),
        (
            lambda x, mask, y: blend(mask, x, y),
            lambda x, mask, y: mask * x + (1 - mask) * y,
            (MAP, (*MAP[:3], 1), MAP),
        ),
    ],
    ids=["modulated_leaky_relu", "modulate", "adain", "blend"],
)
def test_gradients_are_those_of_the_plain_form(ours, plain, shapes, dtype):
    """Of the rounded map in float32: what bfloat16 adds is the rounding of results."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(1.5 + rng.normal(size=shape), jnp.float32) for shape in shapes]
    maps = [array.astype(dtype) if array.shape == MAP else array for array in arrays]
    wide = [array.astype(jnp.float32) for array in maps]
    expected, expected_of = jax.vjp(plain, *wide)
    found, found_of = jax.jit(lambda *inputs: jax.vjp(ours, *inputs))(*maps)
    cotangent = jnp.asarray(rng.normal(size=MAP), dtype)
    pairs = [(found, expected)]
    pairs += zip(found_of(cotangent), expected_of(cotangent.astype(jnp.float32)), strict=True)
    for mine, theirs in pairs:
        tolerance = 1e-5 if dtype == jnp.float32 else 2.0**-7
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(
            mine.astype(jnp.float32), theirs, atol=tolerance * float(jnp.abs(theirs).max())
        )


def test_gradients_of_two_readers_are_added_in_float32():
    def weighed(x):
        one, other = shared(x)
        return one + jnp.asarray(2.0**-7, x.dtype) * other

    x = jnp.ones((), jnp.bfloat16)
    assert jax.grad(weighed)(x) == 1 + 2.0**-7
    additions = [
        line for line in str(jax.make_jaxpr(jax.grad(weighed))(x)).splitlines() if "add" in line
    ]
    assert "f32[] = add" in additions[-1]
