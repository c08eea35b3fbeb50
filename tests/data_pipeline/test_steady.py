"""A head is held still: what is rigid lies where the portrait has it, lips keep their shape."""

import cv2
import numpy as np
import pytest

from data_pipeline.steady import RIGID, hold_still, similarity

SIZE = 128
EYES_NOSE = np.s_[46:76, 46:82]  # of the picture, where the rigid points below lie


@pytest.fixture
def face() -> np.ndarray:
    """68 points about as an EMOCA crop has them; the mouth is a little open."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0.3, 0.7, (68, 2))
    points[:17] = np.column_stack([np.linspace(0.2, 0.8, 17), 0.4 + 0.42 * np.hanning(17)])
    points[27:36] = np.column_stack([np.linspace(0.45, 0.55, 9), np.linspace(0.35, 0.6, 9)])
    points[36:48] = np.column_stack([np.linspace(0.3, 0.7, 12), np.full(12, 0.36)])
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    points[48:60] = np.column_stack([0.5 + 0.12 * np.cos(angle), 0.72 + 0.05 * np.sin(angle)])
    points[60:68] = points[48:60][[0, 2, 3, 4, 6, 8, 9, 10]] * 0.6 + np.array([0.5, 0.72]) * 0.4
    return points.astype(np.float32)


def turned(points: np.ndarray, degrees: float, scale: float, shift: tuple) -> np.ndarray:
    turn = np.radians(degrees)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return ((points - 0.5) @ matrix.T + 0.5 + shift).astype(np.float32)


def texture() -> np.ndarray:
    noise = np.random.default_rng(1).random((SIZE, SIZE, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))


def test_a_similarity_is_found():
    points = np.random.default_rng(0).random((9, 2))
    found = similarity(points, turned(points, 8, 1.1, (0.03, -0.02)))
    moved = np.column_stack([points, np.ones(9)]) @ found
    np.testing.assert_allclose(moved, turned(points, 8, 1.1, (0.03, -0.02)), atol=1e-6)


def test_a_moved_head_comes_back(face):
    moved = turned(face, 4, 1.04, (0.03, -0.02))
    picture = texture()
    turn = np.radians(4)
    matrix = 1.04 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = np.full(2, SIZE / 2 - 0.5)
    shift = centre - matrix @ centre + np.array([0.03, -0.02]) * SIZE
    frame = cv2.warpAffine(picture, np.column_stack([matrix, shift]), (SIZE, SIZE))

    still, points = hold_still(frame[None], moved[None], np.zeros_like(picture), face)
    assert np.abs(points[0, RIGID] - face[RIGID]).max() < 0.25 / SIZE
    error = lambda image: np.abs(np.int32(image[EYES_NOSE]) - picture[EYES_NOSE]).mean()
    assert error(frame) > 10  # as it came
    assert error(still[0]) < 2


def test_lips_keep_their_shape(face):
    """An open mouth stays as open as it is, though the portrait's is shut."""
    speaking = face.copy()
    speaking[48:68, 1] = 0.72 + 2.0 * (face[48:68, 1] - 0.72)
    speaking[5:12, 1] += 0.04
    moved = turned(speaking, 3, 1.0, (0.02, 0.01))
    _, points = hold_still(texture()[None], moved[None], texture(), face)
    np.testing.assert_allclose(points[0, 48:60], speaking[48:60], atol=0.01)


def test_around_the_face_is_the_portrait(face):
    """Also where the chin has come down, the face is the frame's."""
    speaking = face.copy()
    speaking[5:12, 1] += 0.06
    white, black = np.full((1, SIZE, SIZE, 3), 255, np.uint8), np.zeros((SIZE, SIZE, 3), np.uint8)
    still, points = hold_still(white, speaking[None], black, face)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        assert still[0][edge].max() < 10
    columns, rows = np.int32(points[0, RIGID] * SIZE).T
    assert still[0][rows, columns].min() > 100  # the ends of the jaw lie at the edge of the face
    chin = np.int32(points[0, 8] * SIZE)
    assert still[0, chin[1] - 2, chin[0]].min() > 200
