"""What happens inside the generator, level by level: its features, and what moves them (Fig. 2).

The paper projects the features of different layers onto their top principal components and looks at
them. `principal_components` of a level's pixels gives those pictures; of its frames, the numbers
beside them: does the leading motion of a level go with the mouth, or with the emotion?
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Shaped

from reta_jax.images import to_uint8
from reta_jax.metrics.mouth import correlation
from reta_jax.models.generator import Level
from reta_jax.models.morphable import MorphableModel
from reta_jax.models.reta import RETA, Controls, Identity
from reta_jax.renderer import window_controls

POOLED = 16  # side of the maps that frames are compared by
FIT_TO = 1_000  # wide samples at most that components are fitted to


class Inside(NamedTuple):
    """A chunk of t frames; levels are coarse to fine, 8^2 first."""

    frames: jax.Array  # (t, h, w, 3) uint8
    features: tuple[jax.Array, ...]  # (t, h, w, c) x of each level: warped and blended
    pooled: tuple[jax.Array, ...]  # (t, d) the same, averaged down to POOLED^2 if larger, flat
    flows: tuple[jax.Array, ...]  # (t, h, w, 2)
    masks: tuple[jax.Array, ...]  # (t, h, w, 1)
    p_exp: jax.Array | None  # (t, k)


@functools.partial(jax.jit, static_argnames="reta")
def look_inside(
    reta: RETA,
    params: Any,
    morphable: MorphableModel,
    identity: Identity,
    audio: Float[Array, " n"],
    silence: Controls | None = None,
) -> Inside:
    """What is rendered of one audio window, with what every level of the generator made."""
    controls = window_controls(reta, params, morphable, audio[None], silence)
    output, captured = reta.apply(
        {"params": params},
        identity,
        controls,
        method=RETA.generate,
        capture_intermediates=lambda module, method: (
            isinstance(module, Level) and method == "__call__"
        ),
        mutable=["intermediates"],
    )
    levels = captured["intermediates"]["generator"]
    features = []
    for texture in identity.textures:
        ((x, _, _),) = levels[f"level_{texture.shape[1]}"]["__call__"]
        features.append(x.astype(jnp.float32))
    return Inside(
        frames=to_uint8(output.frames[0]),
        features=tuple(features),
        pooled=tuple(map(_pool, features)),
        flows=tuple(flow[0] for flow in output.flows),
        masks=tuple(mask[0] for mask in output.masks),
        p_exp=None if controls.p_exp is None else controls.p_exp[0],
    )


def _pool(x: Float[Array, "t h h c"]) -> Float[Array, "t d"]:
    t, h, _, c = x.shape
    side = min(h, POOLED)
    return x.reshape(t, side, h // side, side, h // side, c).mean((2, 4)).reshape(t, -1)


class Components(NamedTuple):
    """The leading principal components, the strongest first."""

    mean: np.ndarray  # (d,)
    directions: np.ndarray  # (k, d) orthonormal; zero where there is no more variance
    shares: np.ndarray  # (k,) of the total variance
    scores: np.ndarray  # (n, k)


def principal_components(samples: Float[np.ndarray, "n d"], count: int = 3) -> Components:
    """PCA of samples, by the smaller of the two matrices of products.

    The sign is chosen so that a direction's largest entry is positive. Of wide samples (d > n) at
    most FIT_TO, evenly spread, are used to find the components; the scores are of all.
    """
    mean = samples.mean(0, dtype=np.float64)
    is_wide = samples.shape[1] > samples.shape[0]
    fitted = samples[:: -(-len(samples) // FIT_TO)] if is_wide else samples
    fitted = fitted - mean.astype(samples.dtype)
    products = fitted @ fitted.T if is_wide else fitted.T @ fitted
    leading = [max(0, len(products) - count), len(products) - 1]
    values, vectors = scipy.linalg.eigh(np.float64(products), subset_by_index=leading)
    values, vectors = values[::-1], vectors[:, ::-1]
    total = np.trace(products, dtype=np.float64)
    directions, shares = np.zeros((count, samples.shape[1])), np.zeros(count)
    for i in range(int((values > 1e-6 * total).sum())):
        direction = fitted.T @ vectors[:, i] if is_wide else vectors[:, i]
        direction = direction / np.linalg.norm(direction)
        directions[i] = direction * np.sign(direction[np.abs(direction).argmax()])
        shares[i] = values[i] / total
    return Components(mean, directions, shares, samples @ directions.T - mean @ directions.T)


class LevelFacts(NamedTuple):
    """What the components of a level's frames go with; NaN where that cannot be told."""

    shares: np.ndarray  # (k,) of the variance of frames about their person's mean
    mouth: np.ndarray  # (k,) |correlation| with the mouth's opening within clips
    emotion: np.ndarray  # (k,) adjusted share of the variance between clips that emotion explains
    scores: np.ndarray  # (n, k)


def level_facts(
    features: Float[np.ndarray, "n d"],
    clip: Shaped[np.ndarray, " n"],
    identity: Shaped[np.ndarray, " n"],
    emotion: Shaped[np.ndarray, " n"],
    opening: Float[np.ndarray, " n"],
    count: int = 3,
) -> LevelFacts:
    """Facts of one level from n frames of several clips.

    Args:
      features: of each frame. A person's mean is taken away first: what is left is motion.
      clip, identity, emotion: of each frame; an emotion of -1 is not known.
      opening: of the mouth in each frame; NaN if unknown.
    """
    components = principal_components(centred_by(features, identity), count)
    scores = components.scores
    mouth, feeling = np.full(count, np.nan), np.full(count, np.nan)
    seen = np.isfinite(opening)
    if seen.any():
        gap = centred_by(opening[seen], clip[seen])
        for i in range(count):
            mouth[i] = abs(correlation(centred_by(scores[seen, i], clip[seen]), gap))
    names, firsts = np.unique(clip, return_index=True)
    means = np.stack([scores[clip == name].mean(0) for name in names])
    for i in range(count):
        feeling[i] = explained_by(means[:, i], emotion[firsts], identity[firsts])
    return LevelFacts(components.shares, mouth, feeling, scores)


def centred_by(
    values: Float[np.ndarray, " n *d"], groups: Shaped[np.ndarray, " n"]
) -> Float[np.ndarray, " n *d"]:
    """Values less the mean of their group."""
    _, index = np.unique(groups, return_inverse=True)
    centred = np.empty_like(values)
    for group in range(index.max() + 1):
        members = index == group
        centred[members] = values[members] - values[members].mean(0)
    return centred


def explained_by(
    values: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    blocks: Shaped[np.ndarray, " n"],
) -> float:
    """Share of the variance within blocks that labels explain, adjusted (adjusted R^2, >= 0).

    About 0 where labels mean nothing, however many there are; NaN with fewer than two labels, or
    with no value to spare for telling. Labels below 0 are left out.
    """
    known = labels >= 0
    values, labels, blocks = values[known], labels[known], blocks[known]
    if len(np.unique(labels)) < 2:
        return float("nan")
    by_block, by_label = (x[:, None] == np.unique(x)[None] for x in (blocks, labels))
    design = np.concatenate([by_block, by_label], 1).astype(np.float64)
    free = len(values) - np.linalg.matrix_rank(design)
    free_before = len(values) - by_block.shape[1]
    if free < 1:
        return float("nan")
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    before = centred_by(np.float64(values), blocks)
    total = (before**2).sum()
    if total == 0:
        return 0.0
    return float(max(0.0, 1 - (rest**2).sum() / free / (total / free_before)))
