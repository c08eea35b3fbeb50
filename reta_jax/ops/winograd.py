"""3x3 convolutions with fewer products: Winograd's F(2x2, 3x3), for CPUs.

Four pixels of the result need 36 products of channels with the kernel, or 16 of sums of pixels with
sums of the kernel. A CPU does the sums beside its products, so from some channels on that is nearly
twice as fast (docs/decisions.md). All in float32: of sums in bfloat16 too little would be left.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# From these on, the sums and the larger kernels cost less than the products that they save.
WIDE = 128  # input channels
LARGE = 16  # pixels of a side
TILE = 4  # pixels of a side from which two pixels of the result follow


def winograd_kernel(kernel: Float[Array, "3 3 i o"]) -> Float[Array, "4 4 i o"]:
    """The kernel as `winograd_conv` takes it."""
    sums = jnp.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], kernel.dtype)
    return jnp.einsum("ak,bl,klio->abio", sums, sums, kernel)


def winograd_conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "4 4 i o"]
) -> Float[Array, "b h w o"]:
    """Cross-correlation with a border of one zero, of an even height and width."""
    b, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    tiles = [_tiles(rows, axis=2) for rows in _tiles(x, axis=1)]
    products = [
        [tile @ part for tile, part in zip(*pair, strict=True)]
        for pair in zip(tiles, kernel, strict=True)
    ]
    columns = [_pixels(column) for column in zip(*products, strict=True)]
    rows = [jnp.stack(_pixels(row), axis=3) for row in zip(*columns, strict=True)]
    return jnp.stack(rows, axis=2).reshape(b, h, w, -1)


def _tiles(x: Array, axis: int) -> tuple[Array, Array, Array, Array]:
    """B^T d: sums of four pixels, of which the next tile has the last two as well."""
    count = x.shape[axis] // 2 - 1
    d = [jax.lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(TILE)]
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _pixels(m: tuple[Array, ...]) -> tuple[Array, Array]:
    """A^T m: two neighbours of the result."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]
