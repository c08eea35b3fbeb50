"""Lip-sync judges: the Wav2Lip expert (L_sync, Eq. 5) and SyncNet v2 (Sync_c and Sync_d).

A model trained against the one must be judged by the other.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.ops.conv import conv
from reta_jax.ops.crop import crop_resize, mix, resample_weights

FACE_SIZE = 96  # the expert looks at a tight 96 x 96 face and sees its lower half
V2_SIZE, CROP_SCALE = 224, 0.4  # SyncNet v2 sees more than the face, by this share of its side
# Box y0, x0, y1, x1 whose crop, so widened, is the frame itself.
WHOLE_FRAME = (
    0.0,
    CROP_SCALE / (2 + 2 * CROP_SCALE),
    1 / (1 + CROP_SCALE),
    (2 + CROP_SCALE) / (2 + 2 * CROP_SCALE),
)


class ConvBlock(nn.Module):
    """Convolution, batch norm, the input again if `residual`, ReLU."""

    features: int
    kernel: int | tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pad: int = 0
    residual: bool = False
    dtype: DTypeLike = jnp.float32
    convolve: Callable | None = None  # as jax.lax.conv_general_dilated, which None is

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        kernel = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        y = nn.Conv(
            self.features,
            kernel,
            self.strides,
            padding=self.pad,
            dtype=self.dtype,
            conv_general_dilated=self.convolve,
            name="conv",
        )(x)
        y = batch_norm(train, self.dtype, name="norm")(y)
        return nn.relu(y + x if self.residual else y)


class ConvStack(nn.Module):
    """`ConvBlock`s in a row. One is (features, kernel, strides, pad, residual blocks after)."""

    blocks: tuple[tuple[int, int, tuple[int, int], int, int], ...]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        index = 0
        for features, kernel, strides, pad, residuals in self.blocks:
            x = ConvBlock(features, kernel, strides, pad, dtype=self.dtype, name=f"block_{index}")(
                x, train
            )
            for i in range(index + 1, index + 1 + residuals):
                x = ConvBlock(
                    features, 3, pad=1, residual=True, dtype=self.dtype, name=f"block_{i}"
                )(x, train)
            index += 1 + residuals
        return x


class SyncNetExpert(nn.Module):
    """The Wav2Lip lip-sync expert: five lower faces and 16 mel columns to one space.

    Batch statistics live in the `batch_stats` collection: apply with `{"params", "batch_stats"}`;
    with `train=True` also with `mutable=["batch_stats"]`. `channel_multiplier` scales every width.
    """

    channel_multiplier: float = 1.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        def scaled(*blocks):
            return tuple((int(f * self.channel_multiplier), *rest) for f, *rest in blocks)

        self.face_encoder = ConvStack(
            scaled(
                (32, 7, (1, 1), 3, 0),
                (64, 5, (1, 2), 1, 2),
                (128, 3, (2, 2), 1, 3),
                (256, 3, (2, 2), 1, 2),
                (512, 3, (2, 2), 1, 2),
                (512, 3, (2, 2), 1, 0),
                (512, 3, (1, 1), 0, 0),
                (512, 1, (1, 1), 0, 0),
            ),
            self.dtype,
        )
        self.audio_encoder = ConvStack(
            scaled(
                (32, 3, (1, 1), 1, 2),
                (64, 3, (3, 1), 1, 2),
                (128, 3, (3, 3), 1, 2),
                (256, 3, (3, 2), 1, 2),
                (512, 3, (1, 1), 0, 0),
                (512, 1, (1, 1), 0, 0),
            ),
            self.dtype,
        )

    def __call__(
        self, faces: Float[Array, "b 48 96 15"], mel: Float[Array, "b 80 16"], train: bool = False
    ) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
        """Both embeddings; Eq. 5 is 1 - their dot product."""
        return self.embed_faces(faces, train), self.embed_audio(mel, train)

    def embed_faces(
        self, faces: Float[Array, "b 48 96 15"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Unit vectors of five lower half faces, BGR in [0, 1], channels frame-major."""
        return unit_vectors(self.face_encoder(faces.astype(self.dtype), train)[:, 0, 0])

    def embed_audio(self, mel: Float[Array, "b 80 16"], train: bool = False) -> Float[Array, "b d"]:
        """Unit vectors of 16 mel columns (80 per second) in [-4, 4]."""
        return unit_vectors(self.audio_encoder(mel[..., None].astype(self.dtype), train)[:, 0, 0])


class SyncNetV2(nn.Module):
    """SyncNet v2 (Chung & Zisserman), the judge of Sync_c and Sync_d; batch norms as published."""

    channel_multiplier: float = 1.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        def block(features, kernel, strides=(1, 1), pad=0):
            features = int(features * self.channel_multiplier)
            convolve = None if strides == (1, 1) else _convolve_square
            return ConvBlock(features, kernel, strides, pad, dtype=self.dtype, convolve=convolve)

        # The clip is five frames and the first kernel spans all five, so the published 3D
        # convolutions are 2D ones with the frames stacked in the channels.
        self.lip_0 = block(96, 7, (2, 2))
        self.lip_1 = block(256, 5, (2, 2), 1)
        self.lip_2 = block(256, 3, pad=1)
        self.lip_3 = block(256, 3, pad=1)
        self.lip_4 = block(256, 3, pad=1)
        self.lip_5 = block(512, 6)
        self.lip_head = Head(self.channel_multiplier, self.dtype)

        self.audio_0 = block(64, 3, pad=1)
        self.audio_1 = block(192, 3, pad=1)
        self.audio_2 = block(384, 3, pad=1)
        self.audio_3 = block(256, 3, pad=1)
        self.audio_4 = block(256, 3, pad=1)
        self.audio_5 = block(512, (5, 4))
        self.audio_head = Head(self.channel_multiplier, self.dtype)

    def __call__(
        self,
        lips: Float[Array, "b 5 224 224 3"],
        mfcc: Float[Array, "b 13 20"],
        train: bool = False,
    ) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
        """Both embeddings; their L2 distance says how far lips and voice are apart."""
        return self.embed_lips(lips, train), self.embed_audio(mfcc, train)

    def embed_lips(
        self, lips: Float[Array, "b 5 224 224 3"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Embeddings (not normalised) of five face frames, BGR, 0 to 255."""
        x = jnp.moveaxis(lips, 1, 3).reshape(*lips.shape[:1], 224, 224, 15).astype(self.dtype)
        x = nn.max_pool(self.lip_0(x, train), (3, 3), (2, 2))
        x = nn.max_pool(self.lip_1(x, train), (3, 3), (2, 2), ((1, 1), (1, 1)))
        x = self.lip_4(self.lip_3(self.lip_2(x, train), train), train)
        x = self.lip_5(nn.max_pool(x, (3, 3), (2, 2)), train)
        return self.lip_head(x[:, 0, 0], train)

    def embed_audio(
        self, mfcc: Float[Array, "b 13 20"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Embeddings (not normalised) of 20 MFCC columns (100 per second) of int16-scaled voice."""
        x = mfcc[..., None].astype(self.dtype)
        x = self.audio_1(self.audio_0(x, train), train)
        x = self.audio_2(nn.max_pool(x, (3, 3), (1, 2)), train)
        x = self.audio_4(self.audio_3(x, train), train)
        x = self.audio_5(nn.max_pool(x, (3, 3), (2, 2)), train)
        return self.audio_head(x[:, 0, 0], train)


def _convolve_square(
    x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **_: Any
) -> Array:
    """For the two layers with a stride: the first one was most of the time on CPU."""
    return conv(x, kernel, strides[0], padding[0])


class Head(nn.Module):
    """The two last layers of a SyncNet v2 stream: 512 to 1024."""

    channel_multiplier: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b c"], train: bool) -> Float[Array, "b d"]:
        x = nn.Dense(int(512 * self.channel_multiplier), dtype=self.dtype, name="dense_0")(x)
        x = nn.relu(batch_norm(train, self.dtype, name="norm")(x))
        x = nn.Dense(int(1024 * self.channel_multiplier), dtype=self.dtype, name="dense_1")(x)
        return x.astype(jnp.float32)


def batch_norm(train: bool, dtype: DTypeLike, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )


def unit_vectors(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Rows at length one; a zero row stays zero and has a finite gradient."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def frames_to_input(
    frames: Float[Array, "b 5 h w 3"], box: Float[Array, "b 4"]
) -> Float[Array, "b 48 96 15"]:
    """What the expert sees of five RGB frames in [-1, 1]: face crop, resize, lower half, BGR.

    `box` is y0, x0, y1, x1 of the tight face in [0, 1] of the frame, one per clip; parts outside
    the frame repeat its border. The resize is bilinear, with antialiasing where it
    shrinks. Differentiable.
    """
    height, width = frames.shape[2:4]
    weights = functools.partial(resample_weights, samples=FACE_SIZE)
    rows = jax.vmap(lambda b: weights(b[0], b[2], height)[FACE_SIZE // 2 :])(box)
    columns = jax.vmap(lambda b: weights(b[1], b[3], width))(box)
    crops = mix("bth,bfhwc->bftwc", rows, frames.astype(jnp.float32))
    crops = mix("bsw,bftwc->btsfc", columns, crops)
    crops = (crops[..., ::-1] + 1) / 2
    return crops.reshape(*crops.shape[:3], -1)


def frames_to_v2_input(
    frames: Float[Array, "b 5 h w 3"], box: Float[Array, "b 4"]
) -> Float[Array, "b 5 224 224 3"]:
    """What SyncNet v2 sees of five RGB frames in [-1, 1]: the published crop, BGR, 0 to 255.

    Frames are square, `box` as above. Parts outside the frame repeat its border, where the pipeline
    has grey.
    """
    y0, x0, y1, x1 = box.T
    y, x, s = (y0 + y1) / 2, (x0 + x1) / 2, jnp.maximum(y1 - y0, x1 - x0) / 2
    side = (1 + CROP_SCALE) * s
    wide = jnp.stack([y - s, x - side, y + (1 + 2 * CROP_SCALE) * s, x + side], 1)
    flat = frames.reshape(-1, *frames.shape[2:])
    faces = crop_resize(flat, jnp.repeat(wide, frames.shape[1], 0), V2_SIZE)
    return 127.5 * (faces[..., ::-1] + 1).reshape(*frames.shape[:2], V2_SIZE, V2_SIZE, 3)
