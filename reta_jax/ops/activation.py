"""The leaky ReLU of StyleGAN2, alone and behind a modulated convolution."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reta_jax.ops.conv import vary_with
from reta_jax.ops.maps import pixel_sums, written

SLOPE = 0.2
GAIN = 2**0.5  # keeps the variance


def leaky_relu(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    return jax.nn.leaky_relu(x, SLOPE) * GAIN


def modulated_leaky_relu(
    x: Float[Array, "n h w c"], scale: Float[Array, "n c"], bias: Float[Array, " c"]
) -> Float[Array, "n h w c"]:
    """leaky_relu(scale * x + bias) in float32; keeps the dtype of x. No scale is zero.

    For its gradient the result alone is kept: its sign is that of what it was computed from, and
    its product with its cotangent is that one's, too.
    """
    return _modulated_leaky_relu(x, scale, vary_with(bias, x))


@jax.custom_vjp
def _modulated_leaky_relu(x: Array, scale: Array, bias: Array) -> Array:
    wide = x.astype(jnp.float32) * scale[:, None, None] + bias[None, None, None]
    return leaky_relu(wide).astype(x.dtype)


def _forward(x: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    y = _modulated_leaky_relu(x, scale, bias)
    return y, (written(y), scale, bias)


def _backward(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    y, scale, bias = residuals
    cotangent = cotangent.astype(jnp.float32)
    inner = cotangent * jnp.where(y >= 0, GAIN, SLOPE * GAIN)
    products, sums = pixel_sums(cotangent * y.astype(jnp.float32), inner)
    d_scale = (products - bias[None] * sums) / scale
    return (inner * scale[:, None, None]).astype(y.dtype), d_scale, sums.sum(0)


_modulated_leaky_relu.defvjp(_forward, _backward)
