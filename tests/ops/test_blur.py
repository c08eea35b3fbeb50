import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate

from reta_jax.ops.blur import blur, upsample
from reta_jax.ops.platforms import forms_of

KERNEL = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


@pytest.fixture
def image():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8, 3)), jnp.float32)


def filtered(x):
    """Valid 4x4 correlation of the last two axes but one."""
    full = correlate(np.asarray(x, np.float64), KERNEL[None, :, :, None], mode="constant")
    return full[:, 2:-1, 2:-1]


def padded(x, before, after):
    return np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))


@pytest.mark.parametrize("pad", [(1, 1), (2, 2), (2, 1), (0, 0)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_blur(image, pad, stride, platform):
    expected = 4 * filtered(padded(image, *pad))[:, ::stride, ::stride]
    with forms_of(platform):
        found = blur(image, pad, gain=4.0, stride=stride)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_upsample(image, platform):
    """Zeros after every pixel, padding (2, 1), filter of gain 4."""
    dilated = np.zeros((2, 12, 16, 3), np.float32)
    dilated[:, ::2, ::2] = image
    with forms_of(platform):
        found = upsample(image)
    np.testing.assert_allclose(found, 4 * filtered(padded(dilated, 2, 1)), atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: blur(x, (1, 1), 4.0, 1),
        lambda x: blur(x, (2, 1)),
        lambda x: blur(x, (0, 0), 1.0, 2),
        lambda x: blur(x, (1, 1), 1.0, 2),
        lambda x: blur(x, (2, 2), 1.0, 2),
        upsample,
    ],
)
def test_gradients_are_the_transposed_matrix(function, platform):
    """Of an odd height, where a stride leaves a row out."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(1, 7, 8, 2)), jnp.float32)
    cotangent = random.normal(size=jax.eval_shape(function, x).shape).astype(np.float32)
    with forms_of(platform):
        found = jax.jit(lambda x, y: jax.vjp(function, x)[1](y)[0])(x, cotangent)
        columns = jax.jit(jax.vmap(function))(jnp.eye(x.size).reshape(-1, *x.shape))
    expected = np.einsum("nbhwc,bhwc->n", columns, cotangent)
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_a_gradient_of_a_gradient(image, platform):
    """As the discriminator's penalty takes it: of the sum of squares of a gradient."""

    def penalty(scale):
        loss = lambda x: jnp.square(blur(scale * jnp.sin(x), (2, 2), 1.0, 2)).sum()
        return jnp.square(jax.grad(loss)(image)).sum()

    with forms_of(platform):
        slope = jax.jit(jax.grad(penalty))(1.5)
        high, low = map(jax.jit(penalty), (1.51, 1.49))
    step = (high - low) / 0.02
    np.testing.assert_allclose(slope, step, rtol=1e-2)
