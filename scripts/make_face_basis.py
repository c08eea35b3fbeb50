"""Reduce the ICT-FaceKit light model to the small face basis that ships with the project.

    python scripts/make_face_basis.py ict_facekit_face9409_f16.npz OUT/face_basis.npz

SRC holds `neutral` (9409, 3) cm, `expr` (57, 9409, 3), `expr_names`, `ident` (100, 9409, 3) and
`quads`. The vertices of the result are a subset of the source's (half-edge collapse), so every mode
stays exact up to quantisation. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import heapq
import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

# iBUG-68 on the full ICT topology (README of ICT-FaceKit).
LANDMARKS = np.array(
    [1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088]
    + [3443, 268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140]
    + [2075, 1147, 4269, 3360, 1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725]
    + [3732, 5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841, 5702, 5711, 5533]
    + [6216, 6207, 6470, 5517, 5966]
)
OUTER_LIPS, EYES = slice(48, 60), slice(36, 48)
NOSTRILS = (31, 35)
IDENTITY_MODES = 40
NECK_TOP = np.array([0.0, -4.0, 0.0])  # cm, where the head turns
RIGID_NAMES = ("headPitch", "headYaw", "headRoll", "headX", "headY", "headZ")
PROCEDURAL_NAME = "nostrilFlare"


def boundary_edges(triangles: np.ndarray) -> np.ndarray:
    """Directed edges (E, 2) that belong to one triangle only."""
    edges = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    _, inverse, counts = np.unique(
        np.sort(edges, 1), axis=0, return_inverse=True, return_counts=True
    )
    return edges[counts[inverse] == 1]


def boundary_loops(triangles: np.ndarray) -> list[list[int]]:
    """Ordered loops of vertices around the outline and the holes."""
    following = {int(a): int(b) for a, b in boundary_edges(triangles)}
    loops = []
    while following:
        start = min(following)
        loop, vertex = [start], following.pop(start)
        while vertex != start:
            loop.append(vertex)
            vertex = following.pop(vertex)
        loops.append(loop)
    return loops


def detail_weight(points: np.ndarray) -> np.ndarray:
    """How dear a vertex is, (V,): lips and lids dense, neck, ears and scalp coarse."""
    marks = points[LANDMARKS]
    weight = np.full(len(points), 1.5)
    weight[np.abs(points[:, 0]) > 7.0] = 0.08
    weight[points[:, 1] < -9.0] = 0.06
    weight[points[:, 1] > 8.5] = 0.3
    near = [(marks, 0.9, 2.0), (marks[NOSTRILS, :], 1.4, 3.0)]
    near += [(marks[EYES], 1.0, 60.0), (marks[48:], 1.0, 60.0)]
    for centres, radius, value in near:
        distance, _ = cKDTree(centres).query(points)
        weight = np.maximum(weight, value * np.exp(-((distance / radius) ** 2)))
    return weight


class Decimator:
    """Half-edge collapse by quadric error; a collapse moves no vertex, it only removes one."""

    def __init__(self, points, triangles, weight, keep):
        self.points, self.weight, self.keep = points, weight, keep
        self.faces = {i: tuple(int(v) for v in f) for i, f in enumerate(triangles)}
        self.around = [set() for _ in points]
        for i, face in self.faces.items():
            for vertex in face:
                self.around[vertex].add(i)
        self.quadrics = np.zeros((len(points), 4, 4))
        for face in triangles:
            a, b, c = points[face]
            normal = np.cross(b - a, c - a)
            length = np.linalg.norm(normal)
            plane = np.append(normal, -normal @ a) / max(length, 1e-12)
            self.quadrics[face] += np.outer(plane, plane) * length
        self.border = set()
        for a, b in boundary_edges(triangles):
            self.border |= {int(a), int(b)}

    def neighbours(self, vertex: int) -> set[int]:
        return {v for f in self.around[vertex] for v in self.faces[f]} - {vertex}

    def cost(self, gone: int, kept: int) -> float:
        target = np.append(self.points[kept], 1.0)
        error = target @ self.quadrics[gone] @ target
        length = np.sum((self.points[gone] - self.points[kept]) ** 2)
        return float((abs(error) + 0.02 * length**1.5) * self.weight[gone])

    def allowed(self, gone: int, kept: int) -> bool:
        if gone in self.keep or gone in self.border:
            return False
        shared = self.neighbours(gone) & self.neighbours(kept)
        if len(shared) != 2:
            return False
        for index in self.around[gone]:
            face = self.faces[index]
            if kept in face:
                continue
            corners = self.points[list(face)]
            moved = self.points[[kept if v == gone else v for v in face]]
            before = np.cross(corners[1] - corners[0], corners[2] - corners[0])
            after = np.cross(moved[1] - moved[0], moved[2] - moved[0])
            sides = np.linalg.norm(moved - np.roll(moved, 1, 0), axis=1)
            if before @ after < 0.3 * np.linalg.norm(before) * np.linalg.norm(after):
                return False
            if np.linalg.norm(after) < 0.08 * sides.max() ** 2:
                return False
        return True

    def collapse(self, gone: int, kept: int) -> None:
        for index in list(self.around[gone]):
            face = self.faces[index]
            if kept in face:
                for vertex in face:
                    self.around[vertex].discard(index)
                del self.faces[index]
            else:
                self.faces[index] = tuple(kept if v == gone else v for v in face)
                self.around[kept].add(index)
        self.around[gone].clear()
        self.quadrics[kept] += self.quadrics[gone]

    def run(self, target: int) -> np.ndarray:
        """Triangles (F, 3), in source indices, once `target` vertices are left."""
        queue = []

        def push(vertex):
            if not self.around[vertex] or vertex in self.keep or vertex in self.border:
                return
            options = [(self.cost(vertex, n), n) for n in sorted(self.neighbours(vertex))]
            for cost, kept in options:
                heapq.heappush(queue, (cost, vertex, kept))

        for vertex in range(len(self.points)):
            push(vertex)
        alive = sum(bool(a) for a in self.around)
        while alive > target and queue:
            cost, gone, kept = heapq.heappop(queue)
            if not self.around[gone] or kept not in self.neighbours(gone):
                continue
            fresh = self.cost(gone, kept)
            if fresh > cost * 1.0001:
                heapq.heappush(queue, (fresh, gone, kept))
                continue
            if not self.allowed(gone, kept):
                continue
            self.collapse(gone, kept)
            alive -= 1
            for vertex in sorted(self.neighbours(kept) | {kept}):
                push(vertex)
        return np.array([self.faces[i] for i in sorted(self.faces)])


def fill_holes(triangles: np.ndarray, count: int, loops: list[list[int]]) -> np.ndarray:
    """Close each loop with a fan around a new vertex; the embedding needs a disc."""
    fans = []
    for i, loop in enumerate(loops):
        centre = count + i
        fans += [(b, a, centre) for a, b in zip(loop, loop[1:] + loop[:1], strict=True)]
    return np.concatenate([triangles, np.array(fans)])


def unwrap(points: np.ndarray, triangles: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """UV (V, 2) in [0, 1], v down, injective: Tutte's embedding with positive weights.

    The weights are relaxed towards wanted edge lengths (the 3-D length, longer near the mouth);
    while they stay positive and the outline convex, no triangle can flip (Tutte 1963).
    """
    loops = sorted(boundary_loops(triangles), key=len)
    height = [np.ptp(points[loop][:, 1]) for loop in loops]
    outline = loops.pop(int(np.argmax(height)))
    centres = np.array([points[loop].mean(0) for loop in loops])
    everything = np.concatenate([points, centres])
    closed = fill_holes(triangles, len(points), loops)
    edges = np.unique(np.sort(closed[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), 1), axis=0)

    middle = everything[edges].mean(1)
    distance, _ = cKDTree(mouth).query(middle)
    zoom = 0.55 + 1.9 * np.exp(-((distance / 2.2) ** 2))
    zoom *= np.where(middle[:, 1] < -9.0, 0.5, 1.0)
    wanted = np.linalg.norm(everything[edges[:, 0]] - everything[edges[:, 1]], axis=1) * zoom

    ring = points[outline]
    step = np.linalg.norm(ring - np.roll(ring, -1, 0), axis=1)
    top = int(np.argmax(ring[:, 1] - 10 * np.abs(ring[:, 0])))
    step, outline = np.roll(step, -top), np.roll(outline, -top)
    turn = np.concatenate([[0.0], np.cumsum(step)[:-1]]) / step.sum()
    if points[outline[len(outline) // 4], 0] < 0:
        turn = -turn
    angle = np.pi / 2 - 2 * np.pi * turn
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    radius = (np.abs(circle) ** 3).sum(1) ** (-1 / 3)  # a superellipse: convex, fills the square
    flat = np.zeros((len(everything), 2))
    flat[outline] = circle * radius[:, None]
    inner = np.setdiff1d(np.arange(len(everything)), outline)

    weights = 1.0 / np.maximum(wanted, 1e-3)
    for _ in range(40):
        row, col = edges.T
        size = len(everything)
        links = coo_matrix((weights, (row, col)), shape=(size, size)).tocsr()
        links = links + links.T
        diagonal = np.asarray(links.sum(1)).ravel()
        system = coo_matrix((diagonal[inner], (range(len(inner)),) * 2)) - links[inner][:, inner]
        flat[inner] = splu(system.tocsc()).solve(links[inner][:, outline] @ flat[outline])
        length = np.linalg.norm(flat[row] - flat[col], axis=1)
        ratio = (length / length.sum()) / (wanted / wanted.sum())
        weights = weights * np.clip(ratio, 0.2, 5.0) ** 0.5
        weights = np.clip(weights / weights.mean(), 1e-4, 1e4)
    uv = 0.5 + 0.495 * flat[: len(points)]
    uv[:, 1] = 1.0 - uv[:, 1]
    if np.corrcoef(uv[:, 0], points[:, 0])[0, 1] < 0:
        uv[:, 0] = 1.0 - uv[:, 0]
    return uv


def magnified(uv: np.ndarray, centre: np.ndarray, radius: float, power: float) -> np.ndarray:
    """A radial zoom, r -> radius (r / radius)^power inside the circle, the identity outside."""
    away = uv - centre
    ratio = np.linalg.norm(away, axis=1, keepdims=True) / radius
    return centre + away * np.where(ratio < 1, np.maximum(ratio, 1e-6) ** (power - 1), 1)


def flipped(uv: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Indices of the triangles whose orientation differs from the majority's, or with no area."""
    a, b = uv[triangles[:, 1]] - uv[triangles[:, 0]], uv[triangles[:, 2]] - uv[triangles[:, 0]]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return np.flatnonzero(area * np.sign(np.median(area)) <= 1e-9)


def roomy_layout(points: np.ndarray, triangles: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """UV (V, 2): the unwrapped mesh with the eyes and, most of all, the mouth enlarged.

    The zoom can turn a few slivers over; their corners are relaxed until none is left.
    """
    uv = unwrap(points, triangles, points[landmarks[48:]])
    for eye in (landmarks[36:42], landmarks[42:48]):
        uv = magnified(uv, uv[eye].mean(0), 0.11, 0.6)
    mouth = uv[landmarks[48:]].mean(0)
    uv = magnified(uv, mouth, 0.97 * min(mouth.min(), (1 - mouth).min()), 0.48)

    edges = np.unique(np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), 1), axis=0)
    links = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(points),) * 2).tocsr()
    links = links + links.T
    fixed = np.unique(boundary_edges(triangles))
    for _ in range(200):
        loose = np.setdiff1d(triangles[flipped(uv, triangles)], fixed)
        if not len(loose):
            break
        uv[loose] = (links[loose] @ uv) / np.asarray(links[loose].sum(1))
    if len(flipped(uv, triangles)):
        raise RuntimeError("the UV map is not injective; change the zoom")
    return uv


def rigid_modes(mean: np.ndarray) -> np.ndarray:
    """Derivatives (6, V, 3) of the head's motion: pitch, yaw, roll in radians, x, y, z in cm."""
    arms = mean - NECK_TOP
    turns = [np.cross(axis, arms) for axis in np.eye(3)]
    shifts = [np.broadcast_to(axis, mean.shape) for axis in np.eye(3)]
    return np.stack(turns + shifts)


def nostril_flare(mean: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The wings of the nose move 0.25 cm outwards and a little up (1 cm wide bumps)."""
    mode = np.zeros_like(mean)
    for mark in NOSTRILS:
        wing = mean[landmarks[mark]] + np.array([np.sign(mean[landmarks[mark], 0]) * 0.5, 0.3, 0])
        bump = np.exp(-np.sum((mean - wing) ** 2, 1) / 0.7**2)
        mode += bump[:, None] * np.array([np.sign(wing[0]) * 0.25, 0.08, 0.05])
    return mode


def lip_vertices(mean: np.ndarray, landmarks: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Indices of the lips: inside the outline of landmarks 48-59 seen from the front."""
    outline = mean[landmarks[OUTER_LIPS]][:, :2].astype(np.float32)
    distance, _ = cKDTree(mean[landmarks[48:]]).query(mean)
    inside = np.array(
        [cv2.pointPolygonTest(outline, (float(x), float(y)), True) for x, y, _ in mean]
    )
    return np.flatnonzero((inside > -0.08) & (distance < 1.5) & (mean[:, 2] > 8.0))


def quantised(name: str, values: np.ndarray, axes: tuple[int, ...], dtype=np.int16) -> dict:
    """Integers and one scale per mode."""
    limit = np.iinfo(dtype).max
    scale = np.maximum(np.abs(values).max(axes, keepdims=True), 1e-9) / limit
    return {name: np.round(values / scale).astype(dtype), f"{name}_scale": scale.astype(np.float32)}


def save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Like numpy.savez_compressed, with a fixed date so that the bytes repeat."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data.getvalue())


def reduce(source: dict, vertices: int) -> dict[str, np.ndarray]:
    """All arrays of the small basis from those of the ICT model."""
    points = source["neutral"].astype(np.float64)
    quads = source["quads"]
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    decimator = Decimator(points, triangles, detail_weight(points), set(LANDMARKS.tolist()))
    faces = decimator.run(vertices)
    kept = np.unique(faces)
    triangles = np.searchsorted(kept, faces)
    landmarks = np.searchsorted(kept, LANDMARKS)
    mean = points[kept]

    expression = source["expr"].astype(np.float64)[:, kept]
    expression = np.concatenate(
        [expression, rigid_modes(mean), nostril_flare(mean, landmarks)[None]]
    )
    names = [*(str(n) for n in source["expr_names"]), *RIGID_NAMES, PROCEDURAL_NAME]
    identity = source["ident"].astype(np.float64)[:IDENTITY_MODES, kept]
    uv = roomy_layout(mean, triangles, landmarks)
    return {
        "mean": mean.astype(np.float32),
        "triangles": triangles.astype(np.int16),
        "uv": uv.astype(np.float32),
        **quantised("expression", expression.transpose(1, 2, 0), (0, 1)),
        "names": np.array(names),
        **quantised("identity", identity.transpose(1, 2, 0), (0, 1)),
        "landmark_vertices": landmarks.astype(np.int32),
        "lip_vertices": lip_vertices(mean, landmarks, triangles).astype(np.int32),
        "neck_top": NECK_TOP.astype(np.float32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vertices", type=int, default=3000)
    args = parser.parse_args()
    with np.load(args.source) as source:
        arrays = reduce(dict(source), args.vertices)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_npz(args.out, arrays)
    print(
        f"{args.out}: {len(arrays['mean'])} vertices, {len(arrays['triangles'])} triangles, "
        f"{len(arrays['lip_vertices'])} lip vertices, {args.out.stat().st_size / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
