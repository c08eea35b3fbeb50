"""Inception-v3 as the FID measures with it: the TensorFlow graph of 2015, ported by pytorch-fid.

It differs from the usual Inception-v3 in its average pools, which leave the padding out of the
count, and in its last block, whose pool takes the maximum.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class ConvNorm(nn.Module):
    """Convolution without bias, frozen batch norm, ReLU."""

    features: int
    kernel: tuple[int, int]
    stride: int = 1
    pad: tuple[int, int] = (0, 0)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        x = nn.Conv(
            self.features,
            self.kernel,
            (self.stride, self.stride),
            padding=[(p, p) for p in self.pad],
            use_bias=False,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, dtype=self.dtype, name="norm")(x)
        return nn.relu(x)


class FIDInception(nn.Module):
    """Images to the 2048 pooled features of which the FID takes mean and covariance."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b 2048"]:
        """RGB in [-1, 1] of any size to float32; apply with `{"params", "batch_stats"}`."""
        x = preprocess(images).astype(self.dtype)
        x = self._conv("1a", 32, 3, stride=2)(x)
        x = self._conv("2a", 32, 3)(x)
        x = self._conv("2b", 64, 3, pad=1)(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = self._conv("3b", 80, 1)(x)
        x = self._conv("4a", 192, 3)(x)
        x = nn.max_pool(x, (3, 3), (2, 2))
        for name, pool_features in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = self._block_a(name, x, pool_features)
        x = self._block_b("6a", x)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = self._block_c(name, x, width)
        x = self._block_d("7a", x)
        x = self._block_e("7b", x, average_pool(x))
        x = self._block_e("7c", x, max_pool_same(x))
        return x.astype(jnp.float32).mean(axis=(1, 2))

    def _conv(self, name, features, kernel, stride=1, pad=0) -> ConvNorm:
        def pair(n):
            return (n, n) if isinstance(n, int) else n

        return ConvNorm(
            features, pair(kernel), stride, pair(pad), self.dtype, name=name.replace(".", "_")
        )

    def _block_a(self, name, x, pool_features):
        """35 x 35: 1x1, 5x5, double 3x3, pool."""
        a = self._conv(f"{name}.branch1x1", 64, 1)(x)
        b = self._conv(f"{name}.branch5x5_1", 48, 1)(x)
        b = self._conv(f"{name}.branch5x5_2", 64, 5, pad=2)(b)
        c = self._conv(f"{name}.branch3x3dbl_1", 64, 1)(x)
        c = self._conv(f"{name}.branch3x3dbl_2", 96, 3, pad=1)(c)
        c = self._conv(f"{name}.branch3x3dbl_3", 96, 3, pad=1)(c)
        d = self._conv(f"{name}.branch_pool", pool_features, 1)(average_pool(x))
        return jnp.concatenate([a, b, c, d], axis=-1)

    def _block_b(self, name, x):
        """35 x 35 to 17 x 17."""
        a = self._conv(f"{name}.branch3x3", 384, 3, stride=2)(x)
        b = self._conv(f"{name}.branch3x3dbl_1", 64, 1)(x)
        b = self._conv(f"{name}.branch3x3dbl_2", 96, 3, pad=1)(b)
        b = self._conv(f"{name}.branch3x3dbl_3", 96, 3, stride=2)(b)
        return jnp.concatenate([a, b, nn.max_pool(x, (3, 3), (2, 2))], axis=-1)

    def _block_c(self, name, x, width):
        """17 x 17: 1x1, factorised 7x7, double 7x7, pool."""
        row, column = {"kernel": (1, 7), "pad": (0, 3)}, {"kernel": (7, 1), "pad": (3, 0)}
        a = self._conv(f"{name}.branch1x1", 192, 1)(x)
        b = self._conv(f"{name}.branch7x7_1", width, 1)(x)
        b = self._conv(f"{name}.branch7x7_2", width, **row)(b)
        b = self._conv(f"{name}.branch7x7_3", 192, **column)(b)
        c = self._conv(f"{name}.branch7x7dbl_1", width, 1)(x)
        c = self._conv(f"{name}.branch7x7dbl_2", width, **column)(c)
        c = self._conv(f"{name}.branch7x7dbl_3", width, **row)(c)
        c = self._conv(f"{name}.branch7x7dbl_4", width, **column)(c)
        c = self._conv(f"{name}.branch7x7dbl_5", 192, **row)(c)
        d = self._conv(f"{name}.branch_pool", 192, 1)(average_pool(x))
        return jnp.concatenate([a, b, c, d], axis=-1)

    def _block_d(self, name, x):
        """17 x 17 to 8 x 8."""
        a = self._conv(f"{name}.branch3x3_1", 192, 1)(x)
        a = self._conv(f"{name}.branch3x3_2", 320, 3, stride=2)(a)
        b = self._conv(f"{name}.branch7x7x3_1", 192, 1)(x)
        b = self._conv(f"{name}.branch7x7x3_2", 192, (1, 7), pad=(0, 3))(b)
        b = self._conv(f"{name}.branch7x7x3_3", 192, (7, 1), pad=(3, 0))(b)
        b = self._conv(f"{name}.branch7x7x3_4", 192, 3, stride=2)(b)
        return jnp.concatenate([a, b, nn.max_pool(x, (3, 3), (2, 2))], axis=-1)

    def _block_e(self, name, x, pooled):
        """8 x 8: 1x1, 3x3 split in a row and a column, the same after a 3x3, pool."""
        row, column = {"kernel": (1, 3), "pad": (0, 1)}, {"kernel": (3, 1), "pad": (1, 0)}
        a = self._conv(f"{name}.branch1x1", 320, 1)(x)
        b = self._conv(f"{name}.branch3x3_1", 384, 1)(x)
        b_row = self._conv(f"{name}.branch3x3_2a", 384, **row)(b)
        b_column = self._conv(f"{name}.branch3x3_2b", 384, **column)(b)
        c = self._conv(f"{name}.branch3x3dbl_1", 448, 1)(x)
        c = self._conv(f"{name}.branch3x3dbl_2", 384, 3, pad=1)(c)
        c_row = self._conv(f"{name}.branch3x3dbl_3a", 384, **row)(c)
        c_column = self._conv(f"{name}.branch3x3dbl_3b", 384, **column)(c)
        d = self._conv(f"{name}.branch_pool", 192, 1)(pooled)
        return jnp.concatenate([a, b_row, b_column, c_row, c_column, d], axis=-1)


def preprocess(images: Float[Array, "b h w 3"]) -> Float[Array, "b 299 299 3"]:
    """Bilinear to 299 x 299, half-pixel centres, no antialiasing (as published)."""
    shape = (images.shape[0], 299, 299, 3)
    return jax.image.resize(images.astype(jnp.float32), shape, "bilinear", antialias=False)


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """3 x 3 mean of the pixels that exist: the padding does not count."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def max_pool_same(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return nn.max_pool(x, (3, 3), padding="SAME")
