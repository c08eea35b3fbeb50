"""What the image networks share: StyleGAN2's layers with equalised learning rate.

Kernels are stored with unit variance and scaled by 1 / sqrt(fan in) when they are used.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.ops.activation import GAIN, SLOPE
from reta_jax.ops.blur import blur
from reta_jax.ops.conv import conv

UNIT_NORMAL = nn.initializers.normal(1.0)


def channels(resolution: int, multiplier: float = 1.0) -> int:
    """Width of the maps of `resolution`: 512 up to 32, then half for every doubling; at least 4."""
    return max(4, int(min(512, 16384 // resolution) * multiplier))


def resolutions(size: int) -> tuple[int, ...]:
    """The levels of the pyramid: 8, 16, ..., size."""
    if size < 8 or size & (size - 1):
        raise ValueError(f"the image size is {size}; use a power of two, 8 or more")
    return tuple(2**n for n in range(3, size.bit_length()))


class EqualDense(nn.Module):
    """Linear layer, always float32, on GPUs and TPUs, too: its inputs are codes, not maps."""

    features: int
    kernel_init: Initializer = UNIT_NORMAL
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b {self.features}"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        return exact_dense(x, scaled(kernel), bias)


def exact_dense(
    x: Float[Array, "b i"], kernel: Float[Array, "i o"], bias: Float[Array, " o"]
) -> Float[Array, "b o"]:
    """x @ kernel + bias in float32, on GPUs and TPUs, too."""
    product = jnp.matmul(x.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST)
    return product + bias[None]


def scaled(kernel: Float[Array, "i o"]) -> Float[Array, "i o"]:
    """By 1 / sqrt(fan in)."""
    return kernel * kernel.shape[0] ** -0.5


class EqualConv(nn.Module):
    """Convolution; with `activate` also bias and `leaky_relu`. All of it times `gain`.

    What a map is scaled by is in kernel and bias, which a leaky ReLU lets through: no map is read
    and written again for it.
    """

    features: int
    window: int
    stride: int = 1
    pad: int = 0
    activate: bool = True
    gain: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b _ _ {self.features}"]:
        shape = (self.window, self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", UNIT_NORMAL, shape)
        gain = self.gain * GAIN if self.activate else self.gain
        scale = gain * (self.window**2 * x.shape[-1]) ** -0.5
        kernel = (kernel * scale).astype(self.dtype)
        x = conv(x.astype(self.dtype), kernel, self.stride, (self.pad, self.pad))
        if not self.activate:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return jax.nn.leaky_relu(x + (bias * gain).astype(self.dtype)[None, None, None], SLOPE)


class DownBlock(nn.Module):
    """Residual block that halves the size, blurring before each stride of two."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b _ _ {self.features}"]:
        layer = functools.partial(EqualConv, dtype=self.dtype)
        half = functools.partial(layer, self.features, gain=0.5**0.5)  # of the variance of the sum
        y = layer(x.shape[-1], 3, pad=1, name="conv1")(x)
        y = half(3, stride=2, name="conv2")(blur(y, pad=(2, 2)))
        skip = half(1, activate=False, name="skip")(blur(x, pad=(1, 1), stride=2))
        return y + skip


class Trunk(nn.Module):
    """RGB image to feature maps of every resolution from size^2 down to 4^2, finest first.

    remat: a block is computed again for its gradient instead of being kept.
    """

    size: int
    channel_multiplier: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
        if image.shape[1:3] != (self.size, self.size):
            raise ValueError(f"images are {image.shape[1:3]}, the network is for {self.size}^2")
        width = channels(self.size, self.channel_multiplier)
        maps = [EqualConv(width, 1, dtype=self.dtype, name="from_rgb")(image)]
        block = nn.remat(DownBlock) if self.remat else DownBlock
        for resolution in reversed((4, *resolutions(self.size)[:-1])):
            width = channels(resolution, self.channel_multiplier)
            maps.append(block(width, self.dtype, name=f"down_{resolution}")(maps[-1]))
        return maps
