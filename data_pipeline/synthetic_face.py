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
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates, zoom
from scipy.spatial import cKDTree

from data_pipeline import rasteriser
from data_pipeline.face_basis import FaceBasis, load_face_basis

CAMERA_DISTANCE = 75.0  # cm from the head's origin
FRAME_SIDE = 1.1 * 1.25  # in mean sides of the landmarks' box: EMOCA's crop (face.emoca_box)
FACE_TILE, ATLAS = 768, (768, 1344)
HAIR_TILE = (768, 0, 576, 320)  # x, y, width, height in the atlas
BEARD_TILE = (768, 320, 256, 256)
EYE_TILE = (1024, 320, 192, 192)
TEETH_TILE = (768, 576, 384, 96)
WET_TILE = (1216, 320, 64, 64)
CLOTH_TILE = (1216, 400, 128, 128)
EYE_RADIUS, EYE_CENTRE = 1.52, np.array([3.062, 3.603, 7.896])  # the sphere that the lids slide on
IRIS_ANGLE, EYE_CAP = 0.44, 1.75  # radians
GAZE = 0.45  # radians of turn for a full eyeLook coefficient
PIXELS_PER_CM = 40  # of the front-view canvas that brows and lines are drawn on
CANVAS_HALF = 9.5  # cm
SKULL_CENTRE, SKULL_RADII = np.array([0.0, 4.6, -0.1]), np.array([8.23, 10.4, 11.1])
# rings of the mouth's cavity behind the lips' rim: cm back, room for the gums, size
_TUBE = ((0, 0, 1), (0.5, 1, 1.08), (3, 0.8, 1.05), (5.5, 0, 0.4), (5.6, 0, 0.0))
RIGID = 57  # index of the first rigid coefficient


class Parts(NamedTuple):
    """One mesh of everything in the picture; the first V vertices are the face basis'."""

    triangles: np.ndarray  # (F, 3) int32
    material: np.ndarray  # (F,) int32
    see_through: np.ndarray  # (F,) bool
    uv: np.ndarray  # (V', 2) float32, pixels of the atlas
    rest: np.ndarray  # (V', 3) float32, neutral positions
    turns: np.ndarray  # (V',) bool, moves with the head
    spans: dict[str, slice]  # name -> vertices


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
    loop = _mouth_loop()
    tube = points[spans["tube"]].reshape(-1, len(loop), 3)
    middle = face[loop].mean(0)
    away = face[loop] - middle
    outward = np.clip(away[:, 1] / 0.3, -0.45, 1.0)  # room for the gums; the chin is thin
    for ring, (back, swell, size) in enumerate(_TUBE):
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
    under, height = _beard_vertices(identity.parts)
    face = np.ascontiguousarray(points[: len(basis.mean)])
    normals = np.empty_like(face)
    rasteriser.vertex_normals(face, basis.triangles, normals)
    span = identity.parts.spans["beard"]
    points[span] = face[under] + normals[under] * height[:, None]


def _beard_vertices(parts):
    """For each vertex of the beard's shells: the face vertex below and the height in cm."""
    span = parts.spans["beard"]
    return parts.rest[span, 0].astype(np.int64), parts.rest[span, 1]


def _resized(image, size):
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized)


# ------------------------------------------------------------------------------------------------
# What is the same for everybody
# ------------------------------------------------------------------------------------------------


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
def _mouth_loop() -> np.ndarray:
    return _loop_near(np.array([0.0, -3.4, 10.3]))


@functools.cache
def _eye_loop(side: int) -> np.ndarray:
    return _loop_near(np.array([3.17 if side else -3.17, 3.5, 9.1]))


class SkinMap(NamedTuple):
    """Where each texel of the face tile lies on the mean face, and how far from its features."""

    position: np.ndarray  # (S, S, 3) float32 cm
    lips: np.ndarray  # (S, S) 0..1
    lip_depth: np.ndarray  # (S, S) cm behind the lips' front, 0 outside
    lid: np.ndarray  # (S, S) cm to the nearest lid's edge
    ear: np.ndarray  # (S, S) 0..1


@functools.cache
def _skin_map() -> SkinMap:
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
    lids = np.concatenate([mean[_eye_loop(side)] for side in (0, 1)])
    lid, _ = cKDTree(_dense(lids)).query(flat, distance_upper_bound=3.0)
    outline = _smooth_outline(mean[marks[48:60]][:, :2])
    canvas = np.zeros((760, 760), np.uint8)
    cv2.fillPoly(canvas, [_on_canvas(outline).astype(np.int32)], 255)
    inside = distance_transform_edt(canvas > 0) - distance_transform_edt(canvas == 0)
    signed = _from_canvas(inside.astype(np.float32) / PIXELS_PER_CM, position)
    front = position[..., 2] > 8.5
    lips = np.clip(0.5 + signed / 0.14, 0, 1) * front
    rim, _ = cKDTree(_dense(mean[_mouth_loop()])).query(flat, distance_upper_bound=3.0)
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


def _on_canvas(points: np.ndarray) -> np.ndarray:
    """Front view (…, 2) cm -> pixels of the 760x760 canvas."""
    return (
        np.stack([points[..., 0] + CANVAS_HALF, CANVAS_HALF - points[..., 1]], -1) * PIXELS_PER_CM
    )


def _from_canvas(canvas: np.ndarray, position: np.ndarray) -> np.ndarray:
    """What the front-view canvas shows at each texel."""
    where = _on_canvas(position[..., :2]).astype(np.float32) - 0.5
    return cv2.remap(
        canvas, where[..., 0], where[..., 1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE
    )


# ------------------------------------------------------------------------------------------------
# One person
# ------------------------------------------------------------------------------------------------

SKIN_TONES = np.array(
    [[243, 213, 197], [233, 194, 172], [220, 174, 147], [199, 150, 121], [168, 121, 95]]
    + [[136, 96, 75], [108, 76, 60]],
) / 255  # fmt: skip
HAIR_COLOURS = {
    "black": (36, 31, 31),
    "dark": (58, 42, 34),
    "brown": (82, 56, 38),
    "light brown": (122, 88, 58),
    "blond": (190, 152, 100),
    "pale blond": (214, 186, 140),
    "red": (118, 60, 36),
    "grey": (146, 143, 140),
    "white": (214, 212, 208),
}
IRIS_COLOURS = (
    (62, 38, 22),
    (88, 58, 32),
    (112, 92, 52),
    (84, 108, 72),
    (84, 118, 150),
    (118, 134, 146),
)
HAIR_STYLES = (
    "short",
    "crop",
    "side",
    "long",
    "bob",
    "updo",
    "fringe",
    "afro",
    "curly",
    "bald",
    "balding",
    "buzz",
)


class Looks(NamedTuple):
    """The choices that make a person; colours are sRGB 0..1."""

    feminine: bool
    age: float  # 0 young .. 1 old
    tone: float  # 0 pale .. 6 dark
    skin: np.ndarray
    hair: np.ndarray
    brow: np.ndarray
    style: str
    beard: str  # "", "stubble", "full", "goatee", "moustache"
    iris: np.ndarray
    make_up: float
    lip_colour: np.ndarray
    freckles: float


def _choose_looks(rng: np.random.Generator) -> Looks:
    feminine = bool(rng.random() < 0.5)
    age = float(rng.beta(1.3, 1.8))
    tone = float(rng.uniform(0, 6))
    low = int(min(tone, 5))
    skin = SKIN_TONES[low] + (tone - low) * (SKIN_TONES[low + 1] - SKIN_TONES[low])
    skin = np.clip(skin * (1 + rng.normal(0, 0.012, 3)), 0.05, 0.98)
    dark_only = ["black", "dark"]
    names = (
        dark_only
        if tone > 3.2
        else [*dark_only, "brown", "brown", "light brown", "blond", "pale blond", "red"]
    )
    name = str(rng.choice(names))
    if age > 0.62 and rng.random() < 0.7:
        name = str(rng.choice(["grey", "white"]))
    hair = np.array(HAIR_COLOURS[name]) / 255 * rng.uniform(0.9, 1.1)
    brow = hair * (0.75 if name not in ("white", "grey") else 0.6)
    if feminine:
        style = str(rng.choice(["long", "long", "bob", "updo", "fringe", "curly", "side", "afro"]))
    else:
        style = str(
            rng.choice(
                [
                    "short",
                    "short",
                    "crop",
                    "side",
                    "buzz",
                    "bald",
                    "balding",
                    "curly",
                    "afro",
                    "long",
                ]
            )
        )
    if style == "afro" and tone < 3.0:
        style = "curly"
    beards = ["", "", "", "stubble", "stubble", "full", "goatee", "moustache"]
    beard = "" if feminine else str(rng.choice(beards))
    iris_choices = IRIS_COLOURS[:2] if tone > 3.2 else IRIS_COLOURS
    iris = np.array(iris_choices[rng.integers(len(iris_choices))]) / 255
    make_up = float(rng.uniform(0.3, 1.0)) if feminine and rng.random() < 0.7 else 0.0
    natural = skin * np.array([0.86, 0.66, 0.66]) + np.array([0.03, 0, 0.01])
    painted = np.array(
        [[0.62, 0.10, 0.16], [0.72, 0.25, 0.30], [0.55, 0.16, 0.25], [0.75, 0.38, 0.36]]
    )
    strength = make_up * rng.uniform(0.3, 0.9)
    lip_colour = natural + strength * (painted[rng.integers(4)] - natural)
    freckles = float(rng.uniform(0.3, 1)) if tone < 2 and rng.random() < 0.35 else 0.0
    return Looks(
        feminine, age, tone, skin, hair, brow, style, beard, iris, make_up, lip_colour, freckles
    )


@functools.lru_cache(maxsize=64)
def _person(seed: int) -> Identity:
    rng = np.random.default_rng([seed, 7001])
    basis = load_face_basis()
    looks = _choose_looks(rng)
    shape = rng.normal(0, 0.85, basis.identity.shape[-1]).clip(-1.9, 1.9).astype(np.float32)
    shape = _able_to_close(basis, shape)
    face = (basis.mean + basis.identity @ shape).astype(np.float32)

    area = np.empty(len(face), np.float32)
    rasteriser.vertex_areas(face, basis.triangles, area)

    hair = _hair_style(looks, rng)
    eyes = _place_eyes(basis, face)
    parts = _assemble(basis, face, eyes, looks, hair, rng)
    textures, coverage = _paint_atlas(looks, hair, rng)
    parts = _without_hidden(parts, coverage)
    lights = _choose_lights(rng)
    marks = face[basis.landmark_vertices]
    low, high = marks.min(0), marks.max(0)
    side = FRAME_SIDE * float((high - low)[:2].mean())
    centre = np.array([*(low + high)[:2] / 2, 9.0], np.float32)
    identity = Identity(
        seed, looks.feminine, shape, face, area, parts, textures, coverage,
        np.ones((len(parts.rest), 2), np.float32), lights,
        _paint_background(rng), eyes, centre, side,
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


def _choose_lights(rng: np.random.Generator) -> rasteriser.Lights:
    def unit(x, y, z):
        vector = np.array([x, y, z], np.float64)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    side = rng.choice([-1, 1])
    warm = rng.uniform(-1, 1)
    tint = np.array([1 + 0.06 * warm, 1.0, 1 - 0.08 * warm])
    cool = np.array([1 - 0.03 * warm, 1.0, 1 + 0.06 * warm])
    strength = rng.uniform(0.55, 0.85)
    fill = rng.uniform(0.32, 0.52)
    return rasteriser.Lights(
        key=unit(side * rng.uniform(0.15, 0.9), rng.uniform(0.25, 0.75), 1.0),
        key_colour=(strength * tint).astype(np.float32),
        sky=(fill * cool).astype(np.float32),
        ground=(fill * rng.uniform(0.45, 0.75) * np.array([1.02, 0.97, 0.92])).astype(np.float32),
        rim=unit(-side * rng.uniform(0.6, 1.0), 0.3, -0.2),
        rim_colour=(rng.uniform(0.0, 0.8) * cool).astype(np.float32),
    )


def _place_eyes(basis: FaceBasis, face: np.ndarray) -> np.ndarray:
    """Centre and radius of the eyeballs, moved and scaled as the identity moves the lids."""
    eyes = np.zeros((2, 4), np.float32)
    for side in (0, 1):
        loop = _eye_loop(side)
        mean_loop, loop = basis.mean[loop], face[loop]
        scale = np.ptp(loop[:, 0]) / np.ptp(mean_loop[:, 0])
        centre = EYE_CENTRE * [1 if side else -1, 1, 1]
        eyes[side, :3] = loop.mean(0) + (centre - mean_loop.mean(0)) * scale
        eyes[side, 3] = EYE_RADIUS * scale
    return eyes


# ---- geometry ----------------------------------------------------------------------------------


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


def _assemble(basis, face, eyes, looks, hair, rng) -> Parts:
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
    loop = _mouth_loop()
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
    rings = np.zeros((len(_TUBE) * len(loop), 3))
    u = np.broadcast_to(np.linspace(0, 0.2, len(loop)), (len(_TUBE), len(loop)))
    builder.add(
        "tube",
        rings,
        _tile_uv(WET_TILE, u, u),
        _grid(len(_TUBE), len(loop), closed=True),
        rasteriser.WET,
    )


def _beard_region(looks: Looks, position: np.ndarray) -> np.ndarray:
    """0..1 where facial hair grows on the mean face (…, 3)."""
    x, y, z = np.moveaxis(position, -1, 0)
    lip = np.sqrt((x / 2.65) ** 2 + ((y + 3.4) / 0.98) ** 2)
    clear = np.clip((lip - 1.0) / 0.12, 0, 1)
    moustache = _ramp(-1.35 - y, 0.25) * _ramp(3.4 - np.abs(x), 0.5) * _ramp(y + 3.6, 0.5) * (z > 8)
    chin = _ramp(3.0 - np.abs(x), 0.7) * _ramp(-3.5 - y, 0.5) * _ramp(y + 9.0, 0.6) * (z > 7)
    line = -3.6 + 0.75 * np.clip(
        np.abs(x) - 3.6, 0, None
    )  # rises from the mouth's corners to the ears
    cheeks = (
        _ramp(line - y, 0.7)
        * _ramp(y + 9.0, 0.8)
        * _ramp(z - 2.0, 0.8)
        * _ramp(8.0 - np.abs(x), 0.4)
    )
    region = {
        "moustache": moustache,
        "goatee": np.maximum(moustache, chin),
    }.get(looks.beard, np.maximum(np.maximum(moustache, chin), cheeks))
    return region * clear


def _ramp(value, width):
    return np.clip(0.5 + value / (2 * width), 0, 1)


def _add_beard(builder: _Builder, basis: FaceBasis, looks: Looks) -> None:
    strength = _beard_region(looks, basis.mean)
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


class Hair(NamedTuple):
    """A head of hair in the mean head's space: `line` (y in cm by azimuth) is where it ends."""

    azimuth: np.ndarray  # (K,) radians from the front
    line: np.ndarray  # (K,) cm
    top: float  # bald above this height
    volume: float  # cm on top
    side: float  # cm at the sides
    curl: float
    part: float  # side parting: how far the strands lean
    long: bool
    fringe: bool
    seed: int


def _hair_style(looks: Looks, rng: np.random.Generator) -> Hair | None:
    style = looks.style
    if style == "bald":
        return None
    front = rng.uniform(10.0, 11.3) - (0.4 if looks.feminine else 0.0)
    recess = rng.uniform(0.0, 0.6) + 1.2 * looks.age * (not looks.feminine)
    ends = {
        "long": (-16.0, -16.0),
        "bob": (-7.5, -7.5),
        "fringe": (-14.0, -14.0),
        "curly": (-1.0, -5.0),
    }
    side, back = ends.get(style, (0.6, -5.0))
    if style == "curly" and looks.feminine:
        side, back = -9.0, -9.0
    if style == "fringe":
        front, recess = rng.uniform(6.8, 7.6), 0.0
    if style == "balding":
        front, recess = 12.0, 0.4
    degrees = np.array([0, 12, 24, 34, 43, 50, 58, 68, 76, 84, 100, 120, 180.0])
    rise = front + np.array(
        [0.0, 0.05, 0.1 + 0.5 * recess, -0.2 + 0.9 * recess, -0.8 + 0.6 * recess]
    )
    temple = np.array([8.3, 7.2, 6.0, 4.5]) + 0.4 * recess
    half = np.concatenate([rise, temple, [max(side, 0.8), side, back, back]])
    falls = style in ("long", "bob", "fringe") or side == -9.0
    if falls:  # in front of the ears
        half[6:11] = (6.2, rng.uniform(1.5, 4.0), rng.uniform(-2, 0), side, side)
    if style == "fringe":
        half[:6] = front + np.array([0, 0, -0.1, -0.2, -0.5, -1.0])
        half[6] = front - 1.8
    degrees = np.concatenate([-degrees[:0:-1], degrees])
    line = np.concatenate([half[:0:-1], half])
    if style in ("side", "long", "bob", "updo"):  # parted: one side hangs lower over the forehead
        sweep = rng.choice([-1, 1]) * rng.uniform(0.3, 1.0)
        line += sweep * np.sin(np.radians(np.clip(degrees, -45, 45) * 2)) * (np.abs(degrees) < 60)
    volume = {
        "buzz": 0.12,
        "crop": 0.45,
        "afro": 2.6,
        "curly": 1.6,
        "updo": 0.45,
        "balding": 0.3,
    }.get(style, rng.uniform(0.7, 1.3))
    sides = {"afro": 2.2, "curly": 1.1, "buzz": 0.1, "long": 0.9, "bob": 1.1, "fringe": 0.9}.get(
        style, 0.3
    )
    return Hair(
        np.radians(degrees), line, 9.5 if style == "balding" else 99.0,
        volume, sides, {"afro": 1.0, "curly": 0.8}.get(style, 0.0),
        rng.choice([-1, 1]) * {"side": 0.35, "updo": 0.0}.get(style, rng.uniform(0, 0.15)),
        bool(side < -6), style == "fringe", int(rng.integers(1 << 30)),
    )  # fmt: skip


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


def _hair_height(azimuth: np.ndarray, row: np.ndarray) -> np.ndarray:
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
    inside = _hair_height(azimuth, row) - line
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


def _without_hidden(parts: Parts, coverage: np.ndarray) -> Parts:
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


# ---- light -------------------------------------------------------------------------------------


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
        light[span] = light[_beard_vertices(parts)[0]]
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


# ---- paint -------------------------------------------------------------------------------------


def _noise(rng, shape, sigma) -> np.ndarray:
    """Smooth noise of unit deviation."""
    step = max(int(min(np.atleast_1d(sigma)) / 2), 1)
    small = [-(-n // step) + 1 for n in shape]
    field = gaussian_filter(rng.normal(size=small), np.asarray(sigma) / step, mode="wrap")
    field = zoom(field, step, order=1) if step > 1 else field
    field = field[: shape[0], : shape[1]]
    return field / field.std()


def _paint_atlas(looks: Looks, hair: Hair | None, rng) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
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
    skin = _skin_map()
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

    strokes = _from_canvas(_brow_canvas(looks, rng), skin.position) * (z > 5)
    colour += (0.92 * strokes)[..., None] * (
        looks.brow * (1 + 0.1 * _noise(rng, shape, 1.0))[..., None] - colour
    )
    if looks.beard:
        region = _beard_region(looks, skin.position)
        grain = np.clip(0.55 + 0.35 * _noise(rng, shape, 0.9), 0, 1)
        depth = 0.42 if looks.beard == "stubble" else 0.85
        colour += (depth * region * grain)[..., None] * (looks.brow * 0.9 - colour)
    if hair is not None:
        azimuth = np.arctan2(x, z - SKULL_CENTRE[2])
        edge = y - np.interp(azimuth, hair.azimuth, hair.line) + 0.35 * _noise(rng, shape, (8, 1.5))
        scalp = _ramp(edge - 0.1, 0.6) * (y < hair.top) * (1 - skin.ear) * (y > -1)
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
        curve = _on_canvas(np.array(points, np.float64))
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
    skin = _skin_map()
    dark = _from_canvas(canvas, skin.position) * (skin.position[..., 2] > 5)
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
        for a, b in zip(_on_canvas(base), _on_canvas(tip), strict=True):
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
        is_gum = _ramp(line[None] - v, 0.03)
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
    y = _hair_height(azimuth + 0 * row, row + 0 * azimuth)
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


def _paint_background(rng) -> np.ndarray:
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
            disc = _ramp(r - np.hypot(x - cx, y - cy), 0.012)
            tint = rng.uniform(0.2, 1.0) * (1 + rng.uniform(-0.35, 0.35, 3))
            picture += (0.5 * disc)[..., None] * (tint - picture)
    if kind == "room":
        for _ in range(rng.integers(3, 7)):
            cx, cy = rng.uniform(0, 1, 2)
            w, h = rng.uniform(0.06, 0.3), rng.uniform(0.1, 0.5)
            box = _ramp(w - np.abs(x - cx), 0.004) * _ramp(h - np.abs(y - cy), 0.004)
            tint = rng.uniform(0.05, 0.9) * (1 + rng.uniform(-0.3, 0.3, 3))
            picture += (0.85 * box)[..., None] * (tint - picture)
        picture = gaussian_filter(picture, (rng.uniform(2, 6),) * 2 + (0,))
    picture = picture * (1 + 0.01 * _noise(rng, (size, size), 1.0))[..., None]
    return (np.clip(picture, 0.01, 0.95) ** 2.2).astype(np.float32)
