"""A head is held still: what is rigid lies where the portrait has it, lips keep their shape."""

import cv2
import numpy as np
import pytest

from data_pipeline.steady import RIGID, hold_still, similarity

SIZE = 128
EYES_NOSE = np.s_[30:100, 34:94]  # of the picture, where the rigid points below lie


@pytest.fixture
def face() -> np.ndarray:
    """68 points about as an EMOCA crop has them; the mouth is a little open."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0.3, 0.7, (68, 2))
    points[:17] = np.column_stack([np.linspace(0.15, 0.85, 17), 0.4 + 0.45 * np.hanning(17)])
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

    still, points = hold_still(frame[None], moved[None], face)
    assert np.abs(points[0, RIGID] - face[RIGID]).max() < 0.25 / SIZE
    error = lambda image: np.abs(np.int32(image[EYES_NOSE]) - picture[EYES_NOSE]).mean()
    assert error(frame) > 15  # as it came
    assert error(still[0]) < 2


def test_lips_keep_their_shape(face):
    """An open mouth stays as open as it is, though the portrait's is shut."""
    speaking = face.copy()
    speaking[48:68, 1] = 0.72 + 2.0 * (face[48:68, 1] - 0.72)
    speaking[5:12, 1] += 0.04
    _, points = hold_still(texture()[None], turned(speaking, 3, 1.0, (0.02, 0.01))[None], face)
    np.testing.assert_allclose(points[0, 48:60], speaking[48:60], atol=0.01)


def test_the_border_stays(face):
    picture = texture()
    still, _ = hold_still(picture[None], turned(face, 4, 1.04, (0.03, -0.02))[None], face)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        assert np.abs(np.int32(still[0][edge]) - picture[edge]).mean() < 6
    same, _ = hold_still(picture[None], face[None], face)
    assert np.abs(np.int32(same[0]) - picture).max() <= 1
