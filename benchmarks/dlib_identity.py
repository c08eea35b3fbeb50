"""Whose face, by dlib's published network, for reports on filmed people.

    pip install dlib-bin face_recognition_models
    PYTHONPATH=benchmarks python -m reta_jax.evaluate --videos generated --reference real \
        --identity dlib_identity:embed

Its vectors have length 1, and it calls two faces one person's within a distance of 0.6, which is a
similarity of 0.82.
"""

import importlib.util
from pathlib import Path

import dlib
import numpy as np

(_PACKAGE,) = importlib.util.find_spec("face_recognition_models").submodule_search_locations
_FILES = Path(_PACKAGE) / "models"
_detect = dlib.get_frontal_face_detector()
_find_points = dlib.shape_predictor(str(_FILES / "shape_predictor_5_face_landmarks.dat"))
_network = dlib.face_recognition_model_v1(str(_FILES / "dlib_face_recognition_resnet_model_v1.dat"))
SIDE, EVERY = 256, 5  # pixels that are looked at; frames that share a look


def embed(frames: np.ndarray) -> np.ndarray:
    """(t, h, w, 3) uint8 RGB to (t, 128); every fifth frame is looked at, the next four repeat it.

    Where no face is detected, the middle of the picture is taken for one.
    """
    looked = [_look(frame) for frame in frames[::EVERY]]
    return np.repeat(looked, EVERY, axis=0)[: len(frames)]


def _look(frame: np.ndarray) -> np.ndarray:
    scale = max(1, round(SIDE / len(frame)))
    frame = np.ascontiguousarray(frame.repeat(scale, 0).repeat(scale, 1))
    edge = len(frame) // 5
    middle = dlib.rectangle(edge, edge, len(frame) - edge, len(frame) - edge)
    found = max(_detect(frame), key=lambda box: box.area(), default=middle)
    return np.array(_network.compute_face_descriptor(frame, _find_points(frame, found)))
