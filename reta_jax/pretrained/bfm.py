"""Basel Face Model 2009 with the expression basis of CoarseData, as Deep3DFaceRecon prepares it.

Read from `BFM_model_front.mat`, or from the folder of what that is made of: 01_MorphableModel.mat
(to be requested from Basel), Exp_Pca.bin, std_exp.txt, BFM_exp_idx.mat, BFM_front_idx.mat and
facemodel_info.mat. The 64 expression modes are scaled to one standard deviation.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.face import MOUTH
from reta_jax.pretrained.source import Source, Weights

MODES = 64
DECIMETRE = 10.0  # centimetres; the prepared file's unit
MICROMETRES = 1e5  # of the raw model, to a decimetre
LIMIT = 3.0  # standard deviations, which a mode's coefficient counts: up to here it is a face
LIP_RADIUS = 1.0  # centimetres around a mouth landmark
RAW_FILES = (
    "01_MorphableModel.mat", "Exp_Pca.bin", "std_exp.txt", "BFM_exp_idx.mat", "BFM_front_idx.mat",
    "facemodel_info.mat",
)  # fmt: skip
# What scipy raises for files that are damaged, or no MATLAB files, besides its own error.
_MATLAB_ERRORS = OSError, ValueError, TypeError, KeyError, NotImplementedError, zlib.error


def read(path: Path) -> Weights:
    """The mean face, U_exp and a cylindrical UV map.

    Raises InputError if something that it needs is missing.
    """
    try:
        mean, expression, triangles, keypoints = _raw(path) if path.is_dir() else _prepared(path)
        mouth = mean[keypoints[MOUTH]]
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{path} is no {SOURCE.published[0]}: it lacks {error}") from error
    except (IndexError, ValueError, TypeError) as error:
        raise InputError(f"the parts of {path} do not fit together: {error}") from error
    if expression.shape != (*mean.shape, MODES) or len(mouth) != 20:
        raise InputError(
            f"{path}: {len(mean)} vertices, expressions of shape {expression.shape} and "
            f"{len(keypoints)} landmarks are not {MODES} modes and 68 landmarks of one mesh"
        )
    mean = (mean - mean.mean(0)) * DECIMETRE
    arrays = {
        "mean": mean.astype(np.float32),
        "expression": (expression * DECIMETRE).astype(np.float32),
        "triangles": triangles.astype(np.int32),
        "uv": cylinder_map(mean).astype(np.float32),
        "lip_vertices": _near(mean, mean[keypoints[MOUTH]], LIP_RADIUS).astype(np.int32),
    }
    names = [f"exp{i}" for i in range(MODES)]
    return Weights("morphable", arrays, {"names": names, "limit": LIMIT})


def cylinder_map(points: np.ndarray) -> np.ndarray:
    """(v, 2) in [0, 1]: the angle about the vertical axis and the height, top first.

    Points are centimetres, x to the side, y up, z to the front; the axis runs through the head, a
    face's depth behind the middle of the face.
    """
    angle = np.arctan2(points[:, 0], points[:, 2] - points[:, 2].min())
    flat = np.stack([angle, -points[:, 1]], -1)
    low, high = flat.min(0), flat.max(0)
    return (flat - low) / (high - low)


def _prepared(path: Path) -> tuple[np.ndarray, ...]:
    model = _load(path)
    mean = np.float64(model["meanshape"]).reshape(-1, 3)
    return (
        mean,
        _modes(model["exBase"], len(mean)),
        np.int64(model["tri"]) - 1,
        np.int64(model["keypoints"]).ravel() - 1,
    )


def _raw(folder: Path) -> tuple[np.ndarray, ...]:
    missing = [name for name in RAW_FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}")
    front = np.int64(_load(folder / "BFM_front_idx.mat")["idx"]).ravel() - 1
    kept = (np.int64(_load(folder / "BFM_exp_idx.mat")["trimIndex"]).ravel() - 1)[front]
    shape = _load(folder / "01_MorphableModel.mat")["shapeMU"]
    mean = np.float64(shape).reshape(-1, 3)[kept] / MICROMETRES
    info = _load(folder / "facemodel_info.mat")
    return (
        mean,
        _expression_basis(folder)[front],
        np.int64(info["tri"]) - 1,
        np.int64(info["keypoints"]).ravel() - 1,
    )


def _expression_basis(folder: Path) -> np.ndarray:
    """(v, 3, 64) of Exp_Pca.bin: int32 modes, the mean, then one row a mode."""
    data = (folder / "Exp_Pca.bin").read_bytes()
    modes = int.from_bytes(data[:4], "little")
    numbers = np.frombuffer(data[4 : len(data) // 4 * 4], "<f4")
    if modes < MODES or len(numbers) % (modes + 1):
        raise InputError(f"{folder / 'Exp_Pca.bin'} is not whole: fetch it again")
    basis = numbers.reshape(modes + 1, -1)[1:].T
    deviations = np.loadtxt(folder / "std_exp.txt").ravel()[:modes]
    return _modes(np.float64(basis) * deviations / MICROMETRES, basis.shape[0] // 3)


def _modes(basis: np.ndarray, vertices: int) -> np.ndarray:
    return np.float64(basis).reshape(vertices, 3, -1)[..., :MODES]


def _load(path: Path) -> dict[str, Any]:
    import scipy.io  # Not above: the other sources do without.

    try:
        return scipy.io.loadmat(path)
    except (*_MATLAB_ERRORS, scipy.io.matlab.MatReadError) as error:
        raise InputError(f"{path} is no MATLAB file, or not whole: {error}") from error


def _near(points: np.ndarray, centres: np.ndarray, radius: float) -> np.ndarray:
    distance = np.linalg.norm(points[:, None] - centres[None], axis=-1).min(1)
    return np.flatnonzero(distance < radius)


SOURCE = Source(
    name="bfm",
    gives="3DMM of the bridge",
    published=("BFM_model_front.mat", "01_MorphableModel.mat and Exp_Pca.bin"),
    where="https://faces.dmi.unibas.ch (on request); https://github.com/Juyong/3DFace",
    licence="non-commercial (Basel Face Model)",
    is_commercial=False,
    megabytes=127,
    read=read,
)
