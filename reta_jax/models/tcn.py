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

    dropout: share of each block's outputs that is dropped.
    noise: what is added to the features, in their own standard deviations. Like dropout it acts in
      training alone, where there is a "dropout" key: a network that few people taught hears little
      in others.
    linear: width in frames, odd, of a convolution straight from the features to the outputs, which
      are its sum with the blocks'; 0: there is none. It starts at zero. reta_jax.linear_path fits
      one, since a regression may hear in new people what the blocks do not.
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
