"""The skin of the mean face: what the people of the synthetic world have in common.

Where the mesh has its holes, how texels lie in space, and the front-view canvas that brows and
lines are drawn on.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from data_pipeline import rasteriser
from data_pipeline.face_basis import FaceBasis, load_face_basis

FACE_TILE = 768
PIXELS_PER_CM = 40  # of the front-view canvas that brows and lines are drawn on
CANVAS_HALF = 9.5  # cm


def _loops() -> list[np.ndarray]:
    return _holes(load_face_basis().triangles.tobytes())


@functools.cache
def _holes(triangle_bytes: bytes) -> list[np.ndarray]:
    """Ordered vertices around the outline and the holes of the face mesh."""
    triangles = np.frombuffer(triangle_bytes, np.int32).reshape(-1, 3)
    edges = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    _, inverse, counts = np.unique(
        np.sort(edges, 1), axis=0, return_inverse=True, return_counts=True
    )
    following = {int(a): int(b) for a, b in edges[counts[inverse] == 1]}
    loops = []
    while following:
        start = min(following)
        loop, vertex = [start], following.pop(start)
        while vertex != start:
            loop.append(vertex)
            vertex = following.pop(vertex)
        loops.append(np.array(loop))
    return loops


def _loop_near(point) -> np.ndarray:
    mean = load_face_basis().mean
    return min(_loops(), key=lambda loop: np.linalg.norm(mean[loop].mean(0) - point))


@functools.cache
def mouth_loop() -> np.ndarray:
    return _loop_near(np.array([0.0, -3.4, 10.3]))


@functools.cache
def eye_loop(side: int) -> np.ndarray:
    return _loop_near(np.array([3.17 if side else -3.17, 3.5, 9.1]))


class SkinMap(NamedTuple):
    """Where each texel of the face tile lies on the mean face, and how far from its features."""

    position: np.ndarray  # (S, S, 3) float32 cm
    lips: np.ndarray  # (S, S) 0..1
    lip_depth: np.ndarray  # (S, S) cm behind the lips' front, 0 outside
    lid: np.ndarray  # (S, S) cm to the nearest lid's edge
    ear: np.ndarray  # (S, S) 0..1


@functools.cache
def skin_map() -> SkinMap:
    basis = load_face_basis()
    size = FACE_TILE
    flat = np.concatenate([basis.uv * (size - 9) + 4.0, np.zeros((len(basis.uv), 1))], 1).astype(
        np.float32
    )
    depth = np.full((size, size), rasteriser.FAR, np.float32)
    index = np.full((size, size), -1, np.int32)
    nothing = np.zeros(len(basis.triangles), bool)
    blank = np.zeros((1, 1), np.uint8)
    rasteriser.draw(flat, basis.triangles, nothing, flat[:, :2], blank, depth, index)
    rows, cols = np.nonzero(index >= 0)
    corners = basis.triangles[index[rows, cols]]
    a, b, c = (flat[corners[:, k], :2].astype(np.float64) for k in range(3))
    p = np.stack([cols + 0.5, rows + 0.5], 1) - a
    b, c = b - a, c - a
    area = b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0]
    u = (p[:, 0] * c[:, 1] - p[:, 1] * c[:, 0]) / area
    v = (p[:, 1] * b[:, 0] - p[:, 0] * b[:, 1]) / area
    weights = np.stack([1 - u - v, u, v], 1)[..., None]
    position = np.zeros((size, size, 3), np.float32)
    position[rows, cols] = (basis.mean[corners] * weights).sum(1)
    nearest = distance_transform_edt(index < 0, return_distances=False, return_indices=True)
    position = position[tuple(nearest)]
    return _with_features(basis, position)


def _with_features(basis: FaceBasis, position: np.ndarray) -> SkinMap:
    mean, marks = basis.mean, basis.landmark_vertices
    flat = position.reshape(-1, 3)
    lids = np.concatenate([mean[eye_loop(side)] for side in (0, 1)])
    lid, _ = cKDTree(_dense(lids)).query(flat, distance_upper_bound=3.0)
    outline = _smooth_outline(mean[marks[48:60]][:, :2])
    canvas = np.zeros((760, 760), np.uint8)
    cv2.fillPoly(canvas, [on_canvas(outline).astype(np.int32)], 255)
    inside = distance_transform_edt(canvas > 0) - distance_transform_edt(canvas == 0)
    signed = from_canvas(inside.astype(np.float32) / PIXELS_PER_CM, position)
    front = position[..., 2] > 8.5
    lips = np.clip(0.5 + signed / 0.14, 0, 1) * front
    rim, _ = cKDTree(_dense(mean[mouth_loop()])).query(flat, distance_upper_bound=3.0)
    lip_depth = np.clip(0.9 - rim.reshape(lips.shape), 0, 1) * lips
    ear = np.clip((np.abs(position[..., 0]) - 7.6) / 0.6, 0, 1) * (np.abs(position[..., 1]) < 4.5)
    shape = position.shape[:2]
    return SkinMap(position, lips, lip_depth, np.minimum(lid, 3.0).reshape(shape), ear)


def _dense(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, 0.5 * (points + np.roll(points, -1, 0))])


def _smooth_outline(points: np.ndarray) -> np.ndarray:
    """A closed Catmull-Rom curve through the points."""
    p0, p1 = np.roll(points, 1, 0), points
    p2, p3 = np.roll(points, -1, 0), np.roll(points, -2, 0)
    t = np.linspace(0, 1, 12, endpoint=False)[:, None, None]
    curve = p1 + 0.5 * t * (
        p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * p1 - 3 * p2 + p3 - p0))
    )
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def on_canvas(points: np.ndarray) -> np.ndarray:
    """Front view (…, 2) cm -> pixels of the 760x760 canvas."""
    return (
        np.stack([points[..., 0] + CANVAS_HALF, CANVAS_HALF - points[..., 1]], -1) * PIXELS_PER_CM
    )


def from_canvas(canvas: np.ndarray, position: np.ndarray) -> np.ndarray:
    """What the front-view canvas shows at each texel."""
    where = on_canvas(position[..., :2]).astype(np.float32) - 0.5
    return cv2.remap(
        canvas, where[..., 0], where[..., 1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE
    )
