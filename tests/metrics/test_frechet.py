"""The Fréchet distance against SciPy's matrix root, and where it is known."""

import numpy as np
import pytest
import scipy.linalg

from data_pipeline.errors import InputError
from reta_jax.metrics.frechet import frechet_distance, moments


def features(count, width, seed):
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((count, width)) @ random.standard_normal((width, width))
    return (mixed + random.standard_normal(width)).astype(np.float32)


@pytest.mark.parametrize("count", [500, 20])  # full rank, and fewer images than features
def test_equals_the_matrix_root(count):
    a, b = features(count, 48, 0), features(400, 48, 1)
    ours = frechet_distance(moments(a), moments(b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    trace = sum(np.trace(c) for c in covariances) - 2 * np.trace(root)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + trace
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_a_shift_counts_its_square_and_a_scale_its_difference():
    a = features(300, 8, 2)
    same = moments(a)
    np.testing.assert_allclose(frechet_distance(same, same), 0, atol=1e-6)
    shift = np.arange(8, dtype=np.float32)
    np.testing.assert_allclose(frechet_distance(same, moments(a + shift)), 140, rtol=1e-4)
    variance = a.astype(np.float64).var(0, ddof=1).sum()
    centred = a - a.mean(0)
    doubled = frechet_distance(moments(centred), moments(2 * centred))
    np.testing.assert_allclose(doubled, variance, rtol=1e-4)


def test_the_references_root_is_taken_once(monkeypatch):
    roots = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda x: roots.append(x) or eigh(x))
    reference = moments(features(50, 4, 0))
    for seed in (1, 2, 3):
        frechet_distance(moments(features(50, 4, seed)), reference)
    assert len(roots) == 1 and roots[0] is reference.covariance


def test_one_image_is_refused():
    with pytest.raises(InputError, match="1 images"):
        moments(features(1, 4, 0))
