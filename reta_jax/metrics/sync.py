"""Sync_c, Sync_d and the offset of a video: SyncNet v2 as syncnet_python scores with it.

Five frames of the face and 20 MFCC columns of the voice (0.2 s each) are embedded at every video
frame, and lips are compared with the voice up to 15 frames earlier and later. Figures compare only
within one crop, and clips of about one length: near both ends the lips are compared with silence
that is not there (zero vectors), as published. The published pipeline also compresses the frames
twice before it looks at them, which is left out here.
"""

import functools
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

WINDOW = 5  # frames
MFCC_PER_FRAME = 4
SHIFT = 15  # frames by which the voice is moved, both ways
EPS = 1e-6  # that torch's pairwise distance adds to the difference
BLOCK = 16  # windows in one call: one compiled shape for clips of any length
PADDING, MEDIAN = 110, 13  # of the published pipeline


class Sync(NamedTuple):
    """How well lips and voice go together."""

    confidence: float  # Sync_c (LSE-C): median - minimum of the distances; high is good
    distance: float  # Sync_d (LSE-D): minimum of the distances; low is good
    offset: int  # frames by which the video has to be moved to fit; 0 is good
    distances: Float[np.ndarray, " shifts"]  # mean over the windows at every shift


def judge_sync(
    network: SyncNetV2,
    variables: Any,
    frames: UInt8[np.ndarray, "t h w 3"],
    waveform: Float[np.ndarray, " n"],
    boxes: Float[np.ndarray, "t 4"] | Float[np.ndarray, "4"] | None = None,
) -> Sync:
    """Scores a video.

    Args:
      network: SyncNet v2.
      variables: its weights.
      frames: RGB at 25 fps.
      waveform: 16 kHz mono in [-1, 1], from the first frame on.
      boxes: y0, x0, y1, x1 in [0, 1] of the tight face, of every frame or of all; they are widened
        as the published pipeline does. None looks at the whole frames, for videos that are faces.

    Raises:
      InputError: the video or its sound is shorter than six frames.
    """
    count_windows(frames, waveform)  # before any work
    faces = direct_crop(frames) if boxes is None else pipeline_crop(frames, boxes)
    return compare(*embed(network, variables, faces, waveform))


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


def embed(
    network: SyncNetV2,
    variables: Any,
    faces: UInt8[np.ndarray, "t 224 224 3"],
    waveform: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m d"]]:
    """Embeddings of lips and voice at every frame but the last five. Raises as `judge_sync`."""
    count = count_windows(faces, waveform)
    columns = mfcc(to_int16(waveform)).astype(np.float32)
    voices = np.lib.stride_tricks.sliding_window_view(columns, MFCC_COLUMNS, axis=1)
    voices = voices.swapaxes(0, 1)[::MFCC_PER_FRAME]  # (windows, 13, 20)
    blocks = []
    for start in range(0, count, BLOCK):
        at = np.minimum(np.arange(start, start + BLOCK + WINDOW - 1), count + WINDOW - 2)
        heard = np.minimum(at[:BLOCK], count - 1)
        blocks.append(_embed_block(network, variables, faces[at], voices[heard]))
    lips, voice = zip(*blocks, strict=True)
    return np.concatenate(lips)[:count], np.concatenate(voice)[:count]


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
def _embed_block(
    network: SyncNetV2,
    variables: Any,
    faces: UInt8[Array, "k 224 224 3"],
    voices: Float[Array, "b 13 20"],
) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
    bgr = faces[..., ::-1].astype(jnp.float32)
    lips = jnp.stack([bgr[i : i + len(voices)] for i in range(WINDOW)], axis=1)
    return network.apply(variables, lips, voices)


def direct_crop(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t 224 224 3"]:
    """Whole frames, resized."""
    return np.stack([cv2.resize(frame, (V2_SIZE, V2_SIZE)) for frame in frames])


def pipeline_crop(
    frames: UInt8[np.ndarray, "t h w 3"],
    boxes: Float[np.ndarray, "t 4"] | Float[np.ndarray, "4"],
) -> UInt8[np.ndarray, "t 224 224 3"]:
    """The published pipeline's crop around smoothed face boxes; grey beyond the frame.

    With the box's centre and half its longer side s, rows y - s to y + 1.8 s and columns x - 1.4 s
    to x + 1.4 s.
    """
    height, width = frames.shape[1:3]
    boxes = np.broadcast_to(boxes, (len(frames), 4)) * (height, width, height, width)
    y0, x0, y1, x1 = boxes.T
    track = (y0 + y1) / 2, (x0 + x1) / 2, np.maximum(y1 - y0, x1 - x0) / 2
    taps = min(MEDIAN, len(frames) - 1 + len(frames) % 2)  # a window is odd
    track = [scipy.signal.medfilt(values, taps) for values in track]
    return np.stack([_crop(frame, *place) for frame, *place in zip(frames, *track, strict=True)])


def _crop(frame: UInt8[np.ndarray, "h w 3"], y: float, x: float, s: float) -> np.ndarray:
    pad = int(s * (1 + 2 * CROP_SCALE))
    y, x = y + pad, x + pad
    wide = cv2.copyMakeBorder(frame, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=[PADDING] * 3)
    rows = slice(int(y - s), int(y + s * (1 + 2 * CROP_SCALE)))
    columns = slice(int(x - s * (1 + CROP_SCALE)), int(x + s * (1 + CROP_SCALE)))
    return cv2.resize(wide[rows, columns], (V2_SIZE, V2_SIZE))
