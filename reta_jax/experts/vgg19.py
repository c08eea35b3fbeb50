"""VGG-19 features and image pyramid of the perceptual loss, in the form of LIA and FOMM."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.ops.activation import relu

# Convolutions between two max-pools. The last stage ends at relu5_1: nothing deeper is ever used.
STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 1))
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


class VGG19(nn.Module):
    """RGB images in [-1, 1] (clamped) to the features relu1_1, 2_1, 3_1, 4_1 and 5_1.

    Raises ValueError for images below 16 pixels, whose last features would be empty.
    """

    channel_multiplier: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        if min(images.shape[1:3]) < 16:
            raise ValueError(f"VGG19 halves its input four times: {images.shape} has no relu5_1")
        x = (jnp.clip(images, -1, 1) + 1) / 2
        x = (x - IMAGENET_MEAN[None, None, None]) / IMAGENET_STD[None, None, None]
        x = x.astype(self.dtype)
        taps = []
        for stage, (features, convolutions) in enumerate(STAGES, start=1):
            if stage > 1:
                x = max_of_four(x)
            for i in range(1, convolutions + 1):
                name = f"conv{stage}_{i}"
                width = int(features * self.channel_multiplier)
                x = relu(nn.Conv(width, (3, 3), padding=1, dtype=self.dtype, name=name)(x))
                if i == 1:
                    taps.append(x)
        return tuple(taps)


@jax.custom_vjp
def max_of_four(x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
    """Max-pool of 2x2 with a stride of two; a last odd row or column is left out.

    `nn.max_pool` looks for the largest again in its gradient, pixel by pixel: 18 times as long on
    CPU, four times the traffic on a GPU. Where several are largest they share the gradient, which
    keeps nothing but x.
    """
    return _fours(x).max((2, 4))


def _fours(x: Array) -> Float[Array, "b i 2 j 2 c"]:
    """The pixels of each pool, without a last odd row or column."""
    b, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)


def _max_forward(x: Array) -> tuple[Array, Array]:
    return max_of_four(x), x


def _max_backward(x: Array, cotangent: Array) -> tuple[Array]:
    """A pixel's share in its column, times the column's in the pool."""
    pixels = _fours(x)
    columns = jnp.maximum(pixels, pixels[:, :, ::-1])
    share = _share(pixels, pixels[:, :, ::-1]) * _share(columns, columns[:, :, :, :, ::-1])
    b, h, w, c = x.shape
    gradient = (share * cotangent[:, :, None, :, None]).reshape(b, h // 2 * 2, w // 2 * 2, c)
    return (jnp.pad(gradient, ((0, 0), (0, h % 2), (0, w % 2), (0, 0))),)


def _share(one: Array, other: Array) -> Array:
    return jnp.where(one == other, 0.5, one > other).astype(one.dtype)


max_of_four.defvjp(_max_forward, _max_backward)


def image_pyramid(
    images: Float[Array, "b h w c"], scales: Sequence[float] = (1, 0.5, 0.25, 0.125)
) -> list[Float[Array, "b _ _ c"]]:
    """The images at every scale 1/1, 1/2, 1/4 ...: Gaussian blur against aliasing, then decimation.

    The blur pads with zeros, the mid-grey of [-1, 1].
    """
    return [images if scale == 1 else shrink(images, round(1 / scale)) for scale in scales]


def shrink(images: Float[Array, "b h w c"], step: int) -> Float[Array, "b i j c"]:
    """Every `step`-th pixel of the blurred images. Blur and decimation are one matrix per axis."""
    rows, columns = (blur_matrix(size, step) for size in images.shape[1:3])
    dtype = images.dtype
    x = jnp.einsum("ih,bhwc->biwc", jnp.asarray(rows, dtype), images)
    return jnp.einsum("jw,biwc->bijc", jnp.asarray(columns, dtype), x)


def blur_matrix(size: int, step: int) -> np.ndarray:
    """(ceil(size / step), size): row i is a Gaussian of sigma (step - 1) / 2 around i * step.

    The kernel is cut at four sigmas and sums to one before the zero padding.
    """
    sigma = (step - 1) / 2
    radius = round(4 * sigma)
    norm = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).sum()
    offset = np.arange(size)[None] - np.arange(0, size, step)[:, None]
    weights = np.exp(-0.5 * (offset / sigma) ** 2) / norm
    return np.where(np.abs(offset) <= radius, weights, 0)
