"""Multi-head self-attention, shared by the audio encoder and the emotion ViT."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class SelfAttention(nn.Module):
    """Softmax attention of every position to every position, with biases everywhere."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n width"]) -> Float[Array, "b n width"]:
        batch, length, width = x.shape

        def project(name: str) -> Array:
            y = nn.Dense(width, dtype=self.dtype, name=name)(x)
            return y.reshape(batch, length, self.heads, width // self.heads)

        mixed = jax.nn.dot_product_attention(project("query"), project("key"), project("value"))
        return nn.Dense(width, dtype=self.dtype, name="out")(mixed.reshape(x.shape))
