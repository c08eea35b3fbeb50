"""Varies training samples without parting sound, picture and landmarks.

One draw holds for everything of a sample: its portrait, all its frames, its landmarks and its face
box. Nothing is shifted in time, and the sync expert's mel stays the voice as it was recorded.
"""

import dataclasses

import cv2
import grain
import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8

_LUMA = np.array([0.299, 0.587, 0.114])
# ITU-R BT.601: the axes of colour, in whose plane a hue turns.
_RGB_TO_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclasses.dataclass(frozen=True)
class AugmentSpec:
    """How far samples are varied; every draw is uniform, 0 is off."""

    brightness: float = 0.0  # up to this share of full white is added or taken
    contrast: float = 0.0  # distances from middle grey grow or shrink by up to this share
    saturation: float = 0.0  # distances from grey grow or shrink by up to this share
    hue: float = 0.0  # colours turn by up to this many degrees either way
    crop: float = 0.0  # up to this share of the side is cut away, anywhere; nothing is invented
    stretch: float = 0.0  # up to this share more of one side is: faces become wider or longer
    mirror: float = 0.0  # probability that left and right are exchanged
    gain_db: float = 0.0  # the voice gets louder or softer by up to this; it never clips


@dataclasses.dataclass(frozen=True)
class Augment(grain.transforms.RandomMap):
    """A training sample to another one that could have been recorded."""

    spec: AugmentSpec

    def random_map(
        self, element: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        spec = self.spec
        colour = _draw_colour(spec, rng)
        sides, corner = _draw_crop(spec, rng)
        mirrored = bool(rng.random() < spec.mirror)
        gain = 10 ** (_about(spec.gain_db, rng) / 20)

        def show(images: UInt8[np.ndarray, "... s s 3"]) -> UInt8[np.ndarray, "... s s 3"]:
            return _recolour(_reframe(images, sides, corner, mirrored), colour)

        return element | {
            "portrait": show(element["portrait"]),
            "frames": show(element["frames"]),
            "landmarks": _move_landmarks(element["landmarks"], sides, corner, mirrored),
            "sync_box": _move_box(element["sync_box"], sides, corner, mirrored),
            "audio": _amplify(element["audio"], gain),
        }


def _about(spread: float, rng: np.random.Generator) -> float:
    return float(rng.uniform(-spread, spread))


def _draw_colour(spec: AugmentSpec, rng: np.random.Generator) -> Float64[np.ndarray, "3 4"]:
    """Saturation, hue, contrast and brightness as one affine map of RGB in [0, 255]."""
    saturation, contrast = 1 + _about(spec.saturation, rng), 1 + _about(spec.contrast, rng)
    turn, brightness = np.radians(_about(spec.hue, rng)), _about(spec.brightness, rng)
    cos, sin = saturation * np.cos(turn), saturation * np.sin(turn)
    rotate = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix = contrast * np.linalg.inv(_RGB_TO_YIQ) @ rotate @ _RGB_TO_YIQ
    offset = 127.5 * (1 - contrast) + 255 * brightness
    return np.column_stack([matrix, np.full(3, offset)])


def _draw_crop(
    spec: AugmentSpec, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2"]]:
    """Sides and corner x, y of the part of the picture that is kept, in [0, 1] of it."""
    sides = np.full(2, 1 - rng.uniform(0, spec.crop))
    if spec.stretch:
        sides[rng.integers(2)] *= 1 - rng.uniform(0, spec.stretch)
    return sides, rng.uniform(0, 1 - sides)


def _reframe(
    images: UInt8[np.ndarray, "... s s 3"],
    sides: Float64[np.ndarray, "2"],
    corner: Float64[np.ndarray, "2"],
    mirrored: bool,
) -> UInt8[np.ndarray, "... s s 3"]:
    if mirrored:
        images = images[..., ::-1, :]
    if (sides == 1).all():
        return np.ascontiguousarray(images)
    size = images.shape[-2]
    if mirrored:
        corner = np.array([1 - corner[0] - sides[0], corner[1]])
    start = corner * size + sides / 2 - 0.5  # Pixel i has its centre at i + 1/2.
    inverse = np.column_stack([np.diag(sides), start])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    kept = [
        cv2.warpAffine(image, inverse, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        for image in np.ascontiguousarray(images).reshape(-1, size, size, 3)
    ]
    return np.stack(kept).reshape(images.shape)


def _recolour(
    images: UInt8[np.ndarray, "... s s 3"], colour: Float64[np.ndarray, "3 4"]
) -> UInt8[np.ndarray, "... s s 3"]:
    if np.allclose(colour, np.eye(3, 4)):
        return images
    rows = images.reshape(-1, images.shape[-2], 3)
    return cv2.transform(rows, colour).reshape(images.shape)


def _move_landmarks(
    landmarks: Float32[np.ndarray, "t 68 2"],
    sides: Float64[np.ndarray, "2"],
    corner: Float64[np.ndarray, "2"],
    mirrored: bool,
) -> Float32[np.ndarray, "t 68 2"]:
    moved = ((landmarks - corner) / sides).astype(np.float32)
    if mirrored:
        moved = moved[:, MIRRORED_LANDMARKS] * np.float32([-1, 1]) + np.float32([1, 0])
    return moved


def _move_box(
    box: Float32[np.ndarray, "4"],
    sides: Float64[np.ndarray, "2"],
    corner: Float64[np.ndarray, "2"],
    mirrored: bool,
) -> Float32[np.ndarray, "4"]:
    y0, x0, y1, x1 = (box - np.tile(corner[::-1], 2)) / np.tile(sides[::-1], 2)
    if mirrored:
        x0, x1 = 1 - x1, 1 - x0
    return np.clip([y0, x0, y1, x1], 0, 1).astype(np.float32)


def _amplify(audio: Float32[np.ndarray, " n"], gain: float) -> Float32[np.ndarray, " n"]:
    loudest = float(np.abs(audio).max(initial=0))
    return audio * np.float32(min(gain, 1 / loudest) if loudest else gain)


def _mirrored_landmarks() -> Int[np.ndarray, "68"]:
    """Which of the 68 iBUG points stands in the place of point i in a mirror."""
    pairs = [*zip(range(8), range(16, 8, -1), strict=True)]  # the jaw
    pairs += zip(range(17, 22), range(26, 21, -1), strict=True)  # the brows
    pairs += [(31, 35), (32, 34)]  # the nostrils
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]  # the eyes
    pairs += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56)]  # the outer lips
    pairs += [(60, 64), (61, 63), (67, 65)]  # the inner lips
    order = np.arange(68)
    for left, right in pairs:
        order[left], order[right] = right, left
    return order


MIRRORED_LANDMARKS = _mirrored_landmarks()
