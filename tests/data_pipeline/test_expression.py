"""Coefficients fitted to landmarks, against the synthetic world's, which are known."""

import numpy as np
import pytest

from data_pipeline.augment import MIRRORED_LANDMARKS
from data_pipeline.expression import fit_coefficients, mirror_coefficients
from data_pipeline.face_basis import load_face_basis
from data_pipeline.synthetic import synthesize_clip

LIPS = slice(48, 68)


@pytest.fixture(scope="module")
def clips():
    return [synthesize_clip(seed, "neutral", seed, 2.0, size=32) for seed in range(3)]


def landmarks_of(coefficients: np.ndarray) -> np.ndarray:
    """(t, 68, 3) centimetres of the mean face, its head at rest."""
    basis = load_face_basis()
    still = [name.startswith("head") for name in basis.names]
    modes = basis.expression[basis.landmark_vertices]
    return basis.mean[basis.landmark_vertices] + np.einsum(
        "lck,tk->tlc", modes, np.where(still, 0, coefficients)
    )


def centred(points: np.ndarray) -> np.ndarray:
    return points - points.mean(0)


def test_lips_and_lids_move_as_they_did_for_people_of_any_face(clips):
    blink = load_face_basis().names.index("eyeBlink_L")
    for clip in clips:
        fitted = fit_coefficients(clip.landmarks)
        assert fitted.shape == clip.coefficients.shape and fitted.dtype == np.float32
        lips, truth = (
            centred(landmarks_of(p)[:, LIPS]) for p in (fitted, clip.coefficients)
        )  # in depth, too, which no landmark shows
        assert np.square(lips - truth).sum() < 0.1 * np.square(truth).sum()
        if np.ptp(clip.coefficients[:, blink]) > 0.5:
            assert np.corrcoef(fitted[:, blink], clip.coefficients[:, blink])[0, 1] > 0.97


def test_where_the_head_is_and_how_large_does_not_matter(clips):
    landmarks = clips[0].landmarks
    angle = np.linspace(0, 0.5, len(landmarks))
    turn = np.stack([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = 30 * np.einsum("ijt,tlj->tli", turn, landmarks) + [5, -7]
    np.testing.assert_allclose(fit_coefficients(moved), fit_coefficients(landmarks), atol=1e-4)


def test_a_face_at_rest_is_zero(clips):
    still = np.repeat(clips[0].landmarks[:1], 5, 0)
    np.testing.assert_allclose(fit_coefficients(still), np.zeros((5, 64)), atol=1e-6)


def test_never_beyond_a_full_expression(clips):
    torn = clips[0].landmarks.copy()
    torn[3, LIPS] += np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    assert np.abs(fit_coefficients(torn)).max() == 1


def test_a_mirrored_face_has_mirrored_coefficients(clips):
    landmarks = clips[1].landmarks
    mirrored = landmarks[:, MIRRORED_LANDMARKS] * np.float32([-1, 1])
    found, expected = fit_coefficients(mirrored), fit_coefficients(landmarks)
    assert np.abs(found - expected).max() > 0.02  # nobody is symmetric
    # The basis is a mirror of itself but for its vertices' choice.
    np.testing.assert_allclose(
        landmarks_of(found)[:, LIPS],
        landmarks_of(mirror_coefficients(expected))[:, LIPS],
        atol=0.05,
    )
    np.testing.assert_array_equal(mirror_coefficients(mirror_coefficients(expected)), expected)
