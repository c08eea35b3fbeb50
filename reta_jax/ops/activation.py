"""Activations, with gradients that keep no map beside what is kept anyway."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reta_jax.ops.maps import pixel_sums, vary_with, written

SLOPE = 0.2
GAIN = 2**0.5  # keeps the variance


def leaky_relu(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """StyleGAN2's, whose gain is part of it."""
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


def _modulated_forward(
    x: Array, scale: Array, bias: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    y = _modulated_leaky_relu(x, scale, bias)
    return y, (written(y), scale, bias)


def _modulated_backward(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    y, scale, bias = residuals
    cotangent = cotangent.astype(jnp.float32)
    inner = cotangent * jnp.where(y >= 0, GAIN, SLOPE * GAIN)
    products, sums = pixel_sums(cotangent * y.astype(jnp.float32), inner)
    d_scale = (products - bias[None] * sums) / scale
    return (inner * scale[:, None, None]).astype(y.dtype), d_scale, sums.sum(0)


_modulated_leaky_relu.defvjp(_modulated_forward, _modulated_backward)


@jax.custom_vjp
def relu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`nn.relu` whose gradient looks at what came out.

    A GPU's library then rectifies within the convolution, and x is never written.
    """
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    y = relu(x)
    return y, y


def _relu_backward(y: Array, cotangent: Array) -> tuple[Array]:
    # Of y > 0 the compiler would make x > 0.
    return (jnp.where(y != 0, cotangent, 0),)


relu.defvjp(_relu_forward, _relu_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x Phi(x), Phi the normal distribution's; computed in float32, in the type of x.

    JAX's own keeps two more maps of a layer's widest, its error function among them, and in
    bfloat16 rounds each of its steps.
    """
    wide = x.astype(jnp.float32)
    return (wide * _distribution(wide)).astype(x.dtype)


def _gelu_backward(x: Array, cotangent: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * jnp.pi) ** -0.5
    slope = _distribution(wide) + wide * density
    return ((cotangent.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def _distribution(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)
