"""The Fréchet distance of features (FID, D.4.1), for any network's features.

With `reta_jax.experts.inception` and its published weights it is the FID of pytorch-fid. It depends
on the number of images: state it beside the figure.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from data_pipeline.errors import InputError


class Moments(NamedTuple):
    """Mean and covariance of the features of n images."""

    count: int
    mean: Float64[np.ndarray, " d"]
    covariance: Float64[np.ndarray, "d d"]


def moments(features: Float[np.ndarray, "n d"]) -> Moments:
    """Raises InputError for fewer than two images."""
    if len(features) < 2:
        raise InputError(f"{len(features)} images: a Fréchet distance needs two or more")
    features = features.astype(np.float64)
    return Moments(len(features), features.mean(0), np.cov(features, rowvar=False))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    The trace of the root is taken as that of the symmetric (C_a^(1/2) C_b C_a^(1/2))^(1/2), which
    has the same eigenvalues: no complex parts to drop, and singular covariances need no care.
    """
    root = _root(a.covariance)
    shared = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(shared.clip(0)).sum()
    return float(np.square(a.mean - b.mean).sum() + trace)


def _root(covariance: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
