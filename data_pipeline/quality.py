"""What makes a clip worth learning from: measures of its face, and what is refused.

docs/data.md ("What the filters refuse") has how the limits lie in real clips.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from data_pipeline.face import Box, crop
from data_pipeline.manifest import Scores
from data_pipeline.sync_score import MIN_FRAMES, mean_lip_gap

MAX_LOST = 0.2  # of the frames may show no face
MAX_ACCOMPANIED = 0.1  # of the frames may show another face at least half as large
MAX_DARK = 0.3  # of the face's pixels may be black
MAX_BRIGHT = 0.2  # may be white
MIN_SHARPNESS = 15.0  # half of the softest of 48 real clips
MIN_FACE_PIXELS = 48.0  # smaller ones are blown up fourfold and more at 256 pixels
MAX_YAW = 75.0  # degrees; beyond, one half of the mouth is out of sight
MIN_MOVEMENT = 0.003  # a third of the stillest three seconds of real clips, seven times a picture's

_SIDE = 96  # pixels of the face in which sharpness is measured, however large it was
_FACE_IN_BOX = 1 / 1.375  # side of the face in EMOCA's box
_BLACK, _WHITE = 10, 250  # grey levels
# The tip of the nose lies before the line through the outer corners of the eyes by so many halves
# of their distance.
_NOSE_DEPTH = 1.0
_NOSE, _RIGHT_EYE, _LEFT_EYE = 30, 36, 45


class Look(NamedTuple):
    """The light on a face in one frame; terms as of `Scores`."""

    sharpness: float
    dark: float
    bright: float


def look_at(frame: UInt8[np.ndarray, "h w 3"], box: Box) -> Look:
    """Measures the face in the middle of an EMOCA box."""
    x, y, side = box
    face = crop(frame, np.array([x, y, side * _FACE_IN_BOX]), _SIDE)
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    return Look(
        sharpness=float(cv2.Laplacian(grey, cv2.CV_32F).var()),
        dark=float((grey <= _BLACK).mean()),
        bright=float((grey >= _WHITE).mean()),
    )


def measure(
    looks: Sequence[Look | None],
    landmarks: Float32[np.ndarray, "t 68 2"] | None,
    found: Bool[np.ndarray, " t"],
    accompanied: Bool[np.ndarray, " t"] | None,
) -> Scores:
    """The scores of a clip, but for `sync`.

    Args:
        looks: of each frame; None where there is no face.
        landmarks: None if no face was looked for, but a place was given for it.
        found: whether a frame shows the face.
        accompanied: whether it shows another one; None if others were not looked for.
    """
    seen = np.array([look for look in looks if look is not None]).reshape(-1, 3)
    if not len(seen):
        return Scores(lost=1.0)
    scores = Scores(
        sharpness=float(np.median(seen[:, 0])),
        dark=float(seen[:, 1].mean()),
        bright=float(seen[:, 2].mean()),
        others=None if accompanied is None else float(accompanied.mean()),
    )
    if landmarks is None:
        return scores
    size = (landmarks.max(axis=1) - landmarks.min(axis=1)).mean(axis=1)
    turned = np.quantile(np.abs(yaw(landmarks)), 0.9)
    return scores._replace(
        face_pixels=float(np.median(size)),
        yaw=float(turned),
        lost=float(1 - found.mean()),
        movement=float(mean_lip_gap(landmarks).std()) if len(found) >= MIN_FRAMES else None,
    )


def yaw(landmarks: Float32[np.ndarray, "*t 68 2"]) -> Float64[np.ndarray, "*t"]:
    """Degrees that heads are turned to the side, from where the nose is between the eyes.

    Of a head whose nose stands out by _NOSE_DEPTH, turned about its upright axis and seen from far
    away: the eyes' line shrinks with the cosine, the nose leaves its middle with the sine.
    """
    right, left = landmarks[..., _RIGHT_EYE, :], landmarks[..., _LEFT_EYE, :]
    half = (left - right).astype(np.float64) / 2
    nose = landmarks[..., _NOSE, :] - (left + right) / 2
    along = (nose * half).sum(-1) / np.maximum((half**2).sum(-1), 1e-6)
    return np.degrees(np.arctan(along / _NOSE_DEPTH))


def refusal(scores: Scores) -> str:
    """Why a clip is not worth learning from; empty if it is."""
    if scores.lost is not None and scores.lost > MAX_LOST:
        return f"face lost in {scores.lost:.0%} of the frames"
    if scores.others is not None and scores.others > MAX_ACCOMPANIED:
        return f"several faces in {scores.others:.0%} of the frames"
    if scores.face_pixels is not None and scores.face_pixels < MIN_FACE_PIXELS:
        return f"small face: {scores.face_pixels:.0f} pixels, less than {MIN_FACE_PIXELS:.0f}"
    if scores.dark is not None and scores.dark > MAX_DARK:
        return f"too dark: {scores.dark:.0%} of the face is black"
    if scores.bright is not None and scores.bright > MAX_BRIGHT:
        return f"overexposed: {scores.bright:.0%} of the face is white"
    if scores.sharpness is not None and scores.sharpness < MIN_SHARPNESS:
        return f"blurred: sharpness {scores.sharpness:.0f}, less than {MIN_SHARPNESS:.0f}"
    if scores.yaw is not None and scores.yaw > MAX_YAW:
        return f"head turned by {scores.yaw:.0f} degrees, more than {MAX_YAW:.0f}"
    if scores.movement is not None and scores.movement < MIN_MOVEMENT:
        return "the lips do not move: a still picture, or somebody who listens"
    return ""
