"""How a filmed face is moved, in the coefficients of the built-in 3DMM: fitted to its landmarks.

Nobody filmed knows p_exp. What differs between a frame's landmarks and those of the same face at
rest, both brought to lie like the model's, is near enough linear in it.
"""

import functools

import numpy as np
from jaxtyping import Float, Float32

from data_pipeline.face_basis import load_face_basis
from data_pipeline.steady import RIGID, similarity

# Of iBUG's 68 points, those that expressions move: the chin, brows, eyes and lips.
_MOVED = np.array([*range(6, 11), *range(17, 27), *range(36, 48), *range(48, 68)])
_INNER_LIPS = ((61, 67), (62, 66), (63, 65))  # upper, lower
_AT_REST = 0.2  # share of a clip's frames, those with the mouth least open
_TREMBLE, _USUAL = 0.05, 0.25  # centimetres of a landmark, and a coefficient's standard deviation


def fit_coefficients(landmarks: Float[np.ndarray, "t 68 2"]) -> Float32[np.ndarray, "t 64"]:
    """p_exp of each frame of a clip; 0 is the face at rest, its mouth as shut as the clip shows it.

    The head may turn in the picture's plane, come nearer and go; turning out of it is taken for
    movement of the face. Modes that landmarks do not tell apart share what they see.

    Args:
        landmarks: x, y of each frame in any unit, y down.
    """
    basis = load_face_basis()
    model = basis.mean[basis.landmark_vertices, :2] * [1, -1]
    placed = np.stack([_place(points, model) for points in landmarks.astype(np.float64)])
    moved = (placed - _at_rest(placed))[:, _MOVED]
    coefficients = moved.reshape(len(moved), -1) @ _solution().T
    return np.clip(coefficients, -1, 1).astype(np.float32)  # 1 is a full expression


def mirror_coefficients(coefficients: Float32[np.ndarray, "*t 64"]) -> Float32[np.ndarray, "*t 64"]:
    """Those of the face in a mirror."""
    order, sign = _mirrored_modes()
    return coefficients[..., order] * sign


def _place(
    points: Float[np.ndarray, "68 2"], model: Float[np.ndarray, "68 2"]
) -> Float[np.ndarray, "68 2"]:
    """Points where the model has them, in its centimetres."""
    return np.column_stack([points, np.ones(len(points))]) @ similarity(points[RIGID], model[RIGID])


def _at_rest(placed: Float[np.ndarray, "t 68 2"]) -> Float[np.ndarray, "68 2"]:
    """The face with its mouth shut and its eyes open, as they mostly are."""
    upper, lower = np.array(_INNER_LIPS).T
    opening = (placed[:, lower, 1] - placed[:, upper, 1]).mean(1)
    shut = opening <= np.quantile(opening, _AT_REST)
    rest = np.median(placed[shut], axis=0)
    rest[17:48] = np.median(placed[:, 17:48], axis=0)  # brows and eyes
    return rest


@functools.cache
def _solution() -> Float[np.ndarray, "64 n"]:
    """Coefficients per centimetre of the moved points: the likeliest, both being Gaussian.

    min_p |A p - d|^2 / tremble^2 + |p|^2 / usual^2
    """
    basis = load_face_basis()
    expression = basis.expression.astype(np.float64)
    expression[..., [name.startswith("head") for name in basis.names]] = 0
    seen = expression[basis.landmark_vertices[_MOVED], :2] * np.array([1, -1])[:, None]
    seen = seen.reshape(-1, expression.shape[-1])
    prior = (_TREMBLE / _USUAL) ** 2 * np.eye(expression.shape[-1])
    return np.linalg.solve(seen.T @ seen + prior, seen.T)


@functools.cache
def _mirrored_modes() -> tuple[np.ndarray, np.ndarray]:
    """Which mode does in a mirror what mode i does, and with which sign."""
    names = load_face_basis().names
    swap = {"_L": "_R", "_R": "_L"}
    whole = {"jawLeft": "jawRight", "mouthLeft": "mouthRight"}
    whole |= {right: left for left, right in whole.items()}
    other = [whole.get(n, n[:-2] + swap[n[-2:]] if n[-2:] in swap else n) for n in names]
    sign = np.array([-1 if n in ("headYaw", "headRoll", "headX") else 1 for n in names])
    return np.array([names.index(n) for n in other]), sign.astype(np.float32)
