"""Faces: landmarks, the crop that EMOCA makes, and a portrait's way into it.

Pixel coordinates here are of edges, not of centres: an image is [0, width] x [0, height].
"""

import contextlib
import functools
import hashlib
import http.client
import itertools
import os
import urllib.request
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from data_pipeline.errors import InputError
from data_pipeline.files import cache_folder, fault_of, write_whole

Box = Float64[np.ndarray, "3"]  # centre x, centre y, side, in pixels

MODEL_VARIABLE = "RETA_FACE_LANDMARKER"
MODEL_ADDRESS = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
    "face_landmarker.task"
)
# Where the face is in EMOCA's crops: y0, x0, y1, x1 in [0, 1], for crops without landmarks.
TYPICAL_SYNC_BOX = np.float32([0.0, 0.14, 0.89, 0.86])
_MIN_OVERLAP, _MARGIN = 0.25, 0.1  # FOMM's
# Of the pictures that MediaPipe gets, in pixels: it crashes beyond 32,767 and takes 12 bytes a
# pixel. No face is lost, as it looks for them in 128 pixels: in 6000 x 4000 they are found from
# about 300 on with and without. Frames in 4K stay as they are.
_LONGEST = 4096
FETCH_SECONDS = 5  # without an answer; a network that is not there must not hold anybody up
MODEL_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"

# The vertex of MediaPipe's face mesh at each iBUG point.
_JAW = (127, 234, 132, 58, 172, 150, 149, 148, 152, 377, 378, 379, 397, 288, 361, 454, 356)
_BROWS = (71, 63, 105, 66, 107, 336, 296, 334, 293, 301)
_NOSE = (168, 197, 5, 4, 98, 97, 2, 326, 327)
_EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
_OUTER_LIPS = (61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181)
_INNER_LIPS = (78, 82, 13, 312, 308, 317, 14, 87)
IBUG_FROM_MESH = np.array(_JAW + _BROWS + _NOSE + _EYES + _OUTER_LIPS + _INNER_LIPS)
# Of the 68 iBUG points.
MOUTH = slice(48, 68)
UPPER_LIP, LOWER_LIP = 62, 66  # the middle of the inner lips
OUTER_CORNERS = (36, 45)  # of the eyes


class FaceDetector(Protocol):
    """Whatever finds faces."""

    def boxes(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Box]:
        """The EMOCA box of every face in an RGB image, the largest first."""


class LandmarkDetector(Protocol):
    """Whatever finds the 68 iBUG points: MediaPipe's landmarker here, FAN or dlib elsewhere."""

    def detect(
        self, image: UInt8[np.ndarray, "h w 3"], near: Box | None = None, closely: bool = True
    ) -> list[Float32[np.ndarray, "68 2"]]:
        """The points (x, y in pixels) of every face in an RGB image, the largest first.

        `near` is the EMOCA box of a face a moment ago, or None. What is found at once without
        `closely` is all that is found with it; else that may find more, and takes longer.
        """


class FaceLandmarker:
    """MediaPipe's face landmarker: 478 mesh points, of which the 68 iBUG points are taken.

    Args:
        model_path: its `.task` file; see `landmarker_model` for where it is looked for otherwise.

    Raises:
        InputError: the model cannot be had, or MediaPipe lacks a library of the system.
    """

    def __init__(self, model_path: str | os.PathLike | None = None):
        model = landmarker_model(model_path)
        with _silent_stderr():
            try:
                import mediapipe as mp
                from mediapipe.tasks.python import BaseOptions, vision

                options = vision.FaceLandmarkerOptions(
                    base_options=BaseOptions(model_asset_path=str(model)), num_faces=5
                )
                self._landmarker = vision.FaceLandmarker.create_from_options(options)
            except (RuntimeError, ValueError) as error:
                raise InputError(
                    f"{model} is not a face landmarker model ({error}): delete it, or name another."
                ) from error
            except (OSError, ImportError) as error:
                raise InputError(
                    f"MediaPipe, which finds faces, cannot be loaded ({error}): it needs the "
                    "packages libegl1 and libgles2 of Debian and Ubuntu."
                ) from error
            weakref.finalize(self, _close, self._landmarker)
            self._image = functools.partial(mp.Image, image_format=mp.ImageFormat.SRGB)
            self.detect(np.zeros((64, 64, 3), np.uint8))  # The first run logs.

    def detect(
        self, image: UInt8[np.ndarray, "h w 3"], near: Box | None = None, closely: bool = True
    ) -> list[Float32[np.ndarray, "68 2"]]:
        """The iBUG points (x, y in pixels) of every face in an RGB image, the largest first.

        The detector overlooks faces under about a sixth of the picture. Where it finds none, they
        are looked for around the box `near`, where one was a moment ago, and then everywhere: in
        some 25 parts of a picture. Without `closely` they are not.
        """
        height, width = image.shape[:2]
        faces = self._detect_in(image, 0, 0, max(height, width))
        if not closely:
            return _without_doubles(faces)
        if not faces and near is not None:
            side = int(3 * near[2])
            faces = self._detect_in(image, *np.int32(near[:2] - side / 2).tolist(), side)
        for side in (min(height, width), min(height, width) // 2):
            if faces or side < 128:
                break
            for top, left in itertools.product(_starts(height, side), _starts(width, side)):
                faces += self._detect_in(image, left, top, side)
        return _without_doubles(faces)

    def _detect_in(
        self, image: UInt8[np.ndarray, "h w 3"], left: int, top: int, side: int
    ) -> list[Float32[np.ndarray, "68 2"]]:
        left, top = max(left, 0), max(top, 0)
        part = image[top : top + side, left : left + side]
        if not part.size:
            return []
        origin, scale = np.array([left, top]), np.array(part.shape[1::-1])
        data = np.ascontiguousarray(_shrunk(part, _LONGEST))
        found = self._landmarker.detect(self._image(data=data)).face_landmarks
        return [
            np.float32([(face[i].x, face[i].y) for i in IBUG_FROM_MESH] * scale + origin)
            for face in found
        ]

    def boxes(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Box]:
        """The EMOCA box of every face, the largest first."""
        return [emoca_box(face) for face in self.detect(image)]


def _starts(length: int, side: int) -> list[int]:
    """Where squares begin that cover a length and overlap by half at least."""
    count = 1 + -(-2 * (length - side) // side)
    return np.linspace(0, length - side, count).astype(int).tolist()


def _shrunk(image: UInt8[np.ndarray, "h w 3"], longest: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image itself, or one whose longer side is `longest`."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _without_doubles(
    faces: list[Float32[np.ndarray, "68 2"]],
) -> list[Float32[np.ndarray, "68 2"]]:
    """The largest first, and of several that lie over each other only that."""
    kept: list[np.ndarray] = []
    for face in sorted(faces, key=lambda face: -emoca_box(face)[2]):
        x, y, side = emoca_box(face)
        boxes = [emoca_box(other) for other in kept]
        if all(max(abs(x - bx), abs(y - by)) > (side + b) / 4 for bx, by, b in boxes):
            kept.append(face)
    return kept


def _close(landmarker) -> None:
    try:
        landmarker.close()
    except RuntimeError:  # At the interpreter's end its thread is gone already, and
        landmarker._handle = None  # its destructor would complain of that on stderr.


class CascadeDetector:
    """A boosted cascade that comes inside scikit-image: no model to fetch, frontal faces only.

    The EMOCA box is reckoned from the square it finds: against the landmarker's on 45 people its
    side is off by 10 % and its centre by 5 % of the side (standard deviations).
    """

    def __init__(self):
        from skimage import data, feature  # Not above: it is the fallback.

        # Not by the function that names it: that one wants a home folder, to fetch others to.
        file = Path(data.__file__).with_name("lbpcascade_frontalface_opencv.xml")
        self._cascade = feature.Cascade(str(file))

    def boxes(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Box]:
        """The approximate EMOCA box of the largest face; the smaller finds are often none."""
        grey = cv2.cvtColor(_shrunk(image, 512), cv2.COLOR_RGB2GRAY)
        scale = max(image.shape[:2]) / max(grey.shape)
        found = self._cascade.detect_multi_scale(
            grey, scale_factor=1.15, step_ratio=1, min_size=(32, 32), max_size=grey.shape[::-1]
        )
        boxes = [
            np.array([f["c"] + f["width"] / 2, f["r"] + 0.65 * f["height"], 1.14 * f["width"]])
            for f in found
        ]
        return [max(boxes, key=lambda box: box[2]) * scale] if boxes else []


def landmarker_model(path: str | os.PathLike | None = None) -> Path:
    """The landmarker's model file: `path`, else $RETA_FACE_LANDMARKER, else the user's cache.

    A cache without it fetches it from its publisher (3.6 MB) and checks what came.

    Raises:
        InputError: there is no such file, or it cannot be fetched.
    """
    given = path or os.environ.get(MODEL_VARIABLE)
    if given:
        if fault := fault_of(given):
            raise InputError(f"the face landmarker model {given} {fault}: check the path.")
        return Path(given)
    cached = cache_folder() / "face_landmarker.task"
    if fault_of(cached):
        _fetch_model(cached)
    return cached


def check_landmarker(model: str | os.PathLike | None = None) -> None:
    """Loads the landmarker once, so that a bad model is told before long work and not during it.

    Args:
        model: as of `landmarker_model`.

    Raises:
        InputError: it is missing, cannot be fetched, or is none.
    """
    FaceLandmarker(model)


def _fetch_model(cached: Path) -> None:
    try:
        with urllib.request.urlopen(MODEL_ADDRESS, timeout=FETCH_SECONDS) as response:
            model = response.read()
        if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
            raise OSError("what came is another file")
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cached, lambda file: file.write(model))
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"the face landmarker model is not at hand ({getattr(error, 'reason', error)}): fetch "
            f"{MODEL_ADDRESS} and set {MODEL_VARIABLE} to its path."
        ) from error


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps MediaPipe's C++ from talking: it has no switch for it."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def emoca_box(landmarks: Float32[np.ndarray, "68 2"]) -> Box:
    """The square that EMOCA crops for 68 points: their bounding box' mean side by 1.1 by 1.25."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    side = int((high - low).sum() / 2 * 1.1 * 1.25)
    return np.array([*(low + high) / 2, side], np.float64)


def fomm_box(landmarks: Float32[np.ndarray, "t 68 2"]) -> Box | None:
    """The one square that FOMM crops for a whole clip: around all faces and a tenth to each side.

    None if one of the faces has less than a quarter in common with the first one, for then the head
    has left.
    """
    faces = _detected_box(landmarks.min(axis=1), landmarks.max(axis=1))
    shared = np.minimum(faces[:, 2:], faces[0, 2:]) - np.maximum(faces[:, :2], faces[0, :2])
    overlap = shared.clip(0).prod(axis=1)
    area = (faces[:, 2:] - faces[:, :2]).prod(axis=1)
    if (overlap < _MIN_OVERLAP * (area + area[0] - overlap)).any():
        return None
    left, top = faces[:, :2].min(axis=0)
    right, bottom = faces[:, 2:].max(axis=0)
    side = (1 + 2 * _MARGIN) * max(right - left, bottom - top)
    return np.array([(left + right) / 2, (top + bottom) / 2, side], np.float64)


def _detected_box(
    low: Float32[np.ndarray, "*n 2"], high: Float32[np.ndarray, "*n 2"]
) -> Float32[np.ndarray, "*n 4"]:
    """A face as detectors have it: left, top, right and bottom, of the extremes of its landmarks.

    From half the forehead, which has none, to below the chin.
    """
    up, down = np.float32([0, 0.2]), np.float32([0, 0.03])
    height = (high - low)[..., 1:]
    return np.concatenate([low - up * height, high + down * height], axis=-1)


def smooth_boxes(
    boxes: Float64[np.ndarray, "t 3"], found: Bool[np.ndarray, " t"]
) -> Float64[np.ndarray, "t 3"]:
    """A clip's boxes, interpolated where no face was found, smoothed by a Gaussian of 3 frames."""
    import scipy.ndimage  # Not above: rendering needs none of it and should start soon.

    times = np.arange(len(boxes))
    filled = [np.interp(times, times[found], column[found]) for column in boxes.T]
    return scipy.ndimage.gaussian_filter1d(np.stack(filled, 1), sigma=3, axis=0, mode="nearest")


def crop(
    image: UInt8[np.ndarray, "h w 3"], box: Box, size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The square `box` of an image as size x size pixels; beyond the border its edge is repeated.

    Cubic interpolation; when it shrinks, every source pixel is averaged in first.
    """
    center, side = np.asarray(box[:2]), box[2]
    factor = side / size
    limits = np.array(image.shape[1::-1])
    low = np.clip(np.floor(center - side / 2 - 2 * factor - 2), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(center + side / 2 + 2 * factor + 2), low + 1, limits).astype(int)
    region = image[low[1] : high[1], low[0] : high[0]]
    scale = np.ones(2)
    if factor > 1:
        small = np.maximum(1, np.round((high - low) / factor)).astype(int)
        region = cv2.resize(region, tuple(small.tolist()), interpolation=cv2.INTER_AREA)
        scale = small / (high - low)
    step = factor * scale
    # Output pixel i has its centre at i + 1/2, which lies at (i + 1/2) step + start in the region.
    start = (center - side / 2 - low) * scale
    x, y = start + step / 2 - 0.5
    return cv2.warpAffine(
        region,
        np.array([[step[0], 0, x], [0, step[1], y]]),
        (size, size),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def into_crop(
    landmarks: Float32[np.ndarray, "*n 2"], box: Float64[np.ndarray, "*n 3"]
) -> Float32[np.ndarray, "*n 2"]:
    """Pixel coordinates to [0, 1] of the crop of `box`."""
    return ((landmarks - box[..., :2]) / box[..., 2:] + 0.5).astype(np.float32)


def eye_distance(landmarks: Float[np.ndarray, "t 68 2"]) -> Float[np.ndarray, " t"]:
    """Between the outer corners of the eyes, in the points' unit."""
    right, left = (landmarks[:, corner] for corner in OUTER_CORNERS)
    return np.linalg.norm(left - right, axis=-1)


def lip_gap(mouth: Float[np.ndarray, "t 20 2"]) -> Float[np.ndarray, " t"]:
    """Between the middles of the inner lips, in the points' unit."""
    upper, lower = (mouth[:, point - MOUTH.start] for point in (UPPER_LIP, LOWER_LIP))
    return np.linalg.norm(lower - upper, axis=-1)


def sync_box(landmarks: Float32[np.ndarray, "t 68 2"]) -> Float32[np.ndarray, "4"]:
    """The face of a whole clip, y0, x0, y1, x1 in [0, 1]: half the forehead to below the chin.

    As the face detector has it with which sync experts are trained, and steady over the clip.
    """
    low, high = np.median(landmarks.min(axis=1), axis=0), np.median(landmarks.max(axis=1), axis=0)
    return np.clip(_detected_box(low, high)[[1, 0, 3, 2]], 0, 1).astype(np.float32)


def default_detector() -> FaceDetector:
    """The landmarker; the cascade if no model is named and none can be fetched.

    Raises:
        InputError: the model that is named, or the one at hand, is missing or damaged.
    """
    try:
        model = landmarker_model()
    except InputError:
        if os.environ.get(MODEL_VARIABLE):
            raise
        return CascadeDetector()
    return FaceLandmarker(model)


def portrait_crop(
    image: UInt8[np.ndarray, "h w 3"],
    size: int,
    mode: Literal["auto", "none"] = "auto",
    detector: FaceDetector | None = None,
) -> tuple[UInt8[np.ndarray, "{size} {size} 3"], str]:
    """A portrait as the networks expect it, and a note on what was done.

    Args:
        image: RGB.
        size: side of the result in pixels.
        mode: "auto" crops the largest face as EMOCA does; "none" takes the middle square.
        detector: finds the faces; the default one if None.

    Raises:
        InputError: there is no face.
    """
    height, width = image.shape[:2]
    if mode == "none":
        side = min(height, width)
        return crop(image, np.array([width / 2, height / 2, side]), size), "the middle square"
    detector = detector or default_detector()
    boxes = _find_faces(image, detector)
    if not boxes:
        raise InputError(
            f"no face found in the {width}x{height} image: give a portrait with one face seen from "
            "the front, or an already cropped one with --crop none."
        )
    x, y, side = boxes[0]
    note = f"the face at ({x:.0f}, {y:.0f}), {side:.0f} pixels wide with its surroundings"
    if len(boxes) > 1:
        note += f", the largest of {len(boxes)} faces"
    if isinstance(detector, CascadeDetector):
        note += ", found by the plain cascade as MediaPipe's face landmarker model is not at hand"
    return crop(image, boxes[0], size), note


def _find_faces(image: UInt8[np.ndarray, "h w 3"], detector: FaceDetector) -> list[Box]:
    boxes = detector.boxes(image)
    if boxes:
        return boxes
    # Detectors overlook a face that fills the picture: look again with room around it.
    small = _shrunk(image, _LONGEST // 2)
    scale = max(image.shape[:2]) / max(small.shape[:2])
    room = max(small.shape[:2]) // 2
    wide = cv2.copyMakeBorder(small, *(room,) * 4, cv2.BORDER_CONSTANT, value=(128,) * 3)
    return [(box - (room, room, 0)) * scale for box in detector.boxes(wide)]
