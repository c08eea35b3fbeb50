"""Trains a judge or teacher from prepared data, where no published weights are at hand.

    python -m reta_jax.train_expert --config configs/judges/synthetic.py:sync_expert

Kinds: emotion_vit and emotion_fan (emotion of frames, of clips), sync_expert (Wav2Lip's in-sync
classifier), landmark_net (the mouth's points). The folder of weights names kind, fields and
held-out score.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jaxtyping import Array
from ml_collections import ConfigDict, config_flags

from data_pipeline.errors import InputError
from data_pipeline.loader import WindowSpec, training_batches
from reta_jax.commands import enable_compilation_cache, run_with_flags
from reta_jax.experts.landmark_net import MOUTH, into_lower_face, lower_face, mouth_opening
from reta_jax.experts.load import KINDS, example_inputs
from reta_jax.experts.syncnet import SyncNetExpert, frames_to_input
from reta_jax.images import to_float
from reta_jax.losses import cosine_similarity
from reta_jax.weights import save_weights

_CONFIG = config_flags.DEFINE_config_file("config", None, "Expert, e.g. configs/judges/x.py:kind.")
_OUT = flags.DEFINE_string("out", None, "Folder for the weights; default config.out.")

Loss = Callable[[nn.Module, Any, dict[str, Array], bool], tuple[Array, Array, Any]]


def run(config: ConfigDict, out: Path) -> float:
    """Trains, judges on held-out identities, writes the weights; returns the held-out score."""
    network = KINDS[config.kind](**config.fields)
    loss = LOSSES[config.kind]
    variables = network.init(jax.random.key(config.seed), *example_inputs(config.kind))
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, 50, config.steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.02)
    )
    params, stats = variables["params"], variables.get("batch_stats", {})
    opt_state = optimizer.init(params)
    train, test = _batches(config, "train"), _batches(config, "test")

    @jax.jit
    def step(params: Any, stats: Any, opt_state: Any, batch: dict[str, Array], key: Array):
        batch = _augment(batch, key)

        def objective(params: Any):
            value, score, stats_new = loss(network, _variables(params, stats), batch, True)
            return value, (score, stats_new)

        (value, (score, stats_new)), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), stats_new, opt_state, value, score

    @jax.jit
    def judge(params: Any, stats: Any, batch: dict[str, Array]):
        value, score, _ = loss(network, _variables(params, stats), _as_float(batch), False)
        return value, score

    def held_out() -> tuple[float, float]:
        results = [judge(params, stats, next(test)) for _ in range(config.judge_batches)]
        return tuple(float(x) for x in np.mean(jax.device_get(results), 0))

    start, key = time.monotonic(), jax.random.key(config.seed + 1)
    for i in range(1, config.steps + 1):
        key, subkey = jax.random.split(key)
        params, stats, opt_state, value, score = step(params, stats, opt_state, next(train), subkey)
        if i % config.log_every == 0 or i == config.steps:
            test_loss, test_score = held_out()
            rate = i / (time.monotonic() - start)
            print(
                f"{config.kind} step {i}/{config.steps} | loss {float(value):.4f} score "
                f"{float(score):.3f} | held out: loss {test_loss:.4f} score {test_score:.3f} | "
                f"{rate:.1f} steps/s, ETA {(config.steps - i) / rate / 60:.1f} min",
                flush=True,
            )
    train.close()
    test.close()
    description = {
        "kind": config.kind,
        "fields": config.fields.to_dict(),
        "held_out_score": test_score,
        "data": list(config.dirs),
        "steps": config.steps,
    }
    save_weights(out, _variables(params, stats), description, config.store_dtype)
    return test_score


def emotion_frames_loss(network, variables, batch, train):
    """Cross-entropy of single frames against the clip's label; score is accuracy."""
    frames = batch["frames"]
    labels = jnp.repeat(batch["emotion"], frames.shape[1])
    _, logits = network.apply(variables, frames.reshape(-1, *frames.shape[2:]))
    return *_classify(logits, labels), {}


def emotion_clip_loss(network, variables, batch, train):
    """Cross-entropy of whole windows against the clip's label; score is accuracy."""
    (logits, _), stats = _apply(network, variables, train, batch["frames"])
    return *_classify(logits, batch["emotion"]), stats


def sync_expert_loss(network, variables, batch, train):
    """Binary cross-entropy on the cosine, half of the pairs out of step; score is accuracy.

    Chance is 0.69 and 0.5.
    """
    faces = frames_to_input(batch["frames"], batch["sync_box"])
    faces = jnp.concatenate([faces, faces])
    mel = jnp.concatenate([batch["mel"], batch["shifted_mel"]])
    v, stats = _apply(network, variables, train, faces, method=SyncNetExpert.embed_faces)
    variables = {"params": variables["params"], "batch_stats": stats}
    s, stats = _apply(network, variables, train, mel, method=SyncNetExpert.embed_audio)
    cosine = jnp.clip(cosine_similarity(v, s, 1e-8), 1e-4, 1 - 1e-4)
    labels = jnp.arange(len(cosine)) < len(cosine) // 2
    loss = -jnp.where(labels, jnp.log(cosine), jnp.log1p(-cosine)).mean()
    own, other = jnp.split(cosine, 2)
    return loss, (own > other).mean(), stats


def landmark_loss(network, variables, batch, train):
    """Mean distance to the mouth's true points; score is the correlation of its opening."""
    frames, box = batch["frames"][:, 0], batch["sync_box"]
    points = network.apply(variables, lower_face(frames, box, network.size))
    truth = into_lower_face(batch["landmarks"][:, 0, MOUTH], box)
    distance = jnp.sqrt(((points - truth) ** 2).sum(-1) + 1e-8).mean()
    score = jnp.corrcoef(mouth_opening(points), mouth_opening(truth))[0, 1]
    return distance, score, {}


LOSSES: dict[str, Loss] = {
    "emotion_vit": emotion_frames_loss,
    "emotion_fan": emotion_clip_loss,
    "sync_expert": sync_expert_loss,
    "landmark_net": landmark_loss,
}


def _apply(network, variables, train, *args, **kwargs):
    """Applies a network with batch statistics: updated when training, used otherwise."""
    if not train:
        return network.apply(variables, *args, **kwargs), variables.get("batch_stats", {})
    output, updated = network.apply(variables, *args, **kwargs, train=True, mutable=["batch_stats"])
    return output, variables["batch_stats"] | updated["batch_stats"]


def _classify(logits: Array, labels: Array) -> tuple[Array, Array]:
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, (logits.argmax(-1) == labels).mean()


def _variables(params: Any, stats: Any) -> dict[str, Any]:
    return {"params": params, "batch_stats": stats} if stats else {"params": params}


def _as_float(batch: dict[str, Array]) -> dict[str, Array]:
    return batch | {"frames": to_float(batch["frames"])}


def _augment(batch: dict[str, Array], key: Array) -> dict[str, Array]:
    """Brightness, contrast and noise, one draw a clip: judges must not live on a light's colour."""
    frames = to_float(batch["frames"])
    keys = jax.random.split(key, 3)
    draw = lambda k, spread: spread * jax.random.normal(k, (len(frames), 1, 1, 1, 3))
    frames = frames * (1 + draw(keys[0], 0.1)) + draw(keys[1], 0.05)
    frames += 0.02 * jax.random.normal(keys[2], frames.shape)
    return batch | {"frames": frames}


def _batches(config: ConfigDict, split: str):
    window = WindowSpec(
        frames=config.frames, size=config.image_size, shifted_mel=config.kind == "sync_expert"
    )
    sources = dict.fromkeys(config.dirs, 1.0)
    return training_batches(sources, split, config.batch_size, window, seed=config.seed)


def main(argv: list[str]) -> None:
    config = _CONFIG.value
    if config is None:
        raise InputError("no expert given: say --config configs/judges/synthetic.py:sync_expert")
    out = Path(_OUT.value or config.out)
    score = run(config, out)
    print(f"done: held-out score {score:.3f}, weights in {out}")


if __name__ == "__main__":
    enable_compilation_cache()
    run_with_flags(main)
