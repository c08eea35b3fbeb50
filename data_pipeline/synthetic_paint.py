"""Paints a person's atlas: skin, brows, eyes, teeth, hair, beard, cloth; and a background."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from data_pipeline.face_basis import load_face_basis
from data_pipeline.synthetic_looks import Hair, Looks
from data_pipeline.synthetic_parts import (
    ATLAS,
    BEARD_TILE,
    CLOTH_TILE,
    EQUATOR,
    EYE_CAP,
    EYE_TILE,
    HAIR_TILE,
    SKULL_CENTRE,
    TEETH_TILE,
    WET_TILE,
    beard_region,
    hair_height,
    ramp,
)
from data_pipeline.synthetic_skin import FACE_TILE, from_canvas, on_canvas, skin_map

IRIS_ANGLE = 0.44  # radians


def _noise(rng, shape, sigma) -> np.ndarray:
    """Smooth noise of unit deviation."""
    step = max(int(min(np.atleast_1d(sigma)) / 2), 1)
    small = [-(-n // step) + 1 for n in shape]
    field = gaussian_filter(rng.normal(size=small), np.asarray(sigma) / step, mode="wrap")
    field = zoom(field, step, order=1) if step > 1 else field
    field = field[: shape[0], : shape[1]]
    return field / field.std()


def paint_atlas(looks: Looks, hair: Hair | None, rng) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    atlas = np.zeros((*ATLAS, 4), np.float32)
    coverage = np.full(ATLAS, 255, np.uint8)

    def put(tile, picture, cover=None):
        x, y, width, height = tile
        atlas[y : y + height, x : x + width, : picture.shape[-1]] = picture
        if cover is not None:
            coverage[y : y + height, x : x + width] = cover

    put((0, 0, FACE_TILE, FACE_TILE), _paint_skin(looks, hair, rng))
    put(EYE_TILE, _paint_eye(looks, rng))
    put(TEETH_TILE, _paint_teeth(looks, rng))
    put(WET_TILE, _paint_wet(rng))
    put(CLOTH_TILE, _paint_cloth(rng))
    put(BEARD_TILE, *_paint_beard(looks, rng))
    if hair is not None:
        put(HAIR_TILE, *_paint_hair(looks, hair, rng))
    atlas = np.clip(atlas, 0, 1)
    atlas[..., :3] = atlas[..., :3] ** 2.2
    height, width = ATLAS
    levels = [
        cv2.resize(atlas, (width >> k, height >> k), interpolation=cv2.INTER_AREA) for k in range(3)
    ]
    return tuple(levels), coverage


def _paint_skin(looks: Looks, hair: Hair | None, rng) -> np.ndarray:
    """(S, S, 4) sRGB and gloss of the face tile."""
    skin = skin_map()
    x, y, z = np.moveaxis(skin.position, -1, 0)
    shape = x.shape
    colour = np.broadcast_to(looks.skin, (*shape, 3)).astype(np.float32).copy()
    colour *= (1 + 0.020 * _noise(rng, shape, 40) + 0.010 * _noise(rng, shape, 8))[..., None]
    colour *= (1 + 0.012 * _noise(rng, shape, 1.2) * (y > -9))[..., None]

    def bump(cx, cy, rx, ry):
        return np.exp(-(((np.abs(x) - cx) / rx) ** 2) - ((y - cy) / ry) ** 2) * (z > 3)

    blush = rng.uniform(0.3, 1.0) + 0.5 * looks.make_up
    red = (
        0.55 * blush * bump(4.2, -0.3, 2.0, 1.6)
        + 0.5 * bump(0.0, 0.6, 1.2, 1.2)
        + 0.25 * bump(0, -6.6, 1.8, 1.0)
    )
    red = red + 0.6 * skin.ear + 0.12 * _noise(rng, shape, 25)
    colour *= 1 + red[..., None] * np.array([0.02, -0.085, -0.075])
    socket = np.exp(-((skin.lid / 0.75) ** 2))
    tired = rng.uniform(0.05, 0.16) + 0.10 * looks.age
    below = bump(3.1, 2.3, 1.2, 0.55)
    colour *= 1 - (0.6 * tired * socket + tired * below)[..., None] * np.array([0.8, 1.1, 0.9])

    if looks.freckles:
        spots = _noise(rng, shape, 1.6)
        where = np.clip(bump(3.2, 0.8, 2.6, 1.8) + bump(0, 1.5, 1.2, 1.5) + 0.25, 0, 1)
        colour *= 1 - (looks.freckles * 0.30 * where * np.clip(spots - 1.3, 0, 1))[
            ..., None
        ] * np.array([0.7, 1, 1.1])
    for _ in range(rng.integers(0, 4)):  # moles
        spot = np.array([rng.uniform(-6, 6), rng.uniform(-6, 7)])
        mole = np.exp(-(((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 0.09**2)) * (z > 5)
        colour *= 1 - 0.55 * mole[..., None]
    _paint_lines(colour, looks, rng)

    if looks.make_up:
        shadow = np.array([[0.45, 0.30, 0.28], [0.40, 0.33, 0.42], [0.35, 0.28, 0.25]])[
            rng.integers(3)
        ]
        mask = np.exp(-((skin.lid / 0.5) ** 2)) * (y > 3.4) * 0.45 * looks.make_up
        colour += mask[..., None] * (shadow * looks.skin.mean() * 1.5 - colour)
    lash = np.exp(-((np.maximum(skin.lid - 0.10, 0) / 0.075) ** 2)) * np.where(y > 3.35, 1.0, 0.45)
    lash *= 0.80 + 0.2 * looks.make_up
    dark = np.array([0.09, 0.065, 0.055])
    colour += (lash * 0.85)[..., None] * (dark - colour)
    rim = np.exp(-((skin.lid / 0.06) ** 2))[..., None] * (y < 3.3)[..., None]
    colour += 0.6 * rim * (looks.skin * np.array([0.9, 0.66, 0.62]) - colour)

    lips = skin.lips[..., None]
    grain = 1 + 0.03 * _noise(rng, shape, (7, 1.2))[..., None]
    line = np.clip(1 - skin.lip_depth * 0.5, 0.5, 1)[..., None]
    colour += 0.92 * lips * (looks.lip_colour * grain * line - colour)

    strokes = from_canvas(_brow_canvas(looks, rng), skin.position) * (z > 5)
    colour += (0.92 * strokes)[..., None] * (
        looks.brow * (1 + 0.1 * _noise(rng, shape, 1.0))[..., None] - colour
    )
    if looks.beard:
        region = beard_region(looks, skin.position)
        grain = np.clip(0.55 + 0.35 * _noise(rng, shape, 0.9), 0, 1)
        depth = 0.42 if looks.beard == "stubble" else 0.85
        colour += (depth * region * grain)[..., None] * (looks.brow * 0.9 - colour)
    if hair is not None:
        azimuth = np.arctan2(x, z - SKULL_CENTRE[2])
        edge = y - np.interp(azimuth, hair.azimuth, hair.line) + 0.35 * _noise(rng, shape, (8, 1.5))
        scalp = ramp(edge - 0.1, 0.6) * (y < hair.top) * (1 - skin.ear) * (y > -1)
        colour += (0.9 * scalp)[..., None] * (
            looks.hair * (0.7 + 0.15 * _noise(rng, shape, (5, 1.0))[..., None]) - colour
        )

    gloss = (
        0.34
        + 0.25 * bump(0, 1.0, 1.0, 3.0)
        + 0.15 * bump(0, 7.5, 3.5, 1.6)
        + 0.25 * bump(0, -6.6, 1.2, 1.0)
    )
    gloss = gloss * (1 + 0.15 * _noise(rng, shape, 1.2)) * (1 - 0.9 * strokes)
    gloss += skin.lips * (0.30 + 0.35 * looks.make_up)
    return np.concatenate([np.clip(colour, 0.01, 1), np.clip(gloss, 0, 1)[..., None]], -1)


def _paint_lines(colour: np.ndarray, looks: Looks, rng) -> None:
    """Wrinkles: soft dark lines from the nose to the mouth, at the eyes and on the forehead."""
    canvas = np.zeros((760, 760), np.float32)

    def line(points, strength, width):
        curve = on_canvas(np.array(points, np.float64))
        t = np.linspace(0, 1, 30)[:, None]
        curve = (1 - t) ** 2 * curve[0] + 2 * t * (1 - t) * curve[1] + t**2 * curve[2]
        layer = np.zeros_like(canvas)
        cv2.polylines(
            layer, [np.round(curve * 16).astype(np.int32)], False, strength, width, cv2.LINE_AA, 4
        )
        np.maximum(canvas, layer, out=canvas)

    age = looks.age
    for side in (-1, 1):
        line([(side * 1.9, -0.2), (side * 3.2, -1.6), (side * 3.3, -3.4)], 0.16 + 0.5 * age, 4)
        line([(side * 2.0, 2.6), (side * 3.0, 2.15), (side * 4.2, 2.6)], 0.10 + 0.4 * age, 3)
        for k in range(3):
            line(
                [
                    (side * 5.0, 3.5 - 0.3 * k),
                    (side * 5.5, 3.5 - 0.4 * k),
                    (side * 6.0, 3.6 - 0.6 * k),
                ],
                0.5 * age,
                2,
            )
    for k in range(3):
        rise = rng.uniform(-0.2, 0.2, 3)
        line(
            [
                (-3.4, 7.4 + k * 0.75 + rise[0]),
                (0, 7.9 + k * 0.75 + rise[1]),
                (3.4, 7.4 + k * 0.75 + rise[2]),
            ],
            0.45 * age,
            3,
        )
    for side in (-1, 1):
        line([(side * 0.45, 5.0), (side * 0.6, 5.6), (side * 0.5, 6.1)], 0.45 * age, 3)
    canvas = gaussian_filter(canvas, 2.5)
    skin = skin_map()
    dark = from_canvas(canvas, skin.position) * (skin.position[..., 2] > 5)
    colour *= 1 - 0.42 * dark[..., None] * np.array([0.8, 1.05, 1.1], np.float32)


def _brow_canvas(looks: Looks, rng) -> np.ndarray:
    """Front-view canvas with the brows drawn hair by hair, 0..1."""
    basis = load_face_basis()
    canvas = np.zeros((760, 760), np.uint8)
    thick = rng.uniform(0.28, 0.48) if looks.feminine else rng.uniform(0.42, 0.75)
    arch = rng.uniform(-0.15, 0.25)
    hairs = int(rng.uniform(170, 380))
    drop = rng.uniform(0.25, 0.5)
    for marks, side in (
        (basis.landmark_vertices[17:22], -1),
        (basis.landmark_vertices[22:27][::-1], 1),
    ):
        curve = basis.mean[marks][::-1][:, :2].astype(np.float64)  # from the nose outwards
        curve[:, 1] -= drop
        curve[2:4, 1] += arch
        t = rng.uniform(0, 1, hairs) ** 0.9
        across = rng.uniform(-1, 1, hairs)
        width = thick * np.interp(t, [0, 0.15, 0.6, 1], [0.75, 1, 0.8, 0.22])
        base = np.stack([np.interp(t * 4, range(5), curve[:, k]) for k in (0, 1)], -1)
        base[:, 1] += across * width * 0.5
        lean = (
            np.interp(t, [0, 0.3, 1], [1.25, 0.65, 0.0]) - 0.5 * across + rng.normal(0, 0.15, hairs)
        )
        length = rng.uniform(0.3, 0.6, hairs)
        tip = base + length[:, None] * np.stack([side * np.cos(lean), np.sin(lean)], -1)
        for a, b in zip(on_canvas(base), on_canvas(tip), strict=True):
            start, end = (
                np.round(a * 16).astype(int).tolist(),
                np.round(b * 16).astype(int).tolist(),
            )
            cv2.line(canvas, start, end, int(rng.uniform(150, 255)), 1, cv2.LINE_AA, 4)
    solid = gaussian_filter(canvas.astype(np.float32) / 255, 1.0)
    soft = gaussian_filter(solid, 5)
    return np.clip(1.0 * solid + 0.5 * soft, 0, 0.88)


def _paint_eye(looks: Looks, rng) -> np.ndarray:
    _, _, size, _ = EYE_TILE
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    radius, angle = np.hypot(x, y) * EYE_CAP, np.arctan2(y, x)
    white = np.array([0.90, 0.875, 0.86]) * (1 - 0.05 * looks.tone / 6)
    colour = np.broadcast_to(white, (size, size, 3)).copy()
    edge = np.clip((radius - 0.55) / 0.6, 0, 1)
    colour *= 1 - edge[..., None] * np.array([0.06, 0.20, 0.20])
    veins = np.clip(_noise(rng, (size, size), (1.2, 4)) - 1.2, 0, 1) * edge
    colour *= 1 - 0.35 * veins[..., None] * np.array([0.1, 1, 1])
    spokes = np.interp(angle, np.linspace(-np.pi, np.pi, 121), rng.normal(0, 1, 121))
    inner = radius / IRIS_ANGLE
    iris = (
        looks.iris * (0.95 + 0.18 * spokes + 0.35 * np.clip(0.75 - inner, 0, 1))[..., None] * 1.15
    )
    iris *= (1 - 0.65 * np.clip((inner - 0.78) / 0.22, 0, 1))[..., None]
    colour += np.clip((1 - inner) / 0.10 + 0.5, 0, 1)[..., None] * (iris - colour)
    pupil = np.clip((0.40 - inner) / 0.08 + 0.5, 0, 1)
    colour += pupil[..., None] * (np.array([0.012, 0.01, 0.01]) - colour)
    gloss = np.where(inner < 1.15, 1.0, 0.35)
    return np.concatenate([np.clip(colour, 0, 1), gloss[..., None]], -1)


def _paint_teeth(looks: Looks, rng) -> np.ndarray:
    """Two rows of teeth: gums at the top of each half, biting edges at the bottom."""
    _, _, width, height = TEETH_TILE
    white = np.array([0.90, 0.86, 0.77]) * rng.uniform(0.88, 1.03) * (1 - 0.12 * looks.age)
    gum = np.array([0.66, 0.34, 0.33])
    picture = []
    for edges in ((0.5, 1.0, 0.82, 0.86, 0.7, 0.7), (0.5, 0.62, 0.68, 0.78, 0.75, 0.7)):
        half = height // 2
        u = np.abs(np.linspace(-1, 1, width)) * 5.6
        bounds = np.concatenate([[0.0], np.cumsum(edges[1:]), [9.0]]) * 1.05
        slot = np.clip(np.searchsorted(bounds, u, side="right") - 1, 0, len(bounds) - 2)
        within = (u - bounds[slot]) / (bounds[slot + 1] - bounds[slot])
        bulge = np.clip(1 - (2 * np.abs(within - 0.5)) ** 4, 0, 1)
        shade = 0.80 + 0.06 * rng.normal(size=8)[slot] * 0.3
        v = np.linspace(0, 1, half)[:, None]
        tooth = white * (shade * (0.62 + 0.38 * bulge))[None, :, None] * (0.93 + 0.1 * v)[..., None]
        line = 0.30 + 0.06 * np.cos(np.clip(within, 0, 1) * 2 * np.pi)
        is_gum = ramp(line[None] - v, 0.03)
        picture.append(
            tooth + is_gum[..., None] * (gum * (0.8 + 0.2 * bulge)[None, :, None] - tooth)
        )
    colour = np.concatenate(picture)
    return np.concatenate([np.clip(colour, 0, 1), np.full((height, width, 1), 0.4)], -1)


def _paint_wet(rng) -> np.ndarray:
    _, _, width, height = WET_TILE
    colour = np.array([0.62, 0.27, 0.27]) * (1 + 0.05 * _noise(rng, (height, width), 2))[..., None]
    return np.concatenate([colour, np.full((height, width, 1), 0.3)], -1)


def _paint_cloth(rng) -> np.ndarray:
    _, _, width, height = CLOTH_TILE
    colour = rng.uniform(0.08, 0.75, 3) * rng.uniform(0.5, 1.0)
    if rng.random() < 0.4:
        colour = np.full(3, rng.choice([0.08, 0.2, 0.85])) + rng.uniform(-0.03, 0.03, 3)
    weave = 1 + 0.05 * _noise(rng, (height, width), (1, 2))
    picture = np.clip(colour * weave[..., None], 0, 1)
    return np.concatenate([picture, np.full((height, width, 1), 0.1)], -1)


def _strands(rng, shape, curl) -> np.ndarray:
    """Streaks that run down the tile, unit deviation."""
    fine = _noise(rng, shape, (22 - 19 * curl, 0.8))
    coarse = _noise(rng, shape, (30 - 24 * curl, 4.0 - 1.5 * curl))
    streaks = 0.7 * fine + 0.7 * coarse
    return streaks / streaks.std()


def _paint_hair(looks: Looks, hair: Hair, rng) -> tuple[np.ndarray, np.ndarray]:
    _, _, width, height = HAIR_TILE
    half = height // 2
    azimuth = np.linspace(-np.pi, np.pi, width)[None]
    row = np.linspace(0, 1, half)[:, None]
    line = np.interp(azimuth, hair.azimuth, hair.line)
    y = hair_height(azimuth + 0 * row, row + 0 * azimuth)
    pictures, covers = [], []
    for layer in (0, 1):
        streaks = _strands(rng, (half, width), hair.curl)
        if hair.part:
            lean = hair.part * width * 0.25
            rows = np.arange(half)[:, None] + 0 * azimuth
            cols = np.arange(width)[None] + lean * np.cos(row * np.pi / EQUATOR / 2)
            streaks = map_coordinates(streaks, [rows, cols], order=1, mode="wrap")
        spikes = 0.45 if hair.fringe else 0.16
        ragged = spikes * _noise(rng, (half, width), (20, 0.9)) + 0.2 * _noise(
            rng, (half, width), (25, 6)
        )
        ragged = ragged * np.where(np.abs(azimuth) < 1.1, 1.0 if layer else 0.6, 0.8)
        inside = (y - line + ragged > 0.35 + 0.25 * layer) & (y < hair.top + ragged)
        sparse = streaks > (-0.6 if layer else -2.5)
        if hair.volume < 0.2:
            sparse = _noise(rng, (half, width), 0.8) > (-0.2 if layer else -0.8)
        band = 1 + 0.10 * np.exp(-(((row - 0.30) / 0.10) ** 2))
        tone = np.clip(0.88 + 0.20 * streaks, 0.35, 1.6) * band * (0.8 + 0.2 * layer)
        pictures.append(looks.hair * tone[..., None])
        covers.append(np.where(inside & sparse, 255, 0))
    colour = np.clip(np.concatenate(pictures), 0, 1)
    return colour, np.concatenate(covers).astype(np.uint8)


def _paint_beard(looks: Looks, rng) -> tuple[np.ndarray, np.ndarray]:
    _, _, width, height = BEARD_TILE
    streaks = _noise(rng, (height, width), (4, 0.8))
    colour = looks.brow * 1.15 * np.clip(0.85 + 0.25 * streaks, 0.4, 1.5)[..., None]
    return np.clip(colour, 0, 1), np.where(streaks > -0.4, 255, 0).astype(np.uint8)


def paint_background(rng) -> np.ndarray:
    """(256, 256, 3) linear: a wall with a gradient, out-of-focus lights, or a room."""
    size = 256
    y, x = np.mgrid[:size, :size] / (size - 1)
    kind = rng.choice(["wall", "blobs", "room"])
    base = rng.uniform(0.12, 0.75) * (1 + rng.uniform(-0.25, 0.25, 3))
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(-0.5, 0.5) * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    picture = base * (1 + slope)[..., None]
    if kind == "blobs":
        for _ in range(rng.integers(8, 18)):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.03, 0.14)
            disc = ramp(r - np.hypot(x - cx, y - cy), 0.012)
            tint = rng.uniform(0.2, 1.0) * (1 + rng.uniform(-0.35, 0.35, 3))
            picture += (0.5 * disc)[..., None] * (tint - picture)
    if kind == "room":
        for _ in range(rng.integers(3, 7)):
            cx, cy = rng.uniform(0, 1, 2)
            w, h = rng.uniform(0.06, 0.3), rng.uniform(0.1, 0.5)
            box = ramp(w - np.abs(x - cx), 0.004) * ramp(h - np.abs(y - cy), 0.004)
            tint = rng.uniform(0.05, 0.9) * (1 + rng.uniform(-0.3, 0.3, 3))
            picture += (0.85 * box)[..., None] * (tint - picture)
        picture = gaussian_filter(picture, (rng.uniform(2, 6),) * 2 + (0,))
    picture = picture * (1 + 0.01 * _noise(rng, (size, size), 1.0))[..., None]
    return (np.clip(picture, 0.01, 0.95) ** 2.2).astype(np.float32)
