"""Motion encoder E_M: the 3DMM's offsets on the UV map to the motion feature f_M (section 3.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MILLIMETRES = 10.0  # a talking face moves by millimetres: offsets of unit scale for the first layer


class MotionEncoder(nn.Module):
    """Strided CNN over the position map s - s_mean (centimetres); its head starts at zero."""

    outputs: int = 512
    channels: tuple[int, ...] = (32, 64, 128, 256)
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, offsets: Float[Array, "*n r r 3"]) -> Float[Array, "*n {self.outputs}"]:
        x = MILLIMETRES * offsets
        for i, channels in enumerate(self.channels):
            x = nn.Conv(
                channels,
                (3, 3),
                (2, 2),
                padding=((1, 1), (1, 1)),
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            x = nn.leaky_relu(x, 0.2)
        x = x.reshape(*offsets.shape[:-3], -1)
        x = nn.leaky_relu(nn.Dense(self.outputs, dtype=self.dtype, name="hidden")(x), 0.2)
        return nn.Dense(
            self.outputs,
            kernel_init=nn.initializers.zeros,
            dtype=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,
            name="head",
        )(x)
