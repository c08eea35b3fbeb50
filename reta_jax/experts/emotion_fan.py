"""Emotion-FAN, the judge of ACC_e: ResNet-18 per frame, attention over the clip."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.experts.syncnet import batch_norm


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is a strided 1x1 where the shape changes."""

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        def conv_norm(x, kernel, stride, index):
            x = nn.Conv(
                self.features,
                (kernel, kernel),
                (stride, stride),
                padding=kernel // 2,
                use_bias=False,
                dtype=self.dtype,
                name=f"conv_{index}",
            )(x)
            return batch_norm(train, self.dtype, name=f"norm_{index}")(x)

        y = nn.relu(conv_norm(x, 3, self.stride, 1))
        y = conv_norm(y, 3, 1, 2)
        if x.shape != y.shape:
            x = conv_norm(x, 1, self.stride, "shortcut")
        return nn.relu(x + y)


class EmotionFAN(nn.Module):
    """Clips of face frames to emotion logits.

    Batch statistics live in the `batch_stats` collection, as in `SyncNetExpert`. `width` is the
    first stage's channel count. `relation` chooses the published network's head: each frame is
    weighed together with the clip's mean (self-relation attention) or alone (self-attention).
    """

    width: int = 64
    classes: int = 7
    relation: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, frames: Float[Array, "b t h w 3"], train: bool = False
    ) -> tuple[Float[Array, "b {self.classes}"], Float[Array, "b d"]]:
        """RGB in [-1, 1], published at 224 x 224, to float32 (logits, features of the clip)."""
        batch, time = frames.shape[:2]
        x = (frames.reshape(batch * time, *frames.shape[2:]) + 1) / 2
        x = self._trunk(x.astype(self.dtype), train)
        x = x.reshape(batch, time, -1).astype(jnp.float32)

        alpha = nn.sigmoid(nn.Dense(1, name="alpha")(x))
        clip = weighted_mean(x, alpha)
        logits = nn.Dense(self.classes, name="attention_head")(clip)

        pairs = jnp.concatenate([x, jnp.broadcast_to(clip[:, None], x.shape)], axis=-1)
        beta = nn.sigmoid(nn.Dense(1, name="beta")(pairs))
        related = weighted_mean(pairs, alpha * beta)
        related_logits = nn.Dense(self.classes, name="relation_head")(related)
        return (related_logits, related) if self.relation else (logits, clip)

    def _trunk(self, x: Float[Array, "b h w 3"], train: bool) -> Float[Array, "b d"]:
        x = nn.Conv(
            self.width, (7, 7), (2, 2), padding=3, use_bias=False, dtype=self.dtype, name="stem"
        )(x)
        x = nn.relu(batch_norm(train, self.dtype, name="stem_norm")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"block_{stage}_{block}"
                x = ResidualBlock(self.width * 2**stage, stride, self.dtype, name=name)(x, train)
        return x.mean(axis=(1, 2))


def weighted_mean(x: Float[Array, "b t d"], weights: Float[Array, "b t 1"]) -> Float[Array, "b d"]:
    return (x * weights).sum(axis=1) / weights.sum(axis=1)
