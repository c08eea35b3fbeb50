"""Self-attention and the layer around it, shared by the audio encoders and the emotion ViT."""

from functools import partial

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


class PreNormLayer(nn.Module):
    """Transformer layer with the norms before attention and MLP."""

    heads: int
    mlp_dim: int
    epsilon: float  # of the norms
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n width"]) -> Float[Array, "b n width"]:
        norm = partial(
            nn.LayerNorm, epsilon=self.epsilon, use_fast_variance=False, dtype=self.dtype
        )
        y = norm(name="attention_norm")(x)
        x = x + SelfAttention(self.heads, self.dtype, name="attention")(y)
        y = norm(name="mlp_norm")(x)
        y = nn.Dense(self.mlp_dim, dtype=self.dtype, name="mlp_in")(y)
        y = nn.gelu(y, approximate=False)
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp_out")(y)
