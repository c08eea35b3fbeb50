"""What each kind of expert learns from a batch, and what is done to the batch before.

A batch has the fields of data_pipeline/loader.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from data_pipeline.face import MOUTH
from reta_jax.experts.landmark_net import gap_height, into_lower_face, lower_face
from reta_jax.experts.syncnet import (
    WHOLE_FRAME,
    SyncNetExpert,
    SyncNetV2,
    frames_to_input,
    frames_to_v2_input,
)
from reta_jax.images import to_float
from reta_jax.losses import cosine_similarity
from reta_jax.metrics.landmarks import eye_opening

TEMPERATURE = 0.1  # of identity_net's contrast
COARSER = 4  # times, than frames, are what is left of them without their detail
ATTACK_STEPS, ATTACK_STRIDE = 3, 0.5  # of projected gradient ascent; share of the radius


class Outcome(NamedTuple):
    """What a task makes of a batch."""

    loss: Array
    score: Array
    stats: Any  # batch statistics after it
    outputs: tuple[Array, Array] | None = None  # (values, labels) for the diagnosis
    examples: Array | float = 1.0  # that loss and score are means of; only their ratio matters


Task = Callable[[nn.Module, Any, dict[str, Array], bool], Outcome]


def emotion_frames(network, variables, batch, train) -> Outcome:
    """Cross-entropy of single frames against the clip's label; score is accuracy.

    Clips without a label (-1) teach nothing and are not asked about.
    """
    frames = batch["frames"]
    labels = jnp.repeat(batch["emotion"], frames.shape[1])
    _, logits = network.apply(variables, frames.reshape(-1, *frames.shape[2:]))
    return Outcome(*_classify(logits, labels), {}, (logits, labels), (labels >= 0).sum())


def emotion_clips(network, variables, batch, train) -> Outcome:
    """Cross-entropy of whole windows against the clip's label, if it has one; score is accuracy."""
    (logits, _), stats = _apply(network, variables, train, batch["frames"])
    labels = batch["emotion"]
    return Outcome(*_classify(logits, labels), stats, (logits, labels), (labels >= 0).sum())


def sync_pairs(network, variables, batch, train) -> Outcome:
    """Binary cross-entropy on the cosine, half of the pairs out of step.

    Score is the share of the moments whose own voice scores higher than a shifted one. Chance is
    0.69 and 0.5.
    """
    faces = frames_to_input(batch["frames"], batch["sync_box"])
    faces = jnp.concatenate([faces, faces])
    mel = jnp.concatenate([batch["mel"], batch["shifted_mel"]])
    v, stats = _apply(network, variables, train, faces, method=SyncNetExpert.embed_faces)
    variables = {"params": variables["params"], "batch_stats": stats}
    s, stats = _apply(network, variables, train, mel, method=SyncNetExpert.embed_audio)
    cosine = jnp.clip(cosine_similarity(v, s), 1e-4, 1 - 1e-4)
    labels = jnp.arange(len(cosine)) < len(cosine) // 2
    loss = -jnp.where(labels, jnp.log(cosine), jnp.log1p(-cosine)).mean()
    own, other = jnp.split(cosine, 2)
    return Outcome(loss, (own > other).mean(), stats, (cosine, labels))


def sync_moments(network, variables, batch, train) -> Outcome:
    """Which of eight moments of a clip is that of the lips: cross-entropy of minus the distances.

    The multi-way matching of Chung et al. 2019 ("Perfect match"). Score is accuracy; chance is ln 8
    and 1/8.
    """
    lips = frames_to_v2_input(batch["frames"], batch["sync_box"])
    v, stats = _apply(network, variables, train, lips, method=SyncNetV2.embed_lips)
    variables = {"params": variables["params"], "batch_stats": stats}
    mfcc = batch["mfcc"]
    s, stats = _apply(
        network, variables, train, mfcc.reshape(-1, *mfcc.shape[2:]), method=SyncNetV2.embed_audio
    )
    difference = v[:, None] - s.reshape(*mfcc.shape[:2], -1)
    closeness = -jnp.sqrt(jnp.square(difference).sum(-1) + 1e-8)
    own = jnp.zeros(len(v), int)
    is_own = jnp.zeros(closeness.shape, bool).at[:, 0].set(True)
    return Outcome(*_classify(closeness, own), stats, (closeness.ravel(), is_own.ravel()))


def mouth_points(network, variables, batch, train) -> Outcome:
    """Mean distance to the mouth's true points; score is the correlation of its opening.

    Clips without landmarks, which are zeros, teach nothing and are not asked about.
    """
    frames, box = batch["frames"][:, 0], batch["sync_box"]
    points = network.apply(variables, lower_face(frames, box, network.size))
    landmarks = batch["landmarks"][:, 0]
    truth, known = into_lower_face(landmarks[:, MOUTH], box), landmarks.any((1, 2))
    score = _correlation(gap_height(points), gap_height(truth), known)
    return Outcome(_mean_distance(points, truth, known), score, {}, examples=known.sum())


def face_points(network, variables, batch, train) -> Outcome:
    """Mean distance to the face's true points; score is the correlation of the eyes' opening.

    Eyes count four times: they are the smallest, and blinks are read off them. Clips without
    landmarks count nothing.
    """
    points, truth = network.apply(variables, batch["frames"][:, 0]), batch["landmarks"][:, 0]
    eyes, known = slice(36, 48), truth.any((1, 2))
    loss = _mean_distance(points, truth, known)
    loss += _mean_distance(points[:, eyes], truth[:, eyes], known)
    score = _correlation(eye_opening(points), eye_opening(truth), known)
    return Outcome(loss, score, {}, examples=known.sum())


def same_person(network, variables, batch, train) -> Outcome:
    """Contrast of each frame with everybody's portrait; score is how often the nearest is right.

    -log (sum over portraits of the same person of softmax(cosine / 0.1)).
    """
    frames = network.apply(variables, batch["frames"][:, 0])
    portraits = network.apply(variables, batch["portrait"])
    is_same = batch["identity"][:, None] == batch["identity"][None, :]
    cosine = frames @ portraits.T
    shares = jax.nn.log_softmax(cosine / TEMPERATURE)
    loss = -jax.nn.logsumexp(jnp.where(is_same, shares, -jnp.inf), axis=1).mean()
    nearest = jnp.take_along_axis(is_same, cosine.argmax(1)[:, None], 1)
    return Outcome(loss, nearest.mean(), {}, (cosine.reshape(-1), is_same.reshape(-1)))


TASKS: dict[str, Task] = {
    "emotion_vit": emotion_frames,
    "emotion_fan": emotion_clips,
    "sync_expert": sync_pairs,
    "syncnet_v2": sync_moments,
    "landmark_net": mouth_points,
    "face_net": face_points,
    "identity_net": same_person,
}
LANDMARK_TASKS = ("landmark_net", "face_net")


def _mean_of_known(x: Array, known: Array) -> Array:
    """Mean of the rows that are known; 0 if none is."""
    return jnp.where(known, x, 0).sum() / jnp.maximum(known.sum(), 1)


def _mean_distance(points: Array, truth: Array, known: Array) -> Array:
    """Mean over points (b, k, 2) of the rows that are known (b,)."""
    return _mean_of_known(jnp.sqrt(((points - truth) ** 2).sum(-1) + 1e-8).mean(1), known)


def _correlation(a: Array, b: Array, known: Array) -> Array:
    """Pearson's, of the rows that are known; 0 where one of both is flat."""
    a, b = (x - _mean_of_known(x, known) for x in (a, b))
    variances = _mean_of_known(a * a, known) * _mean_of_known(b * b, known)
    return _mean_of_known(a * b, known) / jnp.sqrt(jnp.maximum(variances, 1e-20))


def _apply(network, variables, train, *args, **kwargs):
    """Applies a network with batch statistics: updated when training, used otherwise."""
    if not train:
        return network.apply(variables, *args, **kwargs), variables.get("batch_stats", {})
    output, updated = network.apply(variables, *args, **kwargs, train=True, mutable=["batch_stats"])
    return output, variables["batch_stats"] | updated["batch_stats"]


def _classify(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Cross-entropy and accuracy where the label is known, not below 0; both 0 if none is."""
    is_known = labels >= 0  # a label of -1 would be the last class
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    is_right = logits.argmax(-1) == labels
    return _mean_of_known(losses, is_known), _mean_of_known(is_right, is_known)


def variables_of(params: Any, stats: Any) -> dict[str, Any]:
    return {"params": params, "batch_stats": stats} if stats else {"params": params}


def as_float(batch: dict[str, Array]) -> dict[str, Array]:
    return batch | {name: to_float(batch[name]) for name in ("frames", "portrait")}


def augmented(
    batch: dict[str, Array], key: Array, fade: float, whole_frames: float
) -> dict[str, Array]:
    """Brightness, contrast, noise and up to `fade` of the detail, one draw a clip.

    Judges must not live on a light's colour, nor on what the first rendered faces lack. SyncNet v2
    sees `whole_frames` of the clips uncropped, for its direct crop.
    """
    batch = as_float(batch)
    frames = batch["frames"]
    keys = jax.random.split(key, 5)
    is_whole = jax.random.bernoulli(keys[4], whole_frames, (len(frames), 1))
    boxes = jnp.where(is_whole, jnp.asarray(WHOLE_FRAME), batch["sync_box"])
    if fade:
        shape = frames.shape
        small = (*shape[:2], shape[2] // COARSER, shape[3] // COARSER, shape[4])
        soft = jax.image.resize(jax.image.resize(frames, small, "linear"), shape, "linear")
        frames += jax.random.uniform(keys[3], (len(frames), 1, 1, 1, 1), maxval=fade) * (
            soft - frames
        )
    draw = lambda k, spread: spread * jax.random.normal(k, (len(frames), 1, 1, 1, 3))
    frames = frames * (1 + draw(keys[0], 0.1)) + draw(keys[1], 0.05)
    frames += 0.02 * jax.random.normal(keys[2], frames.shape)
    return batch | {"frames": frames, "sync_box": boxes}


def attacked(loss_of: Callable[[Array], Array], frames: Array, radius: Array) -> Array:
    """Frames (b, t, h, w, 3), each moved by `radius` (L2) to where the loss is larger.

    Projected gradient ascent (Madry et al. 2018). A network that is right there, too, is pleased by
    what changes the face, not by noise: as a teacher, its gradient in pixels is worth following.
    """
    norm = lambda x: jnp.sqrt(jnp.square(x).sum((2, 3, 4), keepdims=True) + 1e-12)
    offset = jnp.zeros_like(frames)
    for _ in range(ATTACK_STEPS):
        gradient = jax.grad(lambda offset: loss_of(frames + offset))(offset)
        offset += ATTACK_STRIDE * radius * gradient / norm(gradient)
        offset *= jnp.minimum(1, radius / norm(offset))
    return frames + offset
