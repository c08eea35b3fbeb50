import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate

from reta_jax.ops import conv as forms
from reta_jax.ops.conv import (
    DIMENSIONS,
    ROWS_FROM,
    TAPS_FROM,
    conv,
    kernel_phases,
    mix_channels,
    transposed_kernel,
    up_conv,
    up_conv_phases,
    up_conv_transposed,
)
from reta_jax.ops.platforms import forms_of

TAPS = jnp.array([1.0, 3.0, 3.0, 1.0])


@pytest.fixture
def image():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 5, 3)), jnp.float32)


@pytest.fixture
def kernel():
    return jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 3, 2)), jnp.float32)


def test_conv_is_a_cross_correlation(image, kernel):
    expected = np.zeros((2, 4, 5, 2))
    for i, o in np.ndindex(3, 2):
        expected[..., o] += correlate(image[..., i], kernel[None, :, :, i, o], mode="constant")
    np.testing.assert_allclose(conv(image, kernel, pad=(1, 1)), expected, atol=1e-5)
    strided = conv(image, kernel, stride=2)
    np.testing.assert_allclose(strided, expected[:, 1:-1, 1:-1][:, ::2, ::2], atol=1e-5)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("side", [17, 18])
def test_wide_kernels_with_a_stride_are_rows_on_cpu(side, stride, monkeypatch):
    monkeypatch.setattr(forms, "ROWS_FROM_OUTPUTS", 4)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, side, side + 3, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(ROWS_FROM, ROWS_FROM + 2, 3, 4)), jnp.float32)
    assert forms._cpu_form(kernel, stride) is forms._by_rows
    assert forms._cpu_form(kernel[..., :3], stride) is forms._whole_in_float32

    def whole(x, kernel):
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=DIMENSIONS
        )

    ours = jax.jit(lambda x, kernel: conv(x, kernel, stride, (1, 1)))
    np.testing.assert_allclose(ours(x, kernel), whole(x, kernel), atol=1e-5)
    gradients = lambda form: jax.jit(jax.grad(lambda *a: jnp.sin(form(*a)).sum(), (0, 1)))
    for mine, theirs in zip(gradients(ours)(x, kernel), gradients(whole)(x, kernel), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    assert "convolution(" not in ours.lower(x, kernel).compile().as_text()


@pytest.mark.parametrize("inputs", [TAPS_FROM - 1, TAPS_FROM])
@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_on_cpu_is_summed_in_float32(inputs, stride):
    """Of few channels and of many, for which a CPU has a form each: rounded once, at the end."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 7, 6, inputs)), rng.normal(size=(3, 3, inputs, 4)) / 30
    x, kernel = (jnp.asarray(array, jnp.bfloat16) for array in (x, kernel))

    def exact(x, kernel):
        x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(
            x, kernel, strides, "VALID", dimension_numbers=DIMENSIONS
        )

    ours = functools.partial(conv, stride=stride)
    np.testing.assert_allclose(*map(np.float32, (ours(x, kernel), exact(x, kernel))), rtol=2**-8)
    gradients = lambda form: jax.jit(jax.grad(lambda *a: jnp.sin(form(*a)).sum(), (0, 1)))
    for mine, theirs in zip(gradients(ours)(x, kernel), gradients(exact)(x, kernel), strict=True):
        assert mine.dtype == jnp.bfloat16
        difference = np.abs(np.float32(mine) - np.float32(theirs)).max()
        assert difference < 0.02 * np.abs(np.float32(theirs)).max()
    program = jax.jit(ours).lower(x, kernel).compile().as_text()
    assert ("convolution(" in program) == (inputs < TAPS_FROM or stride > 1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_colours_are_weighed_pixel_by_pixel_on_a_gpu(image, kernel, dtype):
    """Rounded once, at the end; its gradients are a convolution's."""
    image, kernel = image.astype(dtype), kernel[:1, :1].astype(dtype)
    ours = lambda x, kernel: conv(x, kernel)
    exact = lambda x, kernel: forms._whole_in_float32(x, kernel, 1)
    gradients = lambda form: jax.grad(lambda *a: jnp.sin(form(*a)).sum(), (0, 1))(image, kernel)
    with forms_of("cuda"):
        program = str(jax.make_jaxpr(ours)(image, kernel))
        found = ours(image, kernel), *gradients(ours)
    assert "conv_general_dilated" not in program
    tolerance = 1e-5 if dtype == jnp.float32 else 0.02
    for mine, theirs in zip(found, (exact(image, kernel), *gradients(exact)), strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(*map(np.float32, (mine, theirs)), rtol=tolerance, atol=tolerance)


def in_phases(x, kernel):
    return up_conv_phases(x, kernel_phases(kernel))


def transposed(x, kernel):
    return up_conv_transposed(x, transposed_kernel(kernel))


@pytest.mark.parametrize("form", [up_conv, in_phases, transposed])
def test_up_conv_is_a_transposed_convolution_and_a_blur(image, kernel, form):
    b, h, w, _ = image.shape
    turned = kernel[::-1, ::-1]
    spread = np.zeros((b, 2 * h + 1, 2 * w + 1, 2))
    for row in range(h):
        for column in range(w):
            stamp = np.einsum("bi,klio->bklo", image[:, row, column], turned)
            spread[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += stamp
    taps = np.outer(TAPS, TAPS) / 16
    spread = np.pad(spread, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = correlate(spread, taps[None, :, :, None], mode="constant")[:, 2:-1, 2:-1]
    np.testing.assert_allclose(jax.jit(form)(image, kernel), expected, atol=1e-5)


def test_up_conv_gradients(image, kernel):
    """Against JAX's own derivative of the dilated convolution, and of the depthwise blur."""

    def reference(x, kernel):
        taps = jnp.tile(jnp.outer(TAPS, TAPS)[:, :, None, None] / 16, (1, 1, 1, 2))
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((2, 2), (2, 2)), (2, 2), dimension_numbers=DIMENSIONS
        )
        return jax.lax.conv_general_dilated(
            x,
            taps,
            (1, 1),
            ((1, 1), (1, 1)),
            dimension_numbers=DIMENSIONS,
            feature_group_count=2,
        )

    def gradients(form):
        loss = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.sin(form(x, k))), (0, 1)))
        return loss(image, kernel)

    expected = gradients(reference)
    for platform in ("cpu", "cuda"):
        with forms_of(platform):
            found = gradients(up_conv)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=5e-5)


@pytest.mark.parametrize("kernels_are_many", [False, True])
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_channels_are_mixed_in_float32_whatever_the_map(kernels_are_many, platform):
    """A kernel's two halves in bfloat16 have 16 of its 24 bits."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, 5, 5, 64)), jnp.bfloat16)
    kernel = jnp.asarray(random.normal(size=(2, 64, 3)[not kernels_are_many :]), jnp.float32)
    equation = "nhwi,nio->nhwo" if kernels_are_many else "nhwi,io->nhwo"
    exact = np.einsum(equation, *map(np.float64, (x, kernel)))
    cotangent = jnp.asarray(random.normal(size=(2, 5, 5, 3)), jnp.float32)
    with forms_of(platform):
        found, gradient = jax.vjp(mix_channels, x, kernel)
        d_x, d_kernel = gradient(cotangent)
        is_split = "reduce_precision" in str(jax.make_jaxpr(mix_channels)(x, kernel))
    # Of a cast there and back a compiler may make nothing, and then the low half is lost.
    assert is_split == (platform == "cuda")
    assert (found.dtype, d_x.dtype, d_kernel.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    kernels = np.broadcast_to(np.float64(kernel), (2, 64, 3))
    expected = np.einsum("nhwo,nio->nhwi", cotangent, kernels)
    np.testing.assert_allclose(np.float32(d_x), expected, rtol=2**-8, atol=1e-6)
    of_kernel = "nhwi,nhwo->nio" if kernels_are_many else "nhwi,nhwo->io"
    np.testing.assert_allclose(d_kernel, np.einsum(of_kernel, np.float64(x), cotangent), atol=2e-3)
    np.testing.assert_allclose(found, exact, atol=2e-4)
    rounded = kernel.astype(jnp.bfloat16).astype(jnp.float32)
    assert np.abs(mix_channels(x, rounded) - exact).max() > 5e-3
