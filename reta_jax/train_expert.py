"""Trains a judge or teacher from prepared data, where no published weights are at hand.

    python -m reta_jax.train_expert --config configs/judges/synthetic.py:sync_expert

Tasks: emotion_vit and emotion_fan (emotion of frames, of clips), sync_expert (Wav2Lip's in-sync
classifier), syncnet_v2 (the judge of Sync_c and Sync_d), landmark_net (the mouth's points),
face_net (all 68 points), identity_net (whose face).
The folder of weights names kind, fields, the people it was trained on, its score on people it was
not, and what else is to be known of it (reta_jax/metrics/diagnosis.py). Its metrics.jsonl has the
figures of every line that was printed.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jaxtyping import Array
from ml_collections import ConfigDict, config_flags

from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.face import MOUTH
from data_pipeline.loader import OTHER_MOMENTS, WindowSpec, training_batches
from data_pipeline.records import list_clips, open_records, trained_people
from reta_jax.commands import DivergenceError, check_device, run_with_flags, set_up_xla
from reta_jax.experts.landmark_net import gap_height, into_lower_face, lower_face
from reta_jax.experts.load import KINDS, example_inputs
from reta_jax.experts.syncnet import (
    WHOLE_FRAME,
    SyncNetExpert,
    SyncNetV2,
    frames_to_input,
    frames_to_v2_input,
)
from reta_jax.images import to_float
from reta_jax.losses import cosine_similarity
from reta_jax.metrics.diagnosis import (
    CHANCE,
    calibration_error,
    moments_told_apart,
    pairs_told_apart,
    sync_plateau,
)
from reta_jax.metrics.landmarks import eye_opening
from reta_jax.weights import check_target, save_weights

DIAGNOSIS_BATCHES = 4  # times judge_batches
METRICS_FILE = "metrics.jsonl"
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


def run(config: ConfigDict, out: Path) -> float:
    """Trains, judges on held-out identities, writes the weights; returns the held-out score.

    Raises:
      InputError: a judge would learn the people of the model that it is to judge, or emotions or
        landmarks where there are none; or `out` holds something else, which it would replace.
      DivergenceError: a loss is no longer a number; nothing is written.
    """
    check_target(out, config.kind)
    people = trained_people(config.dirs)
    check_apart(people, config.apart_from)
    if config.task.startswith("emotion"):
        check_labelled(config.dirs)
    if config.task in LANDMARK_TASKS:
        check_landmarks(config.dirs)
    network, task = KINDS[config.kind](**config.fields), TASKS[config.task]
    variables = network.init(jax.random.key(config.seed), *example_inputs(config.kind))
    optimizer = make_optimizer(config)
    step, judge = make_step(config, network, task, optimizer), make_judge(network, task)
    params, stats = variables["params"], variables.get("batch_stats", {})
    opt_state = optimizer.init(params)
    train, test = _batches(config, "train"), _batches(config, "test")

    def held_out(batches: int) -> Outcome:
        found = jax.device_get([judge(params, stats, next(test)) for _ in range(batches)])
        return joined(found)

    lines, start, key = [], time.monotonic(), jax.random.key(config.seed + 1)
    for i in range(1, config.steps + 1):
        key, subkey = jax.random.split(key)
        params, stats, opt_state, value, score = step(
            params, stats, opt_state, next(train), subkey, i
        )
        if i % config.log_every == 0 or i == config.steps:
            now = held_out(config.judge_batches)
            check_finite(i, float(value), float(now.loss))
            rate = i / (time.monotonic() - start)
            print(
                f"{config.task} step {i}/{config.steps} | loss {float(value):.4f} score "
                f"{float(score):.3f} | held out: loss {now.loss:.4f} score {now.score:.3f} | "
                f"{rate:.1f} steps/s, ETA {(config.steps - i) / rate / 60:.1f} min",
                flush=True,
            )
            figures = {"loss": value, "score": score}
            figures |= {"held_out_loss": now.loss, "held_out_score": now.score}
            lines.append({"step": i} | {name: float(one) for name, one in figures.items()})
            warning = plateau(config.task, float(value), float(now.loss), i)
            if warning and i >= config.steps / 4:
                print(f"warning: {warning}", flush=True)
    now = held_out(DIAGNOSIS_BATCHES * config.judge_batches)
    train.close()
    test.close()
    diagnosis = diagnose(config.task, float(value), now, config.steps)
    for name, figure in diagnosis.items():
        print(f"on people it was not trained on: {name.replace('_', ' ')}: {figure}")
    description = describe(config, people, float(now.score), diagnosis)
    # With the weights, whole or not at all: their folder takes the place of an older one.
    files = {METRICS_FILE: "".join(f"{json.dumps(line)}\n" for line in lines).encode()}
    save_weights(out, _variables(params, stats), description, config.store_dtype, files)
    return float(now.score)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    warmup = min(50, config.steps // 2)
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, config.steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.02))


def make_step(
    config: ConfigDict, network: nn.Module, task: Task, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[Any, Any, Any, Array, Array]]:
    """The compiled step: parameters, statistics and optimiser state, then loss and score."""

    @jax.jit
    def step(
        params: Any, stats: Any, opt_state: Any, batch: dict[str, Array], key: Array, i: Array
    ):
        batch = _augment(batch, key, config.fade, config.whole_frames)

        def loss_of(frames: Array) -> Array:
            return task(network, _variables(params, stats), batch | {"frames": frames}, True).loss

        if config.attack_radius:
            radius = config.attack_radius * jnp.minimum(1, 2 * i / config.steps)
            batch = batch | {"frames": attacked(loss_of, batch["frames"], radius)}

        def objective(params: Any):
            outcome = task(network, _variables(params, stats), batch, True)
            return outcome.loss, (outcome.score, outcome.stats)

        (value, (score, stats_new)), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), stats_new, opt_state, value, score

    return step


def make_judge(network: nn.Module, task: Task) -> Callable[..., Outcome]:
    """What the task makes of a batch that the network does not learn from, compiled."""

    @jax.jit
    def judge(params: Any, stats: Any, batch: dict[str, Array]):
        outcome = task(network, _variables(params, stats), _as_float(batch), False)
        return outcome._replace(stats=None)

    return judge


def describe(
    config: ConfigDict, people: Sequence[str], score: float, diagnosis: dict[str, Any]
) -> dict[str, Any]:
    """The config.json of the trained weights."""
    description = {
        "kind": config.kind,
        "fields": config.fields.to_dict(),
        "held_out_score": score,
        "diagnosis": diagnosis,
        "data": list(config.dirs),
        "people": people,
        "image_size": config.image_size,
        "steps": config.steps,
    }
    if config.task.startswith("emotion"):
        description["labels"] = list(EMOTIONS)
    return description


def check_apart(people: Sequence[str], dirs: Sequence[str]) -> None:
    """Raises InputError if people are in the training split of one of `dirs`; says which is not."""
    at_hand = [dir for dir in dirs if Path(dir).is_dir()]
    for dir in sorted(set(dirs) - set(at_hand)):
        print(
            f"warning: {dir} is not at hand: whether the model's people are in this data is not "
            "checked",
            flush=True,
        )
    known = trained_people(at_hand)
    shared = sorted(set(people) & set(known))
    if shared:
        raise InputError(
            f"{len(shared)} people of the judge's data are those that the model is trained on "
            f"({', '.join(shared[:3])}): make other people for it (--seed of data_pipeline.prepare "
            "synthetic), or name other data in config.dirs"
        )


def check_labelled(dirs: Sequence[str]) -> None:
    """Raises InputError if no clip of a split of one of `dirs` has an emotion's label."""
    for dir in dirs:
        for split in ("train", "test"):
            if all(row["emotion"] < 0 for row in list_clips(dir, split)):
                raise InputError(
                    f"no clip in the {split} split of {dir} has an emotion's label: name data with "
                    "labels in config.dirs"
                )


def check_landmarks(dirs: Sequence[str]) -> None:
    """Raises InputError if no clip of a split of one of `dirs` was prepared with landmarks."""
    for dir in dirs:
        for split in ("train", "test"):
            if not any(record["landmarks"].any() for record in open_records(dir, split)):
                raise InputError(
                    f"no clip in the {split} split of {dir} has landmarks: prepare it with a face "
                    "landmarker"
                )


def check_finite(step: int, loss: float, held_out_loss: float) -> None:
    """Raises DivergenceError if a loss is no number."""
    if not (math.isfinite(loss) and math.isfinite(held_out_loss)):
        raise DivergenceError(
            f"the loss is {loss} and {held_out_loss} on held-out people at step {step}: no weights "
            "are written; lower the config's learning_rate"
        )


def joined(found: Sequence[Outcome]) -> Outcome:
    """Several batches' outcomes as one; a batch counts as much as it has examples."""
    counts = np.array([one.examples for one in found], np.float64)
    weights = counts / max(counts.sum(), 1e-9)
    loss, score = (
        float(weights @ np.array([getattr(one, of) for one in found])) for of in ("loss", "score")
    )
    return Outcome(loss, score, None, _joined_outputs(found), counts.sum())


def diagnose(task: str, train_loss: float, held_out: Outcome, steps: int) -> dict[str, Any]:
    """What is to be known of a network, from pairs or clips of people it was not trained on."""
    if held_out.outputs is None:
        return {}
    values, labels = held_out.outputs
    if task.startswith("emotion"):
        return named_classes(values[labels >= 0], labels[labels >= 0])
    found = pairs_told_apart(values, labels)
    if task != "sync_expert":  # the others' values are not of an accepted and a refused half
        found = {name: found[name] for name in found if name == "auc"}
    if task == "sync_expert":  # its cosine is the probability that a pair is in step
        sure = np.stack([1 - values, values], axis=1)
        found["calibration_error"] = calibration_error(sure, labels.astype(int))
    if task == "syncnet_v2":  # the first moment of each clip is that of its lips
        closeness = values.reshape(-1, 1 + OTHER_MOMENTS)
        sure = np.asarray(jax.nn.softmax(closeness))
        found |= moments_told_apart(closeness)
        found["calibration_error"] = calibration_error(sure, np.zeros(len(sure), int))
    if task in CHANCES:
        found |= {"held_out_loss": float(held_out.loss), "loss_by_chance": CHANCES[task]}
    warning = plateau(task, train_loss, float(held_out.loss), steps)
    return found | ({"warning": warning} if warning else {})


def named_classes(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How often a classifier is right, and whether it is as sure as it should be."""
    if not labels.size:
        return {}
    probabilities = np.asarray(jax.nn.softmax(logits))
    return {
        "accuracy": float((probabilities.argmax(1) == labels).mean()),
        "mean_confidence": float(probabilities.max(1).mean()),
        "calibration_error": calibration_error(probabilities, labels),
    }


# Losses of who knows nothing, of the tasks that can be stuck there.
CHANCES = {"sync_expert": CHANCE, "syncnet_v2": float(np.log(1 + OTHER_MOMENTS))}


def plateau(task: str, train_loss: float, held_out_loss: float, steps: int) -> str | None:
    """`sync_plateau` of the tasks that can be stuck there."""
    chance = CHANCES.get(task)
    return chance and sync_plateau(train_loss, held_out_loss, steps, chance)


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


def _joined_outputs(found: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray] | None:
    if found[0].outputs is None:
        return None
    values, labels = zip(*(one.outputs for one in found), strict=True)
    return np.concatenate(values), np.concatenate(labels)


def _variables(params: Any, stats: Any) -> dict[str, Any]:
    return {"params": params, "batch_stats": stats} if stats else {"params": params}


def _as_float(batch: dict[str, Array]) -> dict[str, Array]:
    return batch | {name: to_float(batch[name]) for name in ("frames", "portrait")}


def _augment(
    batch: dict[str, Array], key: Array, fade: float, whole_frames: float
) -> dict[str, Array]:
    """Brightness, contrast, noise and up to `fade` of the detail, one draw a clip.

    Judges must not live on a light's colour, nor on what the first rendered faces lack. SyncNet v2
    sees `whole_frames` of the clips uncropped, for its direct crop.
    """
    batch = _as_float(batch)
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


def _batches(config: ConfigDict, split: str):
    window = WindowSpec(
        frames=config.frames,
        size=config.image_size,
        portrait="identity" if config.task == "identity_net" else "clip",
        sync_pairs={"sync_expert": "mel", "syncnet_v2": "mfcc"}.get(config.task, ""),
    )
    sources = dict.fromkeys(config.dirs, 1.0)
    return training_batches(sources, split, config.batch_size, window, seed=config.seed)


def main(argv: list[str]) -> None:
    check_device()
    config = flags.FLAGS.config
    if config is None:
        raise InputError("no expert given: say --config configs/judges/synthetic.py:sync_expert")
    out = Path(flags.FLAGS.out or config.out)
    score = run(config, out)
    print(f"done: held-out score {score:.3f}, weights in {out}")


if __name__ == "__main__":
    # Not at import: reta_jax.train has a --config of its own.
    config_flags.DEFINE_config_file("config", None, "Expert, e.g. configs/judges/x.py:kind.")
    flags.DEFINE_string("out", None, "Folder for the weights; default config.out.")
    set_up_xla()
    run_with_flags(main)
