"""Figures of the 68 iBUG points of a face over time, in any unit: what it does, not how it looks.

Lengths come in distances of the outer eye corners, so that the picture's size does not matter.
"""

import numpy as np
import scipy.ndimage
from jaxtyping import Array, Float

from data_pipeline.audio import FPS
from data_pipeline.face import MOUTH, eye_distance

STEADY = (27, 28, 29, 30, 36, 39, 42, 45)  # the bridge of the nose and the eyes' corners
LIDS = ((36, 37, 38, 39, 40, 41), (42, 43, 44, 45, 46, 47))
PIXELS, PIXELS_SIDE = "_px", 256.0  # suffix of distances in pixels, and the side of their picture
CORNERS_MM = 90.0  # between an adult's outer eye corners, about
SHUT = 0.6  # of the eyes' usual opening
LONGEST_BLINK = 12  # frames: eyes that are shut for longer rest


def mean_eye_distance(points: Float[np.ndarray, "t 68 2"]) -> float:
    """The unit of a video's distances: between the outer eye corners; NaN if no face is seen."""
    found = eye_distance(points)
    seen = np.isfinite(found)
    return float(found[seen].mean()) if seen.any() else np.nan


def eye_opening(points: Float[Array, "t 68 2"] | Float[np.ndarray, "t 68 2"]):
    """Height of the eyes over their width (the eye aspect ratio), mean of both: (t,).

    (|p1 - p5| + |p2 - p4|) / (2 |p0 - p3|), with p0 to p5 around an eye.
    """
    openings = []
    for p0, p1, p2, p3, p4, p5 in LIDS:
        length = lambda a, b: (((points[:, a] - points[:, b]) ** 2).sum(-1) + 1e-12) ** 0.5
        openings.append((length(p1, p5) + length(p2, p4)) / (2 * length(p0, p3)))
    return sum(openings) / 2


def blinks_per_minute(opening: Float[np.ndarray, " t"]) -> float:
    """How often the eyes shut below 0.6 of their median opening and open again, 12 frames at most.

    Times without a face (NaN) count for nothing.
    """
    seen = np.isfinite(opening)
    if not seen.any():
        return 0.0
    is_shut = np.where(seen, opening, np.inf) < SHUT * np.median(opening[seen])
    runs, count = scipy.ndimage.label(is_shut)
    blinks = (np.bincount(runs, minlength=count + 1)[1:] <= LONGEST_BLINK).sum()
    return float(blinks * 60 * FPS / seen.sum())


def head_motion(points: Float[np.ndarray, "t 68 2"]) -> float:
    """How far the head strays: root mean square of its steady points' way from their mean place.

    sqrt(mean_t |c_t - mean c|^2) / eye distance, with c_t the centre of nose bridge and eye
    corners.
    """
    centre = points[:, STEADY].mean(1)
    away = np.square(centre - centre.mean(0)).sum(-1)
    return float(np.sqrt(away.mean()) / eye_distance(points).mean())


def jitter(points: Float[np.ndarray, "t k 2"]) -> float:
    """Mean length of the points' acceleration, in their unit per frame^2: trembling, not motion.

    Of every three frames on end; three with one that shows no face (NaN) do not count. NaN without
    any.
    """
    acceleration = np.linalg.norm(np.diff(points, n=2, axis=0), axis=-1)
    seen = np.isfinite(acceleration).all(1)
    return float(acceleration[seen].mean()) if seen.any() else np.nan


def shape_distance(a: Float[np.ndarray, "t k 2"], b: Float[np.ndarray, "t k 2"]) -> float:
    """Mean distance of points about their own mean (the field's LMD): of shape, not of place."""
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    return float(np.linalg.norm(a - b, axis=-1).mean())


def compare_faces(
    face: Float[np.ndarray, "t 68 2"],
    truth: Float[np.ndarray, "t 68 2"] | None,
    unit: float,
    pixels: float,
    sees_lids: bool,
) -> dict[str, float]:
    """Shape against the true one, if it is known, and what head and eyes do.

    The distance of faces is as that of lips, the field's F-LMD. Frames without a face (NaN) are
    left out; of fewer than three with one, their share alone is told.

    Args:
      unit: the distance of the true outer eye corners, in the points' unit.
      pixels: what the points' unit is at 256 px.
      sees_lids: the points tell when eyes are shut.
    """
    seen = np.isfinite(face[:, 0, 0])
    figures = {"faces_seen": float(seen.mean())}
    if truth is not None:
        seen &= np.isfinite(truth[:, 0, 0])
    if seen.sum() < 3:
        return figures
    if truth is not None:
        distance = shape_distance(face[seen], truth[seen])
        figures["face_landmark_distance"] = distance / unit
        figures[f"face_landmark_distance{PIXELS}"] = distance * pixels
        figures |= lip_landmark_error(face[seen], truth[seen])
    figures["head_motion"] = head_motion(face[seen])
    if np.isfinite(trembling := jitter(face[:, STEADY])):
        figures["face_jitter"] = trembling / unit
    if sees_lids:
        figures["blinks_per_minute"] = blinks_per_minute(np.asarray(eye_opening(face)))
    return figures


def lip_landmark_error(
    points: Float[np.ndarray, "t 68 2"], truth: Float[np.ndarray, "t 68 2"]
) -> dict[str, float]:
    """The lip vertex error of pictures: of the lip point that is farthest off in each frame.

    Points are about the centre of the steady ones, in mm if the true face's outer eye corners are
    90 mm apart: mean_t max_v |d|^2 and mean_t max_v |d|. What turns away from the camera is lost.
    """
    lips, true_lips = (x[:, MOUTH] - x[:, STEADY].mean(1, keepdims=True) for x in (points, truth))
    worst = np.linalg.norm(lips - true_lips, axis=-1).max(1)
    worst = worst * (CORNERS_MM / float(eye_distance(truth).mean()))
    return {
        "lip_landmark_error_mm2": float(np.square(worst).mean()),
        "lip_landmark_distance_mm": float(worst.mean()),
    }
