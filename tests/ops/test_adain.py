import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.ops.adain import adain_affine, demodulation, kernel_energy, modulate
from reta_jax.ops.conv import conv


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def adain(x, alpha, beta):
    return modulate(x, *adain_affine(x, alpha, beta))


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_adain_is_equation_1(offset):
    x, alpha, beta = arrays((2, 5, 6, 4), (2, 4), (2, 4))
    x += offset  # E[x^2] - E[x]^2 would lose the variance in float32
    wide = np.asarray(x, np.float64)
    mean, variance = wide.mean((1, 2)), wide.var((1, 2))
    normalised = (wide - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    expected = np.asarray(alpha)[:, None, None] * normalised + np.asarray(beta)[:, None, None]
    np.testing.assert_allclose(adain(x, alpha, beta), expected, atol=1e-5 + offset * 1e-6)


def test_adain_of_a_constant_map_is_beta():
    _, alpha, beta = arrays((), (2, 4), (2, 4))
    result = adain(jnp.full((2, 3, 3, 4), 7.0), alpha, beta)
    expected = jnp.broadcast_to(beta[:, None, None], result.shape)
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_adain_statistics_are_float32_for_bfloat16_maps():
    x, alpha, beta = arrays((1, 64, 64, 2), (1, 2), (1, 2))
    x = jnp.asarray(x + 3, jnp.bfloat16)
    result = adain(x, alpha, beta)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        result.astype(jnp.float32), adain(x.astype(jnp.float32), alpha, beta), atol=0.03
    )


def test_modulating_maps_equals_modulating_the_kernel_of_each_sample():
    x, style, kernel = arrays((3, 6, 6, 4), (3, 4), (3, 3, 4, 5))
    ours = modulate(
        conv(modulate(x, style), kernel, pad=(1, 1)), demodulation(kernel_energy(kernel), style)
    )
    for sample in range(3):
        modulated = np.asarray(kernel) * np.asarray(style)[sample, :, None]
        modulated /= np.sqrt(np.square(modulated).sum((0, 1, 2)) + 1e-8)
        expected = conv(x[sample : sample + 1], jnp.asarray(modulated), pad=(1, 1))[0]
        np.testing.assert_allclose(ours[sample], expected, atol=1e-5)
