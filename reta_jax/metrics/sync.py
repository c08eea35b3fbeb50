"""Sync_c, Sync_d and the offset of a video: SyncNet v2 as syncnet_python scores with it.

Five frames of the face and 20 MFCC columns of the voice (0.2 s each) are embedded at every video
frame, and lips are compared with the voice up to 15 frames earlier and later. Figures compare only
within one crop, and clips of about one length: near both ends the lips are compared with silence
that is not there (zero vectors), as published. The published pipeline also compresses the frames
twice before it looks at them, which is left out here.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal
from jaxtyping import Array, Float, UInt8

from data_pipeline.audio import MFCC_COLUMNS, SAMPLES_PER_FRAME, mfcc, to_int16
from data_pipeline.errors import InputError
from reta_jax.experts.syncnet import CROP_SCALE, V2_SIZE, SyncNetV2
from reta_jax.metrics.blocks import apply_exactly

WINDOW = 5  # frames
MFCC_PER_FRAME = 4
SHIFT = 15  # frames by which the voice is moved, both ways
EPS = 1e-6  # that torch's pairwise distance adds to the difference
BLOCK = 8  # windows in one call: one compiled shape for clips of any length
REMEMBERED = 4096  # windows; 4 kB each
PADDING, MEDIAN = 110, 13  # of the published pipeline


class Sync(NamedTuple):
    """How well lips and voice go together."""

    confidence: float  # Sync_c (LSE-C): median - minimum of the distances; high is good
    distance: float  # Sync_d (LSE-D): minimum of the distances; low is good
    offset: int  # frames by which the video has to be moved to fit; 0 is good
    distances: Float[np.ndarray, " shifts"]  # mean over the windows at every shift


class SyncJudge:
    """SyncNet v2 over whole videos.

    It remembers the windows it has seen: a clip's rows are made of the same frames and voices, and
    the network is most of what judging them costs. A window is known by its frames and where their
    faces are, so that only those of new windows are cropped.
    """

    def __init__(self, network: SyncNetV2, variables: Any):
        self._network, self._variables = network, variables
        self._seen: dict[bytes, np.ndarray] = {}

    def __call__(
        self,
        frames: UInt8[np.ndarray, "t h w 3"],
        waveform: Float[np.ndarray, " n"],
        boxes: Float[np.ndarray, "t 4"] | Float[np.ndarray, "4"] | None = None,
    ) -> Sync:
        """Scores a video.

        Args:
          frames: RGB at 25 fps.
          waveform: 16 kHz mono in [-1, 1], from the first frame on.
          boxes: y0, x0, y1, x1 in [0, 1] of the tight face, of every frame or of all; they are
            widened as the published pipeline does. None looks at the whole frames, for videos that
            are faces.

        Raises:
          InputError: the video or its sound is shorter than six frames.
        """
        return compare(*self.embed(frames, waveform, boxes))

    def embed(
        self,
        frames: UInt8[np.ndarray, "t h w 3"],
        waveform: Float[np.ndarray, " n"],
        boxes: Float[np.ndarray, "t 4"] | Float[np.ndarray, "4"] | None = None,
    ) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m d"]]:
        """Embeddings of lips and voice at every frame but the last five. As a call."""
        count = count_windows(frames, waveform)
        places = [()] * len(frames) if boxes is None else face_places(frames, boxes)
        face = functools.lru_cache(BLOCK + WINDOW)(lambda i: crop_face(frames[i], *places[i]))
        lips = lambda i: np.stack([face(i + k) for k in range(WINDOW)])
        columns = mfcc(to_int16(waveform)).astype(np.float32)
        voices = np.lib.stride_tricks.sliding_window_view(columns, MFCC_COLUMNS, axis=1)
        voices = voices.swapaxes(0, 1)[::MFCC_PER_FRAME][:count]  # (windows, 13, 20)
        pictures = [_digest(*shown) for shown in zip(frames, places, strict=True)]
        shown = [b"".join(pictures[i : i + WINDOW]) for i in range(count)]
        heard = [_digest(voice) for voice in voices]
        if len(self._seen) > REMEMBERED:
            self._seen.clear()
        return (
            self._remembered(_embed_lips, shown, lips),
            self._remembered(_embed_voices, heard, voices.__getitem__),
        )

    def _remembered(
        self,
        embed: Callable[..., Array],
        keys: Sequence[bytes],
        window: Callable[[int], np.ndarray],
    ) -> Float[np.ndarray, "m d"]:
        new = list({key: i for i, key in enumerate(keys) if key not in self._seen}.values())
        blocks = [new[start : start + BLOCK] for start in range(0, len(new), BLOCK)]
        windows = (np.stack([window(i) for i in np.resize(block, BLOCK)]) for block in blocks)
        found = (embed(self._network, self._variables, shown) for shown in windows)
        # A block is on its way to the device before the one before it is waited for.
        ahead = itertools.pairwise(itertools.chain(found, [None]))
        for block, (vectors, _) in zip(blocks, ahead, strict=True):
            self._seen.update(zip((keys[i] for i in block), np.asarray(vectors), strict=False))
        return np.stack([self._seen[key] for key in keys])


def compare(lips: Float[np.ndarray, "t d"], voice: Float[np.ndarray, "t d"]) -> Sync:
    """The figures of embeddings, one pair at every frame."""
    count = len(lips)
    padded = np.pad(voice, ((SHIFT, SHIFT), (0, 0)))
    shifted = (padded[shift : shift + count] for shift in range(2 * SHIFT + 1))
    distances = np.array([np.linalg.norm(lips - other + EPS, axis=1).mean() for other in shifted])
    return Sync(
        confidence=float(np.median(distances) - distances.min()),
        distance=float(distances.min()),
        offset=SHIFT - int(distances.argmin()),
        distances=distances,
    )


def is_long_enough(frames: int, samples: int) -> bool:
    """Whether a video of so many frames and samples of sound can be judged at all."""
    return min(frames, samples // SAMPLES_PER_FRAME) > WINDOW


def count_windows(frames: UInt8[np.ndarray, "t h w 3"], waveform: Float[np.ndarray, " n"]) -> int:
    """Windows that are compared; the last that would fit is not used, as published."""
    if not is_long_enough(len(frames), len(waveform)):
        raise InputError(
            f"{len(frames)} frames with {len(waveform)} samples of sound are too short to judge "
            f"their synchrony: {WINDOW + 1} frames of {SAMPLES_PER_FRAME} samples are needed"
        )
    return min(len(frames), len(waveform) // SAMPLES_PER_FRAME) - WINDOW


@functools.partial(jax.jit, static_argnums=0)
def _embed_lips(
    network: SyncNetV2, variables: Any, faces: UInt8[Array, "b 5 224 224 3"]
) -> Float[Array, "b d"]:
    bgr = faces[..., ::-1].astype(jnp.float32)
    return apply_exactly(network, variables, bgr, method=SyncNetV2.embed_lips)


@functools.partial(jax.jit, static_argnums=0)
def _embed_voices(
    network: SyncNetV2, variables: Any, voices: Float[Array, "b 13 20"]
) -> Float[Array, "b d"]:
    return apply_exactly(network, variables, voices, method=SyncNetV2.embed_audio)


def _digest(*arrays: np.ndarray | tuple[()]) -> bytes:
    found = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        found.update(repr(array.shape).encode())
        found.update(array)
    return found.digest()


def face_places(
    frames: UInt8[np.ndarray, "t h w 3"],
    boxes: Float[np.ndarray, "t 4"] | Float[np.ndarray, "4"],
) -> Float[np.ndarray, "t 3"]:
    """Row y and column x of the faces' centres and half their longer sides s, smoothed."""
    height, width = frames.shape[1:3]
    boxes = np.broadcast_to(boxes, (len(frames), 4)) * (height, width, height, width)
    y0, x0, y1, x1 = boxes.T
    track = (y0 + y1) / 2, (x0 + x1) / 2, np.maximum(y1 - y0, x1 - x0) / 2
    taps = min(MEDIAN, len(frames) - 1 + len(frames) % 2)  # a window is odd
    return np.stack([scipy.signal.medfilt(values, taps) for values in track], axis=1)


def crop_face(frame: UInt8[np.ndarray, "h w 3"], *place: float) -> UInt8[np.ndarray, "224 224 3"]:
    """The published pipeline's crop around a face's place; without one, the whole frame.

    Rows y - s to y + 1.8 s and columns x - 1.4 s to x + 1.4 s; grey beyond the frame.
    """
    if not place:
        return cv2.resize(frame, (V2_SIZE, V2_SIZE))
    y, x, s = place
    pad = int(s * (1 + 2 * CROP_SCALE))
    y, x = y + pad, x + pad
    wide = cv2.copyMakeBorder(frame, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=[PADDING] * 3)
    rows = slice(int(y - s), int(y + s * (1 + 2 * CROP_SCALE)))
    columns = slice(int(x - s * (1 + CROP_SCALE)), int(x + s * (1 + CROP_SCALE)))
    return cv2.resize(wide[rows, columns], (V2_SIZE, V2_SIZE))
