"""The discriminator of StyleGAN2, as EDTalk trains it."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.models.stylegan import EqualConv, EqualDense, Trunk
from reta_jax.ops.activation import leaky_relu


class Discriminator(nn.Module):
    """RGB images in [-1, 1] to one real-or-fake logit each, (b,) float32."""

    size: int = 256
    channel_multiplier: float = 1.0
    minibatch_std_group: int = 4
    dtype: DTypeLike = jnp.float32
    remat: bool = False  # blocks are computed again for their gradient

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        trunk = Trunk(self.size, self.channel_multiplier, self.dtype, self.remat, name="trunk")
        x = trunk(images)[-1].astype(jnp.float32)
        width = x.shape[-1]
        x = append_minibatch_std(x, self.minibatch_std_group)
        x = EqualConv(width, 3, pad=1, name="conv")(x)
        x = x.reshape(x.shape[0], -1)
        x = leaky_relu(EqualDense(width, name="dense")(x))
        return EqualDense(1, name="logit")(x)[:, 0]


def append_minibatch_std(x: Float[Array, "b h w c"], group: int) -> Float[Array, "b h w c+1"]:
    """One more channel: how much the samples of a group differ, the same at every pixel.

    With g the largest divisor of b up to `group`, samples j, j + b/g, j + 2b/g, ... form a group.
    The reference is defined where g is min(b, group); here every batch size works.
    """
    b, h, w, c = x.shape
    g = next(g for g in range(min(b, group), 0, -1) if b % g == 0)
    grouped = x.reshape(g, b // g, h, w, c)
    std = jnp.sqrt(grouped.var(axis=0) + 1e-8).mean((1, 2, 3))
    channel = jnp.tile(std, g)[:, None, None, None]
    return jnp.concatenate([x, jnp.broadcast_to(channel, (b, h, w, 1))], -1)
