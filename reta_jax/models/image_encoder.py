"""E_I: the portrait's style code and its pyramid of texture maps (appendix C.2; LIA's encoder)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.models.stylegan import EqualConv, Trunk


class ImageEncoder(nn.Module):
    """RGB image in [-1, 1] to f_STY (b, style_dim), float32, and f_TEX, 8^2 first."""

    size: int = 256
    style_dim: int = 512
    channel_multiplier: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False  # blocks are computed again for their gradient

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b {self.style_dim}"], tuple[Float[Array, "b _ _ _"], ...]]:
        trunk = Trunk(self.size, self.channel_multiplier, self.dtype, self.remat, name="trunk")
        *textures, last = trunk(image)
        head = EqualConv(self.style_dim, 4, activate=False, dtype=self.dtype, name="head")
        style = head(last)[:, 0, 0].astype(jnp.float32)
        return style, tuple(reversed(textures))
