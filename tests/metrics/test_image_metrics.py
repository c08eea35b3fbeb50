"""PSNR and SSIM are scikit-image's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from reta_jax.metrics.image import psnr, ssim


def changed(image: np.ndarray, amount: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-amount, amount + 1, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def picture() -> np.ndarray:
    return skimage.data.astronaut()[40:168, 140:300]


PAIRS = {
    "noisy": (picture(), changed(picture(), 20)),
    "shifted": (picture()[:, 1:], picture()[:, :-1].copy()),
    "inverted": (picture(), 255 - picture()),
    # Nearly even and bright: where variances are small differences of large numbers.
    "even": (np.full((64, 48, 3), 250, np.uint8), changed(np.full((64, 48, 3), 250), 2)),
    "dark": (picture() // 32, changed(picture() // 32, 1)),
    "one window": (picture()[:7, :7], changed(picture()[:7, :7], 9)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_scikit_image(name):
    a, b = PAIRS[name]
    x, y = jnp.asarray(a), jnp.asarray(b)
    reference = structural_similarity(a, b, channel_axis=-1, data_range=255)
    assert abs(float(ssim(x, y)) - reference) < 1e-6
    reference = peak_signal_noise_ratio(a, b, data_range=255)
    assert abs(float(psnr(x, y)) / reference - 1) < 1e-6


def test_batches_are_judged_image_by_image():
    a = jnp.stack([picture()] * 4).reshape(2, 2, *picture().shape)
    b = jnp.stack([changed(picture(), n) for n in (2, 5, 9, 30)]).reshape(a.shape)
    for metric in (psnr, ssim):
        values = np.asarray(jax.jit(metric)(a, b))
        assert values.shape == (2, 2) and (np.diff(values.ravel()) < 0).all()
        alone = [[metric(a[i, j], b[i, j]) for j in range(2)] for i in range(2)]
        np.testing.assert_allclose(values, alone, rtol=1e-6)


def test_an_image_is_like_itself():
    woman, black = jnp.asarray(picture()), jnp.zeros((16, 16, 3), jnp.uint8)
    for image in (woman, black):
        assert float(psnr(image, image)) == np.inf
        assert float(ssim(image, image)) == 1.0
    assert abs(float(psnr(black, 255 - black))) < 1e-5
