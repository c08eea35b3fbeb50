"""The emotion teacher T: a ViT that names the emotion of a face (Section 3; its logits in Eq. 6).

The defaults are `trpakov/vit-face-expression` (ViT-B/16, seven classes).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.models.attention import PreNormLayer

EPSILON = 1e-12  # of the norms


class EmotionViT(nn.Module):
    """Face images to emotion features f_V and class logits, both float32."""

    size: int = 224
    patch: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    classes: int = 7
    mean: Sequence[float] = (0.5, 0.5, 0.5)  # of pixels in [0, 1], as the weights expect
    std: Sequence[float] = (0.5, 0.5, 0.5)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b {self.width}"], Float[Array, "b {self.classes}"]]:
        """RGB in [-1, 1] of any size (resized inside, differentiably) to (f_V, logits)."""
        x = (resize(images, self.size) + 1) / 2
        x = (x - jnp.asarray(self.mean)[None, None, None]) / jnp.asarray(self.std)[None, None, None]
        x = x.astype(self.dtype)
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            (self.patch, self.patch),
            padding="VALID",
            dtype=self.dtype,
            name="patches",
        )(x)
        x = x.reshape(x.shape[0], -1, self.width)

        small = nn.initializers.truncated_normal(0.02)
        class_token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        positions = self.param("positions", small, (1, x.shape[1] + 1, self.width))
        class_token = jnp.broadcast_to(class_token, (x.shape[0], 1, self.width))
        x = jnp.concatenate([class_token.astype(self.dtype), x], axis=1)
        x = x + positions.astype(self.dtype)

        for i in range(self.layers):
            x = PreNormLayer(self.heads, self.mlp_dim, EPSILON, self.dtype, name=f"layer_{i}")(x)
        features = nn.LayerNorm(EPSILON, use_fast_variance=False, name="norm")(x[:, 0])
        logits = nn.Dense(self.classes, name="classifier")(features)
        return features, logits


def resize(images: Float[Array, "b h w 3"], size: int) -> Float[Array, "b {size} {size} 3"]:
    """Bilinear with antialiasing when it shrinks, as PIL resizes for the published network."""
    return jax.image.resize(images, (images.shape[0], size, size, 3), "bilinear", antialias=True)
