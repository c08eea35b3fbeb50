"""The geometry that dresses a face: eyeballs, teeth and tongue, beard, hair, skull, collar.

All parts are one mesh with one atlas of textures (synthetic_paint.py paints it).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from data_pipeline import rasteriser
from data_pipeline.face_basis import FaceBasis, load_face_basis
from data_pipeline.synthetic_looks import Hair, Looks
from data_pipeline.synthetic_skin import FACE_TILE, mouth_loop

ATLAS = (768, 1344)
HAIR_TILE = (768, 0, 576, 320)  # x, y, width, height in the atlas
BEARD_TILE = (768, 320, 256, 256)
EYE_TILE = (1024, 320, 192, 192)
TEETH_TILE = (768, 576, 384, 96)
WET_TILE = (1216, 320, 64, 64)
CLOTH_TILE = (1216, 400, 128, 128)
EYE_CAP = 1.75  # radians
SKULL_CENTRE, SKULL_RADII = np.array([0.0, 4.6, -0.1]), np.array([8.23, 10.4, 11.1])
# Rings of the mouth's cavity behind the lips' rim: cm back, room for the gums, size
TUBE = ((0, 0, 1), (0.5, 1, 1.08), (3, 0.8, 1.05), (5.5, 0, 0.4), (5.6, 0, 0.0))


class Parts(NamedTuple):
    """One mesh of everything in the picture; the first V vertices are the face basis'."""

    triangles: np.ndarray  # (F, 3) int32
    material: np.ndarray  # (F,) int32
    see_through: np.ndarray  # (F,) bool
    uv: np.ndarray  # (V', 2) float32, pixels of the atlas
    rest: np.ndarray  # (V', 3) float32, neutral positions
    turns: np.ndarray  # (V',) bool, moves with the head
    spans: dict[str, slice]  # name -> vertices


def beard_vertices(parts):
    """For each vertex of the beard's shells: the face vertex below and the height in cm."""
    span = parts.spans["beard"]
    return parts.rest[span, 0].astype(np.int64), parts.rest[span, 1]


class _Builder:
    """Collects the parts of the mesh."""

    def __init__(self):
        self.rest, self.uv, self.triangles, self.material, self.open, self.turns = (
            [],
            [],
            [],
            [],
            [],
            [],
        )
        self.spans, self.count = {}, 0

    def add(self, name, rest, uv, triangles, material, see_through=False, turns=True):
        self.spans[name] = slice(self.count, self.count + len(rest))
        self.rest.append(rest)
        self.uv.append(uv)
        self.triangles.append(triangles + self.count)
        self.material.append(np.full(len(triangles), material))
        self.open.append(np.full(len(triangles), see_through))
        self.turns.append(np.full(len(rest), turns))
        self.count += len(rest)

    def build(self) -> Parts:
        return Parts(
            np.concatenate(self.triangles).astype(np.int32),
            np.concatenate(self.material).astype(np.int32),
            np.concatenate(self.open),
            np.concatenate(self.uv).astype(np.float32),
            np.concatenate(self.rest).astype(np.float32),
            np.concatenate(self.turns),
            self.spans,
        )


def _grid(rows: int, cols: int, closed: bool = False) -> np.ndarray:
    """Triangles of a rows x cols grid of vertices; `closed` joins the last column to the first."""
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(cols if closed else cols - 1), indexing="ij")
    r, c = r.ravel(), c.ravel()
    a, b = r * cols + c, r * cols + (c + 1) % cols
    return np.concatenate([np.stack([a, a + cols, b], 1), np.stack([b, a + cols, b + cols], 1)])


def _tile_uv(tile, u, v):
    x, y, width, height = tile
    u, v = np.clip(u, 0, 1), np.clip(v, 0, 1)
    return np.stack([x + 4 + u * (width - 9), y + 4 + v * (height - 9)], -1).reshape(-1, 2)


def assemble(basis, face, eyes, looks, hair, rng) -> Parts:
    builder = _Builder()
    builder.add("face", face, basis.uv * (FACE_TILE - 9) + 4.0, basis.triangles, rasteriser.SKIN)
    for side, name in enumerate("RL"):
        builder.add(f"eye_{name}", *_eyeball(eyes[side]), rasteriser.EYE)
    _add_mouth(builder, basis, face)
    if looks.beard in ("full", "goatee", "moustache"):
        _add_beard(builder, basis, looks)
    _add_skull(builder, basis, face)
    if hair is not None:
        _add_hair(builder, basis, face, hair)
    _add_collar(builder, basis, face, rng)
    return builder.build()


def _eyeball(eye: np.ndarray):
    rows, cols = 14, 24
    angle = np.linspace(0, 1, rows)[:, None] ** 0.8 * EYE_CAP
    around = np.linspace(0, 2 * np.pi, cols, endpoint=False)[None]
    x, y = np.sin(angle) * np.cos(around), np.sin(angle) * np.sin(around)
    z = np.cos(angle) + 0 * around
    points = eye[:3] + eye[3] * np.stack([x, y, z], -1).reshape(-1, 3)
    polar = angle / EYE_CAP * 0.5
    uv = _tile_uv(EYE_TILE, 0.5 + polar * np.cos(around), 0.5 - polar * np.sin(around))
    return points, uv, _grid(rows, cols, closed=True)


def _add_mouth(builder: _Builder, basis: FaceBasis, face: np.ndarray) -> None:
    loop = mouth_loop()
    moved = face[loop].mean(0) - basis.mean[loop].mean(0)
    width = np.ptp(face[loop][:, 0]) / np.ptp(basis.mean[loop][:, 0])
    span = np.linspace(-1, 1, 25)
    arch_x, arch_z = 2.25 * np.sin(span * 1.35), 9.95 - 3.4 * (1 - np.cos(span * 1.35))

    def row(y, back, narrow=1.0):
        x = arch_x * narrow * width
        return np.stack([x, np.full_like(x, y), arch_z - back], -1)

    upper = np.stack([row(-1.4, 0.15), row(-2.4, 0.05), row(-3.1, 0.0), row(-3.68, 0.12)])
    lower = np.stack(
        [row(-5.2, 0.5, 0.9), row(-4.8, 0.4, 0.93), row(-4.3, 0.3, 0.95), row(-3.78, 0.38, 0.94)]
    )
    u = np.broadcast_to(np.linspace(0, 1, 25), (4, 25))
    v = np.broadcast_to(np.array([0, 0.35, 0.65, 1.0])[:, None], (4, 25))
    x, y, w, h = TEETH_TILE
    for name, points, half in (("upper_teeth", upper, 0), ("lower_teeth", lower, 1)):
        tile = (x, y + half * h // 2, w, h // 2)
        builder.add(
            name,
            points.reshape(-1, 3) + moved,
            _tile_uv(tile, u, v),
            _grid(4, 25),
            rasteriser.TEETH,
        )

    around, along = np.meshgrid(np.linspace(0, np.pi, 9), np.linspace(0, 1, 8), indexing="ij")
    reach = np.sqrt(np.clip(1 - along**2, 0, 1))
    tongue = np.stack(
        [
            -1.75 * np.cos(around) * (0.25 + 0.75 * reach),
            -4.75 + 0.85 * np.sin(around) * (0.3 + 0.7 * reach) - 0.12 * np.cos(2 * around),
            5.6 + 3.5 * along,
        ],
        -1,
    ).reshape(-1, 3)
    uv = _tile_uv(WET_TILE, around / np.pi, along)
    builder.add("tongue", tongue + moved, uv, _grid(9, 8), rasteriser.WET)
    rings = np.zeros((len(TUBE) * len(loop), 3))
    u = np.broadcast_to(np.linspace(0, 0.2, len(loop)), (len(TUBE), len(loop)))
    builder.add(
        "tube",
        rings,
        _tile_uv(WET_TILE, u, u),
        _grid(len(TUBE), len(loop), closed=True),
        rasteriser.WET,
    )


def beard_region(looks: Looks, position: np.ndarray) -> np.ndarray:
    """0..1 where facial hair grows on the mean face (…, 3)."""
    x, y, z = np.moveaxis(position, -1, 0)
    lip = np.sqrt((x / 2.65) ** 2 + ((y + 3.4) / 0.98) ** 2)
    clear = np.clip((lip - 1.0) / 0.12, 0, 1)
    moustache = ramp(-1.35 - y, 0.25) * ramp(3.4 - np.abs(x), 0.5) * ramp(y + 3.6, 0.5) * (z > 8)
    chin = ramp(3.0 - np.abs(x), 0.7) * ramp(-3.5 - y, 0.5) * ramp(y + 9.0, 0.6) * (z > 7)
    line = -3.6 + 0.75 * np.clip(
        np.abs(x) - 3.6, 0, None
    )  # rises from the mouth's corners to the ears
    cheeks = (
        ramp(line - y, 0.7) * ramp(y + 9.0, 0.8) * ramp(z - 2.0, 0.8) * ramp(8.0 - np.abs(x), 0.4)
    )
    region = {
        "moustache": moustache,
        "goatee": np.maximum(moustache, chin),
    }.get(looks.beard, np.maximum(np.maximum(moustache, chin), cheeks))
    return region * clear


def ramp(value, width):
    return np.clip(0.5 + value / (2 * width), 0, 1)


def _add_beard(builder: _Builder, basis: FaceBasis, looks: Looks) -> None:
    strength = beard_region(looks, basis.mean)
    inside = (strength[basis.triangles] > 0.3).all(1)
    triangles = basis.triangles[inside]
    under = np.unique(triangles)
    local = np.searchsorted(under, triangles)
    x, y, width, height = BEARD_TILE
    flat = basis.mean[under]
    turn = np.arctan2(flat[:, 0], flat[:, 2] - 2.0)
    uv = np.stack(
        [np.clip(0.47 + turn * 0.27, 0, 0.93), np.clip((2.0 - flat[:, 1]) / 12, 0, 1)], -1
    )
    uv = uv * [width - 9, height - 9] + [x + 4, y + 4]
    rest, uvs, faces = [], [], []
    for layer, lift in enumerate((0.06, 0.12, 0.18) if looks.beard == "full" else (0.05, 0.10)):
        rest.append(np.stack([under, lift * strength[under], np.zeros(len(under))], -1))
        uvs.append(uv + [7 * layer, 0])
        faces.append(local + layer * len(under))
    builder.add(
        "beard",
        np.concatenate(rest),
        np.concatenate(uvs),
        np.concatenate(faces),
        rasteriser.HAIR,
        True,
    )


HAIR_ROWS, HAIR_COLS, EQUATOR = (
    34,
    96,
    0.6,
)  # rows from the crown down; EQUATOR of them on the skull
HAIR_BOTTOM = -16.0


def _skull_radius(directions: np.ndarray) -> np.ndarray:
    """Distance (N,) from SKULL_CENTRE to the mean head's surface along unit directions (N, 3)."""
    ellipsoid = 1 / np.linalg.norm(directions / SKULL_RADII, axis=1)
    mean = load_face_basis().mean
    away = mean[(mean[:, 1] > 4.0) & (np.abs(mean[:, 0]) < 8.4)] - SKULL_CENTRE
    radius = np.linalg.norm(away, axis=1)
    distance, near = cKDTree(away / radius[:, None]).query(directions, k=6)
    weight = 1 / (distance + 0.01) ** 2
    surface = (radius[near] * weight).sum(1) / weight.sum(1)
    trust = np.clip((0.2 - distance[:, 0]) / 0.12, 0, 1)
    return ellipsoid + trust * (surface - ellipsoid)


def _hair_grid() -> tuple[np.ndarray, np.ndarray]:
    """Azimuth and row parameter (rows, cols), the seam at the back."""
    azimuth = np.linspace(-np.pi, np.pi, HAIR_COLS)
    return np.meshgrid(np.linspace(0, 1, HAIR_ROWS), azimuth, indexing="ij")[::-1]


def hair_height(azimuth: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Height y of the bare shell (no volume), by which the hairline is cut."""
    polar = np.minimum(row / EQUATOR, 1) * np.pi / 2
    on_skull = SKULL_CENTRE[1] + SKULL_RADII[1] * np.cos(polar)
    below = (row - EQUATOR) / (1 - EQUATOR)
    return np.where(
        row < EQUATOR, on_skull, SKULL_CENTRE[1] + below * (HAIR_BOTTOM - SKULL_CENTRE[1])
    )


def _hair_points(hair: Hair, layer: float) -> np.ndarray:
    """Vertices (rows, cols, 3) of one shell in the mean head's space; layer 0 skin .. 1 outside."""
    rng = np.random.default_rng(hair.seed)
    azimuth, row = _hair_grid()
    polar = np.minimum(row / EQUATOR, 1) * np.pi / 2
    direction = np.stack(
        [np.sin(azimuth) * np.sin(polar), np.cos(polar), np.cos(azimuth) * np.sin(polar)], -1
    )
    flat = direction.reshape(-1, 3)
    radius = _skull_radius(flat).reshape(azimuth.shape)
    line = np.interp(azimuth, hair.azimuth, hair.line)
    inside = hair_height(azimuth, row) - line
    rise = np.clip(inside / 2.5, 0, 1)
    rise = rise * rise * (3 - 2 * rise)
    top = np.clip(direction[..., 1], 0, 1) ** 0.7
    lift = hair.side + (hair.volume - hair.side) * top
    clumps = gaussian_filter(
        rng.normal(size=(HAIR_ROWS, HAIR_COLS)), (6 - 4 * hair.curl, 1.0), mode="wrap"
    )
    clumps = clumps / clumps.std() * (0.10 + 0.16 * hair.curl) * np.minimum(lift, 1.5)
    lift = (0.10 + lift * rise * (0.45 + 0.55 * layer)) + clumps * layer * rise
    points = SKULL_CENTRE + direction * (radius + lift)[..., None]
    below = np.clip((row - EQUATOR) / (1 - EQUATOR), 0, 1)
    points[..., 1] += below * (HAIR_BOTTOM - SKULL_CENTRE[1])
    if hair.long:  # fall outside the ears, then in towards the neck
        wide = 1 + 0.16 * np.sin(np.clip(below * 2.2, 0, 1) * np.pi / 2) - 0.10 * below
        points[..., 0] *= np.where(row > EQUATOR, wide, 1.0)
    else:
        points[..., [0, 2]] *= (1 - 0.25 * below)[..., None]
    return points


def _on_head(basis: FaceBasis, face: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) around the mean skull moved and scaled as the identity moves the scalp."""
    scalp = basis.mean[:, 1] > 6.0
    fits = [np.polyfit(basis.mean[scalp, axis], face[scalp, axis], 1) for axis in range(3)]
    return np.stack([np.polyval(fit, points[:, axis]) for axis, fit in enumerate(fits)], 1)


def _add_skull(builder: _Builder, basis: FaceBasis, face: np.ndarray) -> None:
    """The bare top and back of the head, which the face mesh leaves open."""
    rows, cols = 18, 48
    polar, around = np.meshgrid(
        np.linspace(0, 1.9, rows), np.linspace(-np.pi, np.pi, cols), indexing="ij"
    )
    direction = np.stack(
        [np.sin(around) * np.sin(polar), np.cos(polar), np.cos(around) * np.sin(polar)], -1
    )
    direction = direction.reshape(-1, 3)
    points = SKULL_CENTRE + direction * (_skull_radius(direction) - 0.3)[:, None]
    _, near = cKDTree(basis.mean).query(points)
    uv = basis.uv[near] * (FACE_TILE - 9) + 4.0
    triangles = _grid(rows, cols)
    inside_face = (points[triangles, 2].max(1) > 5.0) & (points[triangles, 1].min(1) < 9.5)
    points = _on_head(basis, face, points)
    builder.add("skull", points, uv, triangles[~inside_face], rasteriser.SKIN)


def _add_hair(builder: _Builder, basis: FaceBasis, face: np.ndarray, hair: Hair) -> None:
    x, y, width, height = HAIR_TILE
    azimuth, row = _hair_grid()
    for layer in (0, 1):
        points = _on_head(basis, face, _hair_points(hair, float(layer)).reshape(-1, 3))
        tile = (x, y + layer * height // 2, width, height // 2)
        uv = _tile_uv(tile, (azimuth + np.pi) / (2 * np.pi), row)
        builder.add(
            f"hair_{layer}",
            points,
            uv,
            _grid(HAIR_ROWS, HAIR_COLS),
            rasteriser.HAIR,
            see_through=True,
        )


def without_hidden(parts: Parts, coverage: np.ndarray) -> Parts:
    """Drop hair that is transparent or behind the skull; mark what is opaque throughout."""
    corners = parts.uv[parts.triangles]
    centre = corners.mean(1, keepdims=True)
    probes = np.concatenate(
        [corners, centre, 0.5 * (corners + centre), 0.5 * (corners + corners[:, [1, 2, 0]])], 1
    )
    shown = coverage[probes[..., 1].astype(int), probes[..., 0].astype(int)] > 127
    hair = parts.see_through
    behind = (parts.rest[parts.triangles, 2].max(1) < -4.0) & (
        parts.rest[parts.triangles, 1].min(1) > 0
    )
    kept = ~hair | (shown.any(1) & ~behind)
    return parts._replace(
        triangles=np.ascontiguousarray(parts.triangles[kept]),
        material=parts.material[kept],
        see_through=(hair & ~shown.all(1))[kept],
    )


def _add_collar(builder: _Builder, basis: FaceBasis, face: np.ndarray, rng) -> None:
    neck = face[basis.mean[:, 1] < -10]
    middle = np.array([neck[:, 0].mean(), 0, 1.2])
    top = rng.uniform(-13.0, -10.8)
    rows = [(6.6, 5.6, 0.0), (7.2, 6.2, 0.0), (9.5, 7.5, -1.6), (16, 9.5, -4.0), (26, 11, -9.0)]
    around = np.linspace(-np.pi, np.pi, 41)
    points = [
        np.stack([rx * np.sin(around), np.full(41, top + dy), rz * np.cos(around)], -1) + middle
        for rx, rz, dy in rows
    ]
    points = np.stack(points)
    points[0, :, 1] -= 0.6
    points[:, :, 1] -= (
        0.9 * np.cos(around) * np.array([1, 1, 0.6, 0.2, 0])[:, None]
    )  # lower in front
    u = np.broadcast_to((around + np.pi) / (2 * np.pi), (5, 41))
    v = np.broadcast_to(np.linspace(0, 1, 5)[:, None], (5, 41))
    builder.add(
        "collar", points.reshape(-1, 3), _tile_uv(CLOTH_TILE, u, v), _grid(5, 41), rasteriser.CLOTH,
        turns=False,
    )  # fmt: skip
