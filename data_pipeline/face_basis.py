"""The built-in 3-D morphable face: a small linear model cut from ICT-FaceKit (see NOTICE)."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import InputError


class FaceBasis(NamedTuple):
    """shape = mean + expression @ p_exp + identity @ p_id.

    Centimetres, x to the right of the image, y up, z towards the camera. The six rigid modes
    (headPitch, headYaw, headRoll in radians about `neck_top`; headX, headY, headZ in cm) are in the
    linear model as first derivatives.
    """

    mean: np.ndarray  # (V, 3) float32, s̄
    triangles: np.ndarray  # (F, 3) int32, counter-clockwise seen from outside
    uv: np.ndarray  # (V, 2) float32 in [0, 1], v down; injective
    expression: np.ndarray  # (V, 3, 64) float32, U_exp
    names: tuple[str, ...]  # 64 names of the expression modes
    identity: np.ndarray  # (V, 3, 40) float32, U_id, unit-variance coefficients
    landmark_vertices: np.ndarray  # (68,) int32, iBUG order
    lip_vertices: np.ndarray  # (L,) int32, for LVE
    neck_top: np.ndarray  # (3,) float32, the centre of the head's rotation


def load_face_basis(path: str | Path | None = None) -> FaceBasis:
    """Read a basis written by scripts/make_face_basis.py; the built-in one when `path` is None.

    Raises InputError when the file is missing or is not such a basis.
    """
    return _built_in() if path is None else _read(Path(path))


@functools.cache
def _built_in() -> FaceBasis:
    with resources.as_file(resources.files("data_pipeline") / "assets/face_basis.npz") as path:
        basis = _read(path)
    for array in basis:  # shared by everybody in the process
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return basis


def _read(path: Path) -> FaceBasis:
    try:
        with np.load(path, allow_pickle=False) as stored:
            data = dict(stored)
        return FaceBasis(
            mean=data["mean"],
            triangles=data["triangles"].astype(np.int32),
            uv=data["uv"],
            expression=data["expression"].astype(np.float32) * data["expression_scale"],
            names=tuple(str(name) for name in data["names"]),
            identity=data["identity"].astype(np.float32) * data["identity_scale"],
            landmark_vertices=data["landmark_vertices"],
            lip_vertices=data["lip_vertices"],
            neck_top=data["neck_top"],
        )
    except FileNotFoundError:
        raise InputError(
            f"face basis {path} does not exist; give the path of an .npz file"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not a face basis ({error}); make one with scripts/make_face_basis.py"
        ) from error
