"""The Fréchet distance of features (FID, D.4.1), for any network's features.

With `reta_jax.experts.inception` and its published weights it is the FID of pytorch-fid. It depends
on the number of images: state it beside the figure.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, Float64

from data_pipeline.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of the features of images."""

    mean: Float64[np.ndarray, " d"]
    covariance: Float64[np.ndarray, "d d"]

    @functools.cached_property
    def root(self) -> Float64[np.ndarray, "d d"]:
        """Of the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def moments(features: Float[np.ndarray, "n d"]) -> Moments:
    """Raises InputError for fewer than two images."""
    if len(features) < 2:
        raise InputError(f"{len(features)} images: a Fréchet distance needs two or more")
    features = features.astype(np.float64)
    return Moments(features.mean(0), np.cov(features, rowvar=False))


def frechet_distance(a: Moments, reference: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), b the reference.

    The trace of the root is taken as that of the symmetric (C_b^(1/2) C_a C_b^(1/2))^(1/2), which
    has the same eigenvalues: no complex parts to drop, and singular covariances need no care. The
    reference's root is taken once for all that is held against it.
    """
    shared = np.linalg.eigvalsh(reference.root @ a.covariance @ reference.root)
    trace = np.trace(a.covariance) + np.trace(reference.covariance)
    trace -= 2 * np.sqrt(shared.clip(0)).sum()
    return float(np.square(a.mean - reference.mean).sum() + trace)
