"""A small network of our own: the 20 points of the mouth (48-67 of iBUG's 68), in the lower face.

It judges, and another one, of other weights, teaches L_lips. It is trained by this project, so no
licence or download stands between a picture and its points.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from data_pipeline.face import LOWER_LIP, MOUTH, UPPER_LIP
from reta_jax.ops.crop import crop_resize


class ConvBlock(nn.Module):
    """3x3 convolution, group norm, ReLU."""

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        stride = (self.stride, self.stride)
        x = nn.Conv(self.features, (3, 3), stride, padding=1, use_bias=False, dtype=self.dtype)(x)
        x = nn.GroupNorm(num_groups=8, epsilon=1e-5, dtype=self.dtype)(x)
        return nn.relu(x)


class LandmarkNet(nn.Module):
    """Pictures to points: down to size/8, up again to size/2, one heatmap per landmark.

    Each point is the mean over its heatmap of the cells' centres, each moved by an offset of its
    own: differentiable and finer than the cells. `width` is a multiple of 8.

    grey: it sees the mean of the channels. A teacher's gradient is then the same in all three: a
      generator cannot please it by tints.
    """

    size: int = 64
    width: int = 32
    landmarks: int = 20
    grey: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b {self.landmarks} 2"]:
        """RGB in [-1, 1] of any size to float32 x, y in [0, 1] of the image."""
        if self.grey:
            images = jnp.broadcast_to(images.mean(-1, keepdims=True), images.shape)
        shape = (images.shape[0], self.size, self.size, 3)
        x = jax.image.resize(images, shape, "bilinear", antialias=True).astype(self.dtype)

        skips = []
        for level in range(3):
            features = self.width * 2**level
            x = ConvBlock(features, stride=2, dtype=self.dtype)(x)
            x = ConvBlock(features, dtype=self.dtype)(x)
            skips.append(x)
        for level in (1, 0):
            x = nn.Conv(self.width * 2**level, (1, 1), dtype=self.dtype)(x)
            x = x.repeat(2, axis=1).repeat(2, axis=2) + skips[level]
            x = ConvBlock(self.width * 2**level, dtype=self.dtype)(x)

        heatmaps = nn.Conv(self.landmarks, (1, 1), dtype=self.dtype, name="heatmaps")(x)
        offsets = nn.Conv(2 * self.landmarks, (1, 1), dtype=self.dtype, name="offsets")(x)
        offsets = offsets.reshape(*heatmaps.shape, 2)
        return soft_argmax(heatmaps.astype(jnp.float32), offsets.astype(jnp.float32))


def soft_argmax(
    heatmaps: Float[Array, "b h w k"], offsets: Float[Array, "b h w k 2"]
) -> Float[Array, "b k 2"]:
    """Mean x, y in [0, 1] under the softmax of each map; `offsets` are x, y in cells."""
    _, height, width, _ = heatmaps.shape
    weights = jax.nn.softmax(heatmaps, axis=(1, 2))
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    centres = jnp.stack([columns, rows], axis=-1)[None, :, :, None] + 0.5
    precision = jax.lax.Precision.HIGHEST  # TF32 and bfloat16 know places to a tenth of a cell
    cells = jnp.einsum("bhwk,bhwkc->bkc", weights, centres + offsets, precision=precision)
    return cells / jnp.array([width, height])[None, None]


def lower_face(
    frames: Float[Array, "n h w 3"], face_box: Float[Array, "n 4"], size: int
) -> Float[Array, "n {size} {size} 3"]:
    """What the network sees of frames in [-1, 1]: its lower half face as a square."""
    return crop_resize(frames, lower_half(face_box), size)


# What follows computes with NumPy on NumPy's arrays: eager JAX compiles anew for every length.
Boxes = Float[Array, "#n 4"] | Float[np.ndarray, "#n 4"]
Points = Float[Array, "n k 2"] | Float[np.ndarray, "n k 2"]


def lower_half(face_box: Boxes) -> Boxes:
    """Lower half of a face box y0, x0, y1, x1 and a tenth more: open jaws drop below the box."""
    y0, x0, y1, x1 = face_box.T
    half = (y0 + y1) / 2, x0, y1 + 0.1 * (y1 - y0), x1
    return face_box.__array_namespace__().stack(half, -1)


def into_lower_face(points: Points, face_box: Boxes) -> Points:
    """Points x, y in [0, 1] of the frame to [0, 1] of what the network sees."""
    origin, extent = _place(face_box)
    return (points - origin) / extent


def from_lower_face(points: Points, face_box: Boxes) -> Points:
    """Points x, y in [0, 1] of what the network sees to [0, 1] of the frame."""
    origin, extent = _place(face_box)
    return points * extent + origin


def _place(face_box: Boxes) -> tuple[Points, Points]:
    """Corner and size (x, y) of the lower half of a face, (n, 1, 2) each."""
    half = lower_half(face_box)
    corner, end = half[:, None, 1::-1], half[:, None, 3:1:-1]
    return corner, end - corner


def gap_height(mouth: Float[Array, "*b 20 2"]) -> Float[Array, "*b"]:
    """Of the gap between the inner lips (points 62, 66), in heights of what the network sees."""
    upper, lower = (mouth[..., point - MOUTH.start, 1] for point in (UPPER_LIP, LOWER_LIP))
    return jnp.abs(lower - upper)
