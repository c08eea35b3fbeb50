"""Holds a filmed head still, so that what differs from its portrait is what a voice can tell.

Heads turn and what is behind them passes by as they like; a model that hears only a voice answers
that with a blur. Each frame is warped until what is rigid of its face lies where the portrait has
it. Lips and jaw move with the head as a whole and keep their shape. Around is the portrait.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

# Of iBUG's 68 points: the ends of the jaw, the nose, the corners of the eyes.
RIGID = np.array([0, 1, 15, 16, *range(27, 36), 36, 39, 42, 45])
SPEAKING = np.array([*range(3, 14), *range(48, 60)])  # the jaw and the outer lips
_BORDER = np.array([(x, y) for x in (0, 0.25, 0.5, 0.75, 1) for y in (0, 0.25, 0.5, 0.75, 1)])
_BORDER = _BORDER[(_BORDER % 1 == 0).any(1)]
_SMOOTHING = 1e-4  # landmarks tremble by half a pixel of 256
_CELLS = 32  # the warp is computed at their corners and linear in between
_ROOM, _SOFT = 1.1, 0.03  # around the face, as a factor, and its edge, in sides of the picture


def hold_still(
    frames: UInt8[np.ndarray, "t s s 3"],
    landmarks: Float32[np.ndarray, "t 68 2"],
    portrait: UInt8[np.ndarray, "s s 3"],
    portrait_landmarks: Float32[np.ndarray, "68 2"],
) -> tuple[UInt8[np.ndarray, "t s s 3"], Float32[np.ndarray, "t 68 2"]]:
    """The portrait with the faces of the frames, and their landmarks.

    Args:
        landmarks: x, y in [0, 1] of each frame.
    """
    still, moved = np.empty_like(frames), np.empty_like(landmarks)
    wanted = portrait_landmarks.astype(np.float64)
    for i, (frame, points) in enumerate(zip(frames, landmarks, strict=True)):
        here, there = _controls(points.astype(np.float64), wanted)
        moved[i] = _spline(here, there)(points)
        mask = _face_mask(np.concatenate([moved[i], portrait_landmarks]), len(frame))
        warped = _warp(frame, from_points=there, to_points=here)
        still[i] = np.round(mask * warped + (1 - mask) * portrait)
    return still, moved


def similarity(
    source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "3 2"]:
    """The turn, scale and shift that bring `source` nearest to `target`: [x, y, 1] @ it."""
    x, y = source.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    rows = np.concatenate(
        [np.stack([x, y, one, zero], 1), np.stack([y, -x, zero, one], 1)]
    )  # of a, b, u, v: x' = a x + b y + u, y' = a y - b x + v
    a, b, u, v = np.linalg.lstsq(rows, target.T.reshape(-1), rcond=None)[0]
    return np.array([[a, -b], [b, a], [u, v]])


def _controls(
    points: Float[np.ndarray, "68 2"], portrait: Float[np.ndarray, "68 2"]
) -> tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, "k 2"]]:
    """Points of the frame, and where they are to lie."""
    head = similarity(points[RIGID], portrait[RIGID])
    speaking = points[SPEAKING]
    along = np.column_stack([speaking, np.ones(len(speaking))]) @ head
    here = np.concatenate([points[RIGID], speaking, _BORDER])
    return here, np.concatenate([portrait[RIGID], along, _BORDER])


def _spline(
    source: Float[np.ndarray, "k 2"], target: Float[np.ndarray, "k 2"]
) -> Callable[[np.ndarray], np.ndarray]:
    from scipy.interpolate import RBFInterpolator  # Not above: few trainings hold heads still.

    return RBFInterpolator(source, target, smoothing=_SMOOTHING, kernel="thin_plate_spline")


def _warp(
    frame: UInt8[np.ndarray, "s s 3"],
    from_points: Float[np.ndarray, "k 2"],
    to_points: Float[np.ndarray, "k 2"],
) -> UInt8[np.ndarray, "s s 3"]:
    """The picture whose pixel at each of `from_points` is the frame's at `to_points`."""
    size = len(frame)
    corners = np.linspace(0, 1, _CELLS + 1)
    grid = np.stack(np.meshgrid(corners, corners), -1)
    places = _spline(from_points, to_points)(grid.reshape(-1, 2)).reshape(grid.shape)
    # Pixel i has its centre at i + 1/2.
    centres = np.float32((np.arange(size) + 0.5) / size * _CELLS)
    columns, rows = np.meshgrid(centres, centres)
    dense = cv2.remap(np.float32(places), columns, rows, cv2.INTER_LINEAR) * size - 0.5
    return cv2.remap(frame, dense, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _face_mask(points: Float32[np.ndarray, "n 2"], size: int) -> Float32[np.ndarray, "s s 1"]:
    """1 on the face that the points are of, up to the hair, and 0 around it."""
    centre = points.mean(0)
    brows, chin = points[:, 1].min(), points[:, 1].max()
    forehead = points - np.float32([0, 0.25 * (chin - brows)])
    hull = cv2.convexHull(centre + _ROOM * (np.concatenate([points, forehead]) - centre))
    mask = np.zeros((size, size), np.float32)
    cv2.fillConvexPoly(mask, np.round(hull * size).astype(np.int32), 1.0)
    return cv2.GaussianBlur(mask, (0, 0), _SOFT * size)[..., None]
