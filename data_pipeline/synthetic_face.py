"""The people of the synthetic world: identities drawn from a seed, and the pictures of their faces.

A person is the face basis with its own shape coefficients, dressed with what the basis has not got:
a painted skin, eyeballs, teeth, tongue, hair, a collar, light and a background. `render` moves the
mesh by the coefficients p_exp (the rigid ones as a true rotation) and draws it with the rasteriser.

Space: centimetres, x to the right of the image, y up, z to the camera; the mean face's own frame.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import map_coordinates

from data_pipeline import rasteriser
from data_pipeline.face_basis import FaceBasis, load_face_basis
from data_pipeline.synthetic_looks import choose_lights, choose_looks, hair_style
from data_pipeline.synthetic_paint import paint_atlas, paint_background
from data_pipeline.synthetic_parts import TUBE, Parts, assemble, beard_vertices, without_hidden
from data_pipeline.synthetic_skin import eye_loop, mouth_loop

CAMERA_DISTANCE = 75.0  # cm from the head's origin
FRAME_SIDE = 1.1 * 1.25  # in mean sides of the landmarks' box: EMOCA's crop (face.emoca_box)
EYE_RADIUS, EYE_CENTRE = 1.52, np.array([3.062, 3.603, 7.896])  # the sphere that the lids slide on
GAZE = 0.45  # radians of turn for a full eyeLook coefficient
RIGID = 57  # index of the first rigid coefficient


class Identity(NamedTuple):
    """A person with light and background: everything of a picture but motion and size."""

    seed: int
    feminine: bool
    shape: np.ndarray  # (40,) float32, p_id
    face: np.ndarray  # (V, 3) float32, the neutral mesh
    area: np.ndarray  # (V,) float32, of the triangles around each vertex of `face`
    parts: Parts
    textures: tuple[
        np.ndarray, ...
    ]  # linear RGB + gloss float32: (H, W, 4), halves and quarters of it
    coverage: np.ndarray  # (H, W) uint8, hair's opacity
    light_of_vertex: np.ndarray  # (V', 2) float32: ambient and key light that arrives
    lights: rasteriser.Lights
    background: np.ndarray  # (256, 256, 3) float32 linear
    eyes: np.ndarray  # (2, 4) float32: centre and radius, image-left eye first
    centre: np.ndarray  # (3,) float32, what the camera looks at
    frame: float  # height of the frame in cm at the centre's depth

    @classmethod
    def from_seed(cls, seed: int) -> Identity:
        """The same seed always gives the same person."""
        return _person(int(seed))


class Rendering(NamedTuple):
    frames: UInt8[np.ndarray, "t s s 3"]
    landmarks: Float[np.ndarray, "t 68 2"]


def face_shapes(
    basis: FaceBasis, shape: np.ndarray, coefficients: Float[np.ndarray, "t 64"]
) -> Float[np.ndarray, "t v 3"]:
    """The moved meshes in cm: linear expression, true rotation and shift."""
    neutral = basis.mean + basis.identity @ shape.astype(np.float32)
    moved = _expressed(basis, neutral, coefficients)
    return _apply_rigid(moved, coefficients, basis.neck_top)


def _expressed(basis: FaceBasis, neutral: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    linear = coefficients.astype(np.float32).copy()
    linear[:, RIGID : RIGID + 6] = 0
    modes = basis.expression.reshape(-1, basis.expression.shape[-1])
    return neutral + (linear @ modes.T).reshape(len(linear), -1, 3)


def rotations(coefficients: Float[np.ndarray, "t 64"]) -> Float[np.ndarray, "t 3 3"]:
    """R = R_y(yaw) R_x(pitch) R_z(roll) of each frame."""
    pitch, yaw, roll = coefficients[:, RIGID : RIGID + 3].astype(np.float64).T
    zero, one = np.zeros_like(pitch), np.ones_like(pitch)

    def matrix(*rows):
        return np.stack([np.stack(row, -1) for row in rows], -2)

    cx, sx, cy, sy, cz, sz = *_cs(pitch), *_cs(yaw), *_cs(roll)
    about_x = matrix((one, zero, zero), (zero, cx, -sx), (zero, sx, cx))
    about_y = matrix((cy, zero, sy), (zero, one, zero), (-sy, zero, cy))
    about_z = matrix((cz, -sz, zero), (sz, cz, zero), (zero, zero, one))
    return (about_y @ about_x @ about_z).astype(np.float32)


def _cs(angle):
    return np.cos(angle), np.sin(angle)


def _apply_rigid(points, coefficients, pivot):
    shift = coefficients[:, None, RIGID + 3 : RIGID + 6].astype(np.float32)
    turned = np.einsum("tij,tvj->tvi", rotations(coefficients), points - pivot)
    return turned + pivot + shift


def project(identity: Identity, points: np.ndarray) -> np.ndarray:
    """Perspective (…, 3) cm -> (…, 3): x, y in [0, 1] of the frame (y down), distance in cm."""
    away = CAMERA_DISTANCE - points[..., 2]
    focal = (CAMERA_DISTANCE - identity.centre[2]) / identity.frame
    x = 0.5 + focal * (points[..., 0] - identity.centre[0]) / away
    y = 0.5 - focal * (points[..., 1] - identity.centre[1]) / away
    return np.stack([x, y, away], -1).astype(np.float32)


def render(identity: Identity, coefficients: Float[np.ndarray, "t 64"], size: int) -> Rendering:
    """Draw a clip: `coefficients` are activations of `FaceBasis.names` (rigid: radians and cm).

    Gaze follows the eyeLook coefficients, teeth and tongue the jaw's. Landmarks are the projected
    mesh vertices, x, y in [0, 1].
    """
    basis = load_face_basis()
    coefficients = np.asarray(coefficients, np.float32)
    moved = _expressed(basis, identity.face, coefficients)
    points = _apply_rigid(moved, coefficients, basis.neck_top)
    landmarks = project(identity, points[:, basis.landmark_vertices])[..., :2]

    background = _resized(identity.background, size)
    frames = np.empty((len(coefficients), size, size, 3), np.uint8)
    turns = rotations(coefficients)
    for i in range(len(coefficients)):
        everything, arriving = _pose_parts(identity, basis, moved[i], coefficients[i], turns[i])
        _draw_frame(identity, everything, arriving, background, frames[i])
    return Rendering(frames, np.ascontiguousarray(landmarks))


def _draw_frame(identity, points, arriving, background, out):
    parts, samples = identity.parts, rasteriser.SUPERSAMPLING * len(out)
    screen = project(identity, points)
    screen[:, :2] *= samples
    depth = np.full((samples, samples), rasteriser.FAR, np.float32)
    index = np.full((samples, samples), -1, np.int32)
    normals = np.empty_like(points)
    rasteriser.vertex_normals(points, parts.triangles, normals)
    rasteriser.draw(
        screen, parts.triangles, parts.see_through, parts.uv, identity.coverage, depth, index
    )
    level = 2 if len(out) < 192 else 1 if len(out) < 384 else 0  # about one texel per pixel
    rasteriser.shade(
        screen, normals, arriving, parts.triangles, parts.material, parts.uv,
        np.float32(0.5**level), identity.textures[level], np.stack(identity.lights), background,
        depth, index, rasteriser.TO_SRGB, out,
    )  # fmt: skip


def _pose_parts(identity, basis, face, coefficients, turn):
    """All vertices (V', 3) of one frame in world space and the light (V', 2) that reaches them."""
    parts = identity.parts
    points = parts.rest.copy()
    count = len(face)
    points[:count] = face
    value = dict(zip(basis.names, coefficients, strict=True))
    arriving = identity.light_of_vertex.copy()
    area = np.empty(count, np.float32)
    rasteriser.vertex_areas(face, basis.triangles, area)
    crease = np.clip(area / identity.area, 0.35, 1.15)[
        :, None
    ]  # skin that is pushed together folds
    arriving[:count] *= crease ** np.array([0.8, 0.5], np.float32)
    _pose_eyes(identity, value, points, arriving)
    _pose_mouth(identity, basis, value, face, points, arriving)
    if "beard" in parts.spans:
        _pose_beard(identity, basis, points)
    head = points[parts.turns] - basis.neck_top
    shift = coefficients[RIGID + 3 : RIGID + 6]
    points[parts.turns] = head @ turn.T + basis.neck_top + shift
    return points, arriving


def _pose_eyes(identity, value, points, arriving):
    basis = load_face_basis()
    for side, name in enumerate("RL"):
        span = identity.parts.spans[f"eye_{name}"]
        centre, radius = identity.eyes[side, :3], identity.eyes[side, 3]
        inward, outward = value[f"eyeLookIn_{name}"], value[f"eyeLookOut_{name}"]
        across = GAZE * (inward - outward) * (1 if name == "R" else -1)
        down = GAZE * 0.8 * (value[f"eyeLookDown_{name}"] - value[f"eyeLookUp_{name}"])
        cx, sx, cy, sy = *_cs(down), *_cs(across)
        turn = np.array([[cy, sy * sx, sy * cx], [0, cx, -sx], [-sy, cy * sx, cy * cx]], np.float32)
        blink = np.clip(value[f"eyeBlink_{name}"], 0, 1)
        sunk = centre - np.array(
            [0, 0, 0.95 * blink], np.float32
        )  # lids move on a chord, not an arc
        local = identity.parts.rest[span] - centre
        points[span] = local @ turn.T + sunk
        lid = points[basis.landmark_vertices[[37, 38] if side == 0 else [43, 44]], 1].mean()
        depth = np.clip((lid - points[span, 1]) / (0.45 * radius), 0, 1)
        arriving[span, 0] = 0.45 + 0.5 * depth
        arriving[span, 1] = 0.3 + 0.6 * depth
        arriving[span] *= 1 - 0.85 * blink**2


def _pose_mouth(identity, basis, value, face, points, arriving):
    spans, rest = identity.parts.spans, identity.parts.rest
    marks = basis.landmark_vertices
    jaw = sum(
        value[name] * basis.expression[marks[7:10], :, basis.names.index(name)].mean(0)
        for name in ("jawOpen", "jawLeft", "jawRight", "jawForward")
    )
    for part in ("lower_teeth", "tongue"):
        reach = np.clip((rest[spans[part], 2:3] + 1.0) / 10.5, 0, 1)
        points[spans[part]] = rest[spans[part]] + jaw * reach
    loop = mouth_loop()
    tube = points[spans["tube"]].reshape(-1, len(loop), 3)
    middle = face[loop].mean(0)
    away = face[loop] - middle
    outward = np.clip(away[:, 1] / 0.3, -0.45, 1.0)  # room for the gums; the chin is thin
    for ring, (back, swell, size) in enumerate(TUBE):
        tube[ring] = middle + away * size - [0, 0, back]
        tube[ring, :, 1] += swell * outward
    points[spans["tube"]] = tube.reshape(-1, 3)

    gap = np.clip((face[marks[62], 1] - face[marks[66], 1]) / 1.6, 0, 1)
    upper, lower = rest[spans["upper_teeth"]], points[spans["lower_teeth"]]
    for part, corner in (("upper_teeth", upper), ("lower_teeth", lower)):
        side = np.clip(1.0 - (np.abs(corner[:, 0] - middle[0]) / 2.6) ** 2, 0.12, 1)
        arriving[spans[part], 0] = (0.60 + 0.25 * gap) * side
        arriving[spans[part], 1] = (0.50 + 0.35 * gap) * side
    arriving[spans["lower_teeth"]] *= 0.75
    arriving[spans["tongue"]] = [0.25 + 0.35 * gap, 0.15 + 0.45 * gap]
    arriving[spans["tube"], 0] = np.repeat([0.25, 0.12, 0.05, 0.03, 0.03], len(loop))
    arriving[spans["tube"], 1] = np.repeat([0.12, 0.03, 0.0, 0.0, 0.0], len(loop))


def _pose_beard(identity, basis, points):
    under, height = beard_vertices(identity.parts)
    face = np.ascontiguousarray(points[: len(basis.mean)])
    normals = np.empty_like(face)
    rasteriser.vertex_normals(face, basis.triangles, normals)
    span = identity.parts.spans["beard"]
    points[span] = face[under] + normals[under] * height[:, None]


def _resized(image, size):
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized)


@functools.lru_cache(maxsize=64)
def _person(seed: int) -> Identity:
    rng = np.random.default_rng([seed, 7001])
    basis = load_face_basis()
    looks = choose_looks(rng)
    shape = rng.normal(0, 0.85, basis.identity.shape[-1]).clip(-1.9, 1.9).astype(np.float32)
    shape = _able_to_close(basis, shape)
    face = (basis.mean + basis.identity @ shape).astype(np.float32)

    area = np.empty(len(face), np.float32)
    rasteriser.vertex_areas(face, basis.triangles, area)

    hair = hair_style(looks, rng)
    eyes = _place_eyes(basis, face)
    parts = assemble(basis, face, eyes, looks, hair, rng)
    textures, coverage = paint_atlas(looks, hair, rng)
    parts = without_hidden(parts, coverage)
    lights = choose_lights(rng)
    marks = face[basis.landmark_vertices]
    low, high = marks.min(0), marks.max(0)
    side = FRAME_SIDE * float((high - low)[:2].mean())
    centre = np.array([*(low + high)[:2] / 2, 9.0], np.float32)
    identity = Identity(
        seed, looks.feminine, shape, face, area, parts, textures, coverage,
        np.ones((len(parts.rest), 2), np.float32), lights,
        paint_background(rng), eyes, centre, side,
    )  # fmt: skip
    return identity._replace(light_of_vertex=_arriving_light(identity))


def _able_to_close(basis: FaceBasis, shape: np.ndarray) -> np.ndarray:
    """The nearest shape whose lips rest as closed as the mean face's, and whose lids can meet.

    Expressions are the same offsets for everybody, so a wide identity would sleep with open eyes.
    """
    marks, lift = basis.landmark_vertices, basis.identity[:, 1].astype(np.float64)
    lips = lift[marks[[61, 62, 63]]] - lift[marks[[67, 66, 65]]]
    lids = lift[marks[[37, 38, 43, 44]]] - lift[marks[[41, 40, 47, 46]]]
    gaps = np.concatenate([lips, lids])
    excess = gaps @ shape
    excess[3:] = np.maximum(excess[3:] - 0.02, 0)  # cm
    return (shape - np.linalg.pinv(gaps) @ excess).astype(np.float32)


def _place_eyes(basis: FaceBasis, face: np.ndarray) -> np.ndarray:
    """Centre and radius of the eyeballs, moved and scaled as the identity moves the lids."""
    eyes = np.zeros((2, 4), np.float32)
    for side in (0, 1):
        loop = eye_loop(side)
        mean_loop, loop = basis.mean[loop], face[loop]
        scale = np.ptp(loop[:, 0]) / np.ptp(mean_loop[:, 0])
        centre = EYE_CENTRE * [1 if side else -1, 1, 1]
        eyes[side, :3] = loop.mean(0) + (centre - mean_loop.mean(0)) * scale
        eyes[side, 3] = EYE_RADIUS * scale
    return eyes


def _arriving_light(identity: Identity) -> np.ndarray:
    """Ambient occlusion and key-light visibility (V', 2) of the neutral pose, from depth maps."""
    basis, parts = load_face_basis(), identity.parts
    names = {name: 0.0 for name in basis.names}
    points = parts.rest.copy()
    arriving = np.ones((len(points), 2), np.float32)
    _pose_mouth(identity, basis, names, identity.face, points, arriving)
    if "beard" in parts.spans:
        _pose_beard(identity, basis, points)
    normals = np.empty_like(points)
    rasteriser.vertex_normals(points, parts.triangles, normals)

    k = np.arange(64) + 0.5
    height, turn = 1 - 2 * k / 64, np.pi * (1 + 5**0.5) * k
    side = np.sqrt(1 - height**2)
    sphere = np.stack([side * np.cos(turn), side * np.sin(turn), height], 1)
    weight = np.clip(normals @ sphere.T, 0, None)
    open_sky = np.zeros(len(points))
    for i, direction in enumerate(sphere):
        if weight[:, i].any():
            open_sky += weight[:, i] * _visible(
                parts, identity.coverage, points, normals, direction
            )
    occlusion = open_sky / np.maximum(weight.sum(1), 1e-6)

    rng = np.random.default_rng(0)
    cone = identity.lights.key + rng.normal(0, 0.13, (10, 3))
    seen = [_visible(parts, identity.coverage, points, normals, d) for d in cone]
    light = np.stack([0.12 + 0.88 * occlusion, np.mean(seen, 0)], 1)
    if "beard" in parts.spans:
        span = parts.spans["beard"]
        light[span] = light[beard_vertices(parts)[0]]
    return light.astype(np.float32)


def _visible(parts, coverage, points, normals, direction) -> np.ndarray:
    """Whether each vertex sees the sky along `direction`: a depth map of 192x192, 1 or 0."""
    z = direction / np.linalg.norm(direction)
    x = np.cross([0.0, 1.0, 0.01], z)
    x /= np.linalg.norm(x)
    axes = np.stack([x, np.cross(z, x), z])
    size, half = 192, 21.0
    seen = (points - [0, -1, 4]) @ axes.T
    screen = np.stack(
        [(seen[:, 0] / half + 1) * size / 2, (1 - seen[:, 1] / half) * size / 2, 50 - seen[:, 2]], 1
    )
    screen = screen.astype(np.float32)
    depth = np.full((size, size), rasteriser.FAR, np.float32)
    index = np.full((size, size), -1, np.int32)
    rasteriser.draw(screen, parts.triangles, parts.see_through, parts.uv, coverage, depth, index)
    lifted = (points + 0.22 * normals - [0, -1, 4]) @ axes.T
    row = (1 - lifted[:, 1] / half) * size / 2 - 0.5
    col = (lifted[:, 0] / half + 1) * size / 2 - 0.5
    front = map_coordinates(depth, [row, col], order=0, mode="nearest")
    return (50 - lifted[:, 2] < front + 0.18).astype(np.float64)
