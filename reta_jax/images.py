"""The doors between uint8 pictures and the float pictures inside."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8


def to_float(images: UInt8[Array, "*s"]) -> Float32[Array, "*s"]:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: Float32[Array, "*s"]) -> UInt8[Array, "*s"]:
    """float [-1, 1] to uint8 [0, 255], rounded and clipped."""
    return jnp.clip(jnp.round((images + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
