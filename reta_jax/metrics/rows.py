"""The rows of every table: what is judged, and what is known about how it should come out.

A figure is worth what it makes of perfection, of doing nothing, of the wrong voice, of coming late
or early, and of blur.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipeline.video import stacked

SHIFT = 3  # frames
BLUR = 2.0  # pixels at 64 px
GENERATED, TRUTH, BLURRED, PORTRAIT = "generated", "truth", "blurred", "portrait"  # videos
OTHER_VOICE = "truth, another's voice"


class Row(NamedTuple):
    """A video made of the frames of one that is looked at anyway, and its sound."""

    video: str
    at: Int[np.ndarray, " t"]  # which of its frames are shown
    audio: Float[np.ndarray, " n"]


def rows(
    frames: int, audio: Float[np.ndarray, " n"], other: Float[np.ndarray, " m"] | None
) -> dict[str, Row]:
    """The rows of a clip; `other` is another's voice, which is repeated or cut; None: no sound."""
    at = np.arange(frames)
    still = np.zeros(frames, int)
    known = {
        "generated": Row(GENERATED, at, audio),
        "still portrait": Row(PORTRAIT, still, audio),
        f"truth, {SHIFT} frames late": Row(TRUTH, np.maximum(at - SHIFT, 0), audio),
        f"truth, {SHIFT} frames early": Row(TRUTH, np.minimum(at + SHIFT, frames - 1), audio),
        "truth, blurred": Row(BLURRED, at, audio),
        "truth": Row(TRUTH, at, audio),
    }
    if other is not None:
        known[OTHER_VOICE] = Row(TRUTH, at, np.resize(other, len(audio)))
    return known


def known_videos(
    truth: UInt8[np.ndarray, "t h w 3"], portrait: UInt8[np.ndarray, "h w 3"]
) -> dict[str, Callable[[], UInt8[np.ndarray, "t h w 3"]]]:
    """What the rows are made of, but for the generated one: each is looked at once.

    Functions make them, so that of a long video not all have to be in memory.
    """
    return {
        TRUTH: lambda: truth,
        BLURRED: lambda: blurred(truth),
        PORTRAIT: lambda: portrait[None],
    }


def blurred(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames without their detail, as light as they were."""
    sigma = BLUR * frames.shape[1] / 64
    # OpenCV rounds; what truncates to uint8 also darkens, and the row is of blur alone.
    return stacked(cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames)
