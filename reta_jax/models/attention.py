"""Self-attention and the layer around it, shared by the audio encoders and the emotion ViT."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.ops.activation import gelu
from reta_jax.ops.attention import attend

PROJECTIONS = ("query", "key", "value")
JOINED = "joined"  # among prepared parameters: the three projections as one layer


def join_projections(params: Any) -> Any:
    """Parameters in which every `SelfAttention` has one product in place of three."""
    if not isinstance(params, dict):
        return params
    params = {name: join_projections(child) for name, child in params.items()}
    if not set(PROJECTIONS) <= params.keys():
        return params
    parts = [params.pop(name) for name in PROJECTIONS]
    joined = {name: jnp.concatenate([part[name] for part in parts], -1) for name in parts[0]}
    return {JOINED: joined} | params


class SelfAttention(nn.Module):
    """Softmax attention of every position to every position, with biases everywhere."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n width"]) -> Float[Array, "b n width"]:
        batch, length, width = x.shape
        dense = partial(nn.Dense, dtype=self.dtype)
        if self.has_variable("params", JOINED):
            parts = jnp.split(dense(3 * width, name=JOINED)(x), 3, axis=-1)
        else:
            parts = [dense(width, name=name)(x) for name in PROJECTIONS]
        heads = (part.reshape(batch, length, self.heads, width // self.heads) for part in parts)
        mixed = attend(*heads)
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
        y = gelu(y)
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp_out")(y)
