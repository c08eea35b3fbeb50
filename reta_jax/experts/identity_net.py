"""A small judge of our own: whose face a picture shows, as a unit vector.

Trained on pairs of pictures of one person in other light, mood and moment
(reta_jax/train_expert.py); the cosine of two vectors says how alike two people look to it.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.experts.landmark_net import ConvBlock
from reta_jax.experts.syncnet import unit_vectors
from reta_jax.ops.crop import crop_resize

FACE = (0.1, 0.22, 0.9, 0.78)  # y0, x0, y1, x1 of an EMOCA crop: a background is nobody's face


class IdentityNet(nn.Module):
    """Pictures to unit vectors: down to size/16, then one layer over all that is left.

    `size` is 64 or more, `width` a multiple of 8.

    Raises:
      ValueError: fewer pixels, of which the last layer would see nothing.
    """

    size: int = 64
    width: int = 32
    features: int = 64
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b {self.features}"]:
        """EMOCA crops, RGB in [-1, 1] of any size, to float32."""
        if self.size < 64:
            raise ValueError(f"IdentityNet(size={self.size}): 64 pixels or more are needed")
        boxes = jnp.broadcast_to(jnp.asarray(FACE), (images.shape[0], 4))
        x = crop_resize(images, boxes, self.size).astype(self.dtype)
        for level in range(4):
            x = ConvBlock(self.width * 2 ** min(level, 2), stride=2, dtype=self.dtype)(x)
            x = ConvBlock(self.width * 2 ** min(level, 2), dtype=self.dtype)(x)
        places = nn.Conv(self.features, (4, 4), padding="VALID", dtype=self.dtype, name="places")(x)
        return unit_vectors(places.mean((1, 2)))
