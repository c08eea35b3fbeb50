"""wav2vec 2.0 (base) as the audio encoder E_A: 16 kHz voice to 50 feature vectors per second.

The defaults are `facebook/wav2vec2-base-960h`, the paper's encoder (Section 3); other numbers for
the same fields give a small one. The parameters are those of the published model without its CTC
head.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.models.attention import SelfAttention
from reta_jax.ops.activation import gelu

# Two-pass variance: the published weights have channels whose mean is far larger than their spread.
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


class FeatureEncoder(nn.Module):
    """Strided convolutions over the waveform; the default strides make 320 samples one step."""

    features: Sequence[int]
    kernels: Sequence[int]
    strides: Sequence[int]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, audio: Float[Array, "b n"]) -> Float[Array, "b t c"]:
        x = audio[..., None].astype(self.dtype)
        layers = zip(self.features, self.kernels, self.strides, strict=True)
        for i, (features, kernel, stride) in enumerate(layers):
            x = nn.Conv(
                features,
                (kernel,),
                (stride,),
                padding="VALID",
                use_bias=False,
                dtype=self.dtype,
                name=f"conv_{i}",
            )(x)
            if i == 0:
                # One group per channel: every channel is normalised over the whole window's time.
                x = nn.GroupNorm(
                    num_groups=None,
                    group_size=1,
                    epsilon=1e-5,
                    use_fast_variance=False,
                    dtype=self.dtype,
                    name="norm_0",
                )(x)
            x = gelu(x)
        return x


class PositionalConv(nn.Module):
    """Relative positions from one wide grouped convolution with a weight norm per kernel tap."""

    kernel: int
    groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t width"]) -> Float[Array, "b t width"]:
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.weights(x.shape[-1]).astype(self.dtype),
            window_strides=(1,),
            padding=[(self.kernel // 2, (self.kernel - 1) // 2)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.groups,
        )
        return gelu(y + bias.astype(self.dtype)[None, None])

    def weights(self, width: int) -> Float[Array, "k i o"]:
        if self.has_variable("params", "kernel"):  # prepared
            return self.get_variable("params", "kernel")
        shape = (self.kernel, width // self.groups, width)
        v = self.param("v", nn.initializers.lecun_normal(), shape)
        # As a weight norm starts: the gain g is the norm that v begins with.
        return normed_kernel(v, self.param("g", lambda _: tap_norms(v)))


def normed_kernel(v: Float[Array, "k i o"], g: Float[Array, "k 1 1"]) -> Float[Array, "k i o"]:
    return g * v / tap_norms(v)


def tap_norms(v: Float[Array, "k i o"]) -> Float[Array, "k 1 1"]:
    return jnp.linalg.norm(v, axis=(1, 2), keepdims=True)


class EncoderLayer(nn.Module):
    """Transformer layer with the norms after the residual sums."""

    heads: int
    mlp_dim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t width"]) -> Float[Array, "b t width"]:
        x = x + SelfAttention(self.heads, self.dtype, name="attention")(x)
        x = LayerNorm(dtype=self.dtype, name="attention_norm")(x)
        y = nn.Dense(self.mlp_dim, dtype=self.dtype, name="mlp_in")(x)
        y = gelu(y)
        y = nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp_out")(y)
        return LayerNorm(dtype=self.dtype, name="mlp_norm")(x + y)


class Wav2Vec2(nn.Module):
    """Voice to contextual features f_A, two per 25 fps frame (E_A of Figure 1).

    The feature encoder stays as it was published: no gradient reaches it.

    Fields:
      conv_features, conv_kernels, conv_strides: the feature encoder, one number per layer.
      width, layers, heads, mlp_dim: the transformer.
      position_kernel, position_groups: the convolution that stands for positions.
      pad: zero samples on both sides of the normalised window. 40 gives exactly n / 320 steps where
        the published network, at 0, gives floor((n - 400) / 320) + 1.
    """

    conv_features: Sequence[int] = (512,) * 7
    conv_kernels: Sequence[int] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: Sequence[int] = (5, 2, 2, 2, 2, 2, 2)
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    position_kernel: int = 128
    position_groups: int = 16
    pad: int = 40
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, audio: Float[Array, "b n"]) -> Float[Array, "b t {self.width}"]:
        """Features of 16 kHz `audio` of any loudness; one window is one normalisation."""
        x = jnp.pad(normalise(audio), ((0, 0), (self.pad, self.pad)))
        x = FeatureEncoder(
            self.conv_features,
            self.conv_kernels,
            self.conv_strides,
            self.dtype,
            name="feature_encoder",
        )(x)
        x = jax.lax.stop_gradient(x)  # frozen also where the rest is tuned, as usual
        x = LayerNorm(dtype=self.dtype, name="feature_norm")(x)
        x = nn.Dense(self.width, dtype=self.dtype, name="feature_projection")(x)
        # Pre-training put it in place of masked steps. It is kept with the weights, and not used.
        self.param("mask_vector", nn.initializers.uniform(1.0), (self.width,))
        positions = PositionalConv(
            self.position_kernel, self.position_groups, self.dtype, name="positional_conv"
        )(x)
        x = LayerNorm(dtype=self.dtype, name="norm")(x + positions)
        for i in range(self.layers):
            x = EncoderLayer(self.heads, self.mlp_dim, self.dtype, name=f"layer_{i}")(x)
        return x


def normalise(audio: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """Zero mean and unit (biased) variance per window, as the published network expects."""
    audio = audio.astype(jnp.float32)
    mean = audio.mean(axis=-1, keepdims=True)
    return (audio - mean) / jnp.sqrt(audio.var(axis=-1, keepdims=True) + 1e-7)
