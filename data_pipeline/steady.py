"""Holds a filmed head still, so that what differs from its portrait is what a voice can tell.

Heads turn as they like; a model that hears only a voice answers that with a blur. Each frame is
warped until what is rigid of its face lies where the portrait has it, while the border of the
picture stays where it is. Lips and jaw move with the head as a whole and keep their shape.
"""

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy.interpolate import RBFInterpolator

# Of iBUG's 68 points: the ends of the jaw, the nose, the corners of the eyes.
RIGID = np.array([0, 1, 15, 16, *range(27, 36), 36, 39, 42, 45])
SPEAKING = np.array([*range(3, 14), *range(48, 60)])  # the jaw and the outer lips
_BORDER = np.array([(x, y) for x in (0, 0.25, 0.5, 0.75, 1) for y in (0, 0.25, 0.5, 0.75, 1)])
_BORDER = _BORDER[(_BORDER % 1 == 0).any(1)]
_SMOOTHING = 1e-4  # landmarks tremble by half a pixel of 256
_CELLS = 32  # the warp is computed at their corners and linear in between


def hold_still(
    frames: UInt8[np.ndarray, "t s s 3"],
    landmarks: Float32[np.ndarray, "t 68 2"],
    portrait: Float32[np.ndarray, "68 2"],
) -> tuple[UInt8[np.ndarray, "t s s 3"], Float32[np.ndarray, "t 68 2"]]:
    """Frames, and their landmarks, with the head where the portrait's is.

    Args:
        landmarks: x, y in [0, 1] of each frame.
        portrait: x, y in [0, 1] of the portrait's points.
    """
    still, moved = np.empty_like(frames), np.empty_like(landmarks)
    for i, (frame, points) in enumerate(zip(frames, landmarks, strict=True)):
        here, there = _controls(points.astype(np.float64), portrait.astype(np.float64))
        still[i] = _warp(frame, from_points=there, to_points=here)
        moved[i] = _spline(here, there)(points)
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


def _spline(source: Float[np.ndarray, "k 2"], target: Float[np.ndarray, "k 2"]) -> RBFInterpolator:
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
