"""Trains a judge or teacher from prepared data, where no published weights are at hand.

    python -m reta_jax.train_expert --config configs/judges/synthetic.py:sync_expert

Tasks: emotion_vit and emotion_fan (emotion of frames, of clips), sync_expert (Wav2Lip's in-sync
classifier), syncnet_v2 (the judge of Sync_c and Sync_d), landmark_net (the mouth's points),
face_net (all 68 points), identity_net (whose face).
The folder of weights names kind, fields, the people it was trained on, its score on people it was
not, and what else is to be known of it (reta_jax/metrics/diagnosis.py). Its metrics.jsonl has the
figures of every line that was printed.

Every minute, and upon Ctrl-C, SIGTERM and a terminal that is lost (exit code 75), the training is
saved in a folder beside the weights, OUT_in_training, from where the same command goes on. It goes
when the weights are written. A batch is split over all devices.
"""

import contextlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict, config_flags

from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.loader import OTHER_MOMENTS, BatchIterator, WindowSpec, training_batches
from data_pipeline.records import list_clips, open_records, trained_people
from reta_jax import parallel
from reta_jax.checkpoint import FOLDER, Checkpoints, has_checkpoint
from reta_jax.commands import DivergenceError, check_device, run_with_flags, set_up_xla
from reta_jax.expert_tasks import (
    LANDMARK_TASKS,
    TASKS,
    Outcome,
    Task,
    as_float,
    attacked,
    augmented,
    variables_of,
)
from reta_jax.experts.load import KINDS, draw_variables
from reta_jax.files import make_folder
from reta_jax.metrics.diagnosis import (
    CHANCE,
    calibration_error,
    moments_told_apart,
    pairs_told_apart,
    sync_plateau,
)
from reta_jax.observe import tell
from reta_jax.stopping import EXIT_INTERRUPTED, StopRequest
from reta_jax.weights import check_target, save_weights

DIAGNOSIS_BATCHES = 4  # times judge_batches
METRICS_FILE = "metrics.jsonl"
SAVE_SECONDS = 60.0  # between two saves


@flax.struct.dataclass
class ExpertState:
    """Everything that training changes."""

    step: Any  # () int32
    params: Any
    stats: Any  # batch statistics; {} of a network that has none
    opt_state: Any


class Training(NamedTuple):
    """What stays as it is from a training's first step to its last."""

    config: ConfigDict
    mesh: Mesh
    step: Callable[..., tuple[ExpertState, Array, Array]]
    judge: Callable[..., Outcome]
    train: BatchIterator
    test: BatchIterator


def run(config: ConfigDict, out: Path) -> float | None:
    """Trains, judges on held-out identities, writes the weights.

    Returns:
      The held-out score; None when a signal stopped it early, and it was saved.

    Raises:
      InputError: a judge would learn the people of the model that it is to judge, or emotions or
        landmarks where there are none; `out` holds something else, which it would replace; or
        another run is at it, or was, with settings of another expert.
      DivergenceError: a loss or a weight is no longer a number; no weights are written.
    """
    check_target(out, config.kind)
    if config.batch_size % jax.device_count():
        raise InputError(
            f"batch_size={config.batch_size} does not divide over {jax.device_count()} devices"
        )
    people = trained_people(config.dirs)
    check_apart(people, config.apart_from)
    if config.task.startswith("emotion"):
        check_labelled(config.dirs)
    if config.task in LANDMARK_TASKS:
        check_landmarks(config.dirs)
    with in_training(out) as folder:
        return train_in(folder, config, people, out)


@contextlib.contextmanager
def in_training(out: Path) -> Iterator[Path]:
    """The folder of what is saved before `out` is written, for one run at a time.

    It goes when nothing is saved there.
    """
    folder = out.with_name(f"{out.name}_in_training")
    make_folder(folder)
    with parallel.job_alone_in(folder):
        try:
            yield folder
        finally:
            if not has_checkpoint(folder):
                shutil.rmtree(folder)


def train_in(folder: Path, config: ConfigDict, people: Sequence[str], out: Path) -> float | None:
    """`run`, when nothing speaks against it and nobody else is in the folder of what is saved."""
    training, state = start(config)
    checkpoints = Checkpoints(folder, config, f"another --out, or take {folder} away")
    try:
        state, lines = go_on(training, state, checkpoints)
        with StopRequest() as stop:
            state = loop(training, state, lines, checkpoints, stop)
        if int(state.step) < config.steps:
            save(training, state, lines, checkpoints)
            return None
        now = held_out(training, state, DIAGNOSIS_BATCHES * config.judge_batches)
    finally:
        checkpoints.close()
        training.train.close()
        training.test.close()
    diagnosis = diagnose(config.task, lines[-1]["loss"], now, config.steps)
    for name, figure in diagnosis.items():
        tell(f"on people it was not trained on: {name.replace('_', ' ')}: {figure}")
    description = describe(config, people, float(now.score), diagnosis)
    # With the weights, whole or not at all: their folder takes the place of an older one.
    files = {
        METRICS_FILE: "".join(f"{json.dumps(line, sort_keys=True)}\n" for line in lines).encode()
    }
    variables = variables_of(state.params, state.stats)
    save_weights(out, variables, description, config.store_dtype, files)
    shutil.rmtree(folder / FOLDER)
    return float(now.score)


def start(config: ConfigDict) -> tuple[Training, ExpertState]:
    """A training, and its state before the first step, on all devices."""
    mesh = parallel.make_mesh()
    network, task = KINDS[config.kind](**config.fields), TASKS[config.task]
    optimizer = make_optimizer(config)
    training = Training(
        config,
        mesh,
        make_step(config, network, task, optimizer, mesh),
        make_judge(network, task, mesh),
        _batches(config, "train"),
        _batches(config, "test"),
    )
    variables = draw_variables(config.kind, network, config.seed)
    params, stats = variables["params"], variables.get("batch_stats", {})
    state = ExpertState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))
    return training, parallel.replicate(state, mesh)


def go_on(
    training: Training, state: ExpertState, checkpoints: Checkpoints
) -> tuple[ExpertState, list[dict[str, Any]]]:
    """The state that was saved last, else the given one; and the figures of the lines before."""
    if checkpoints.latest_step is None:
        return state, []
    tell(f"going on from step {checkpoints.latest_step}")
    state, position = checkpoints.restore(
        parallel.placed(state, parallel.replicated(training.mesh))
    )
    training.train.set_state(position["train"])
    training.test.set_state(position["test"])
    return state, position["lines"]


def save(
    training: Training,
    state: ExpertState,
    lines: Sequence[dict[str, Any]],
    checkpoints: Checkpoints,
) -> None:
    """Starts to save where a training stands; raises DivergenceError if it has diverged."""
    weights = jax.tree.leaves(jax.device_get((state.params, state.stats)))
    total = sum(float(one.sum()) for one in weights)  # finite if each of them is
    check_finite(int(state.step), {"the sum of weights": total}, checkpoints.latest_step)
    position = {"train": training.train.get_state(), "test": training.test.get_state()}
    checkpoints.save(state, position | {"lines": list(lines)})  # they grow while it is written


def loop(
    training: Training,
    state: ExpertState,
    lines: list[dict[str, Any]],
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> ExpertState:
    """Steps, judges and saves, until the end or until asked to stop.

    Each line that it prints adds its figures to `lines`.
    """
    config = training.config
    first = step = int(state.step)
    begin = saved = time.monotonic()
    while step < config.steps and not stop.requested:
        batch = parallel.shard_batch(next(training.train), training.mesh)
        state, loss, score = training.step(state, batch)
        step += 1
        if step % config.log_every == 0 or step == config.steps:
            now = held_out(training, state, config.judge_batches)
            losses = {"loss": float(loss), "held_out_loss": float(now.loss)}
            check_finite(step, losses, checkpoints.latest_step)
            scores = {"score": float(score), "held_out_score": float(now.score)}
            lines.append({"step": step} | losses | scores)
            report(config, lines[-1], (step - first) / (time.monotonic() - begin))
        if time.monotonic() - saved > SAVE_SECONDS:
            save(training, state, lines, checkpoints)
            saved = time.monotonic()
    return state


def held_out(training: Training, state: ExpertState, batches: int) -> Outcome:
    """What the task makes of the next batches of people who are not trained on."""
    drawn = (next(training.test) for _ in range(batches))
    found = [training.judge(state, parallel.shard_batch(one, training.mesh)) for one in drawn]
    return joined(jax.device_get(found))


def report(config: ConfigDict, line: Mapping[str, Any], rate: float) -> None:
    """The line of a step, and a warning if it tells that the task is stuck; `rate` is of steps."""
    step, loss, held_out_loss = (line[name] for name in ("step", "loss", "held_out_loss"))
    tell(
        f"{config.task} step {step}/{config.steps} | loss {loss:.4f} score {line['score']:.3f} | "
        f"held out: loss {held_out_loss:.4f} score {line['held_out_score']:.3f} | "
        f"{rate:.1f} steps/s, ETA {(config.steps - step) / rate / 60:.1f} min"
    )
    warning = plateau(config.task, loss, held_out_loss, step)
    if warning and step >= config.steps / 4:
        tell(f"warning: {warning}")


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    warmup = min(50, config.steps // 2)
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, config.steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.02))


def make_step(
    config: ConfigDict,
    network: nn.Module,
    task: Task,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> Callable[[ExpertState, dict[str, Array]], tuple[ExpertState, Array, Array]]:
    """The compiled step: the state after it, loss and score.

    It is written for the whole batch, and XLA splits it over the mesh as the batch is split.
    `parallel.data_parallel`, written for a device's share, would take batch statistics of a share,
    and contrast its people alone.
    """

    def step(state: ExpertState, batch: dict[str, Array]):
        key = jax.random.fold_in(jax.random.key(config.seed + 1), state.step)
        batch = augmented(batch, key, config.fade, config.whole_frames)

        def loss_of(frames: Array) -> Array:
            variables = variables_of(state.params, state.stats)
            return task(network, variables, batch | {"frames": frames}, True).loss

        if config.attack_radius:
            radius = config.attack_radius * jnp.minimum(1, 2 * (state.step + 1) / config.steps)
            batch = batch | {"frames": attacked(loss_of, batch["frames"], radius)}

        def objective(params: Any):
            outcome = task(network, variables_of(params, state.stats), batch, True)
            return outcome.loss, (outcome.score, outcome.stats)

        (loss, (score, stats)), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return ExpertState(state.step + 1, params, stats, opt_state), loss, score

    return jax.jit(step, out_shardings=parallel.replicated(mesh))


def make_judge(
    network: nn.Module, task: Task, mesh: Mesh
) -> Callable[[ExpertState, dict[str, Array]], Outcome]:
    """What the task makes of a batch that the network does not learn from, compiled."""

    def judge(state: ExpertState, batch: dict[str, Array]) -> Outcome:
        variables = variables_of(state.params, state.stats)
        return task(network, variables, as_float(batch), False)._replace(stats=None)

    return jax.jit(judge, out_shardings=parallel.replicated(mesh))


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


def check_finite(step: int, figures: Mapping[str, float], saved_step: int | None) -> None:
    """Raises DivergenceError if one of the figures is no number; says what there is to go on from.

    Args:
      saved_step: of the last save; None if there is none.
    """
    broken = [name for name, figure in figures.items() if not math.isfinite(figure)]
    if broken:
        good = "nothing was saved before it"
        if saved_step is not None:
            good = f"what was saved at step {saved_step} is good"
        raise DivergenceError(
            f"{', '.join(broken)} is not finite at step {step}: no weights are written; {good}: "
            "lower the config's learning_rate"
        )


def joined(found: Sequence[Outcome]) -> Outcome:
    """Several batches' outcomes as one; a batch counts as much as it has examples."""
    counts = np.array([one.examples for one in found], np.float64)
    weights = counts / max(counts.sum(), 1e-9)
    loss, score = (
        float(weights @ np.array([getattr(one, of) for one in found])) for of in ("loss", "score")
    )
    return Outcome(loss, score, None, _joined_outputs(found), counts.sum())


def _joined_outputs(found: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray] | None:
    if found[0].outputs is None:
        return None
    values, labels = zip(*(one.outputs for one in found), strict=True)
    return np.concatenate(values), np.concatenate(labels)


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
    if score is None:
        tell("stopped and saved; the same command goes on", sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    tell(f"done: held-out score {score:.3f}, weights in {out}")


if __name__ == "__main__":
    # Not at import: reta_jax.train has a --config of its own.
    config_flags.DEFINE_config_file("config", None, "Expert, e.g. configs/judges/x.py:kind.")
    flags.DEFINE_string("out", None, "Folder for the weights; default config.out.")
    set_up_xla()
    run_with_flags(main)
