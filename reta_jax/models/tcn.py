"""Temporal convolutional network: the motion decoder D and the emotion student S (section 3.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class ResidualBlock(nn.Module):
    """Pre-norm residual block of one dilated convolution over time and one point-wise layer."""

    features: int
    kernel: int
    dilation: int
    dropout: float = 0.0
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        y = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)(x)
        y = nn.Conv(
            self.features,
            (self.kernel,),
            kernel_dilation=(self.dilation,),
            padding="SAME",
            dtype=self.dtype,
        )(y)
        y = nn.Dense(self.features, dtype=self.dtype)(nn.gelu(y))
        return x + nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(y)


class TCN(nn.Module):
    """Maps audio features to one vector a frame.

    Convolutions are centred: the network always runs on a whole audio window (past, chunk,
    look-ahead), so the few future frames that it sees are the same in training and live.

    dropout: of each block's output; noise: on the features, in their standard deviations. Both
      where there is a "dropout" key, which is in training: few people teach few networks to hear.
    linear: frames that a linear path sees, from the features to the outputs beside the blocks, 0 at
      first; odd, 0: none. What it hears of people it does not know, the blocks may not.
    """

    outputs: int
    features: int = 512
    kernel: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    dropout: float = 0.0
    noise: float = 0.0
    linear: int = 0
    head_scale: float = 1.0  # variance of the first outputs; 0: f_STY rules alone at first
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t {self.outputs}"]:
        if self.noise and self.has_rng("dropout"):
            spread = jnp.std(x, (0, 1), keepdims=True)
            x = x + self.noise * spread * jax.random.normal(self.make_rng("dropout"), x.shape)
        straight = 0.0
        if self.linear:
            straight = nn.Conv(
                self.outputs,
                (self.linear,),
                use_bias=False,
                padding="SAME",
                kernel_init=nn.initializers.zeros,
                dtype=jnp.float32,
                precision=jax.lax.Precision.HIGHEST,
                name="linear",
            )(x)
        x = nn.Dense(self.features, dtype=self.dtype, name="stem")(x)
        for i, dilation in enumerate(self.dilations):
            x = ResidualBlock(
                self.features, self.kernel, dilation, self.dropout, self.dtype, name=f"block{i}"
            )(x)
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        init = nn.initializers.zeros
        if self.head_scale:
            init = nn.initializers.variance_scaling(self.head_scale, "fan_in", "normal")
        head = nn.Dense(
            self.outputs,
            kernel_init=init,
            dtype=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,
            name="head",
        )
        return head(x) + straight
