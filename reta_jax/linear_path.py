"""Fits the linear path from what is heard to f_E, in closed form: python -m reta_jax.linear_path

Few people teach a deep network much about themselves and little about strangers. A ridge regression
from the same features knows strangers' lips better, and both together know them best
(docs/decisions.md). This adds one to a trained model: its opening of the lips is put out along the
direction in which f_E goes when a mouth opens, beside the blocks of S (`model.tcn.linear`).

    python -m reta_jax.linear_path --checkpoint weights/mine --data data/mine --out weights/heard
"""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console
from rich.progress import track

from data_pipeline.audio import to_float
from data_pipeline.errors import InputError
from data_pipeline.loader import repetitions
from data_pipeline.records import list_clips, open_records, trained_people
from reta_jax.commands import check_device, sentences_for_errors, set_up_xla
from reta_jax.metrics.mouth import opening
from reta_jax.models.reta import RETA, build_reta
from reta_jax.pretrained.reta import Pretrained, load_reta, save_reta
from reta_jax.renderer import controls_in_silence, scale_expression
from reta_jax.weights import check_outside, config_from_dict, config_to_dict
from reta_jax.windows import audio_windows

PENALTY = 6.0  # on the squared weights, of features with a variance of one


class Heard(NamedTuple):
    """A clip: what is heard around each frame, what S makes of it, how far the lips are open."""

    features: Float[np.ndarray, "t s d"]
    codes: Float[np.ndarray, "t c"]  # f_E, about the clip's mean
    opening: Float[np.ndarray, " t"]  # in eye distances, about the clip's mean


class LinearPath(NamedTuple):
    """The path's kernel and what it adds to the bias."""

    kernel: Float[np.ndarray, "s d c"]
    bias: Float[np.ndarray, " c"]


def add_linear_path(
    model: Pretrained, data: Path, span: int = 5, strength: float = 2.8, scale: float = 0.7
) -> tuple[Any, dict[str, Any]]:
    """Parameters and config of the model with a linear path.

    Args:
      data: prepared records with landmarks; the training split.
      span: frames that the path sees, odd.
      strength: of its opening; a regression's is smaller than the truth's.
      scale: of what the model did without it (`scale_expression`), so that mouths open as far.

    Raises:
      InputError: the model has no S, such a path already, or an f_E that is a mean over frames; the
        span is even or looks further ahead than the model does; no clip has landmarks.
    """
    reta, config = model.reta, model.config
    if reta.emotion_student is None:
        raise InputError("the model has no emotion student: nothing to add a linear path to")
    if reta.emotion_student.linear:
        raise InputError(
            "the model has a linear path already, as the shipped weights and all that goes on from "
            "them: give one trained with --config.model.tcn.linear=0, as configs/corpus.py says"
        )
    if reta.emotion_span > 1:
        raise InputError(
            f"the model's f_E is a mean of {reta.emotion_span} frames (model.emotion_span): no "
            f"path beside it moves a mouth"
        )
    if span % 2 == 0 or span // 2 > reta.window.look_ahead:
        raise InputError(
            f"a span of {span} frames: give an odd one that looks at most "
            f"{reta.window.look_ahead} ahead"
        )
    path = fit(listen(model, data, span), clip_weights(data, config.data.max_identity_share))
    rest = controls_in_silence(reta, model.params, model.morphable)
    params = jax.device_get(scale_expression(model.params, rest, scale))
    student = dict(params["emotion_student"])
    student["linear"] = {"kernel": strength * path.kernel}
    student["head"] = student["head"] | {"bias": student["head"]["bias"] + strength * path.bias}
    params = params | {"emotion_student": student}
    values = config_to_dict(config)
    values["model"]["tcn"]["linear"] = span
    decoder = build_reta(config_from_dict(values).model).motion_decoder
    if decoder is not None and decoder.linear:  # D's is of zeros
        kernel = np.zeros((span, path.kernel.shape[1], decoder.outputs), np.float32)
        params["motion_decoder"] = params["motion_decoder"] | {"linear": {"kernel": kernel}}
    return params, values


def clip_weights(data: Path, max_identity_share: float) -> Float[np.ndarray, " n"]:
    """How often each clip of the training split counts, as in training."""
    names = [row["identity"] for row in list_clips(data, "train")]
    _, numbers = np.unique(names, return_inverse=True)
    return repetitions(numbers, max_identity_share).astype(np.float64)


def listen(model: Pretrained, data: Path, span: int) -> Iterator[Heard | None]:
    """Each clip of the training split in order; None of one without landmarks."""
    for record in open_records(data, "train"):
        gap = opening(np.asarray(record["landmarks"], np.float64))
        if not (np.isfinite(gap).all() and gap.any()):
            yield None
            continue
        windows = audio_windows(to_float(record["audio"]), model.reta.window)
        found = [_hear(model.reta, model.params, audio[None], span) for audio, _ in windows]
        features, codes = (np.concatenate(x)[: len(gap)] for x in zip(*found, strict=True))
        yield Heard(features, codes - codes.mean(0), (gap - gap.mean())[: len(features)])


@functools.partial(jax.jit, static_argnames=("reta", "span"))
def _hear(
    reta: RETA, params: Any, audio: Float[Array, "1 n"], span: int
) -> tuple[Float[Array, "t s d"], Float[Array, "t c"]]:
    features = reta.apply({"params": params}, audio, method=lambda model, x: model.audio_encoder(x))
    (codes,) = reta.emotion_student.apply({"params": params["emotion_student"]}, features)
    at = reta.window.past + jnp.arange(reta.window.chunk)
    around = at[:, None] + jnp.arange(span)[None] - span // 2
    return features[0, around], codes[at]


def fit(clips: Iterator[Heard | None], weights: Float[np.ndarray, " n"]) -> LinearPath:
    """Ridge regression of the opening on standardised features, put out along f_E's direction.

    With x the features about a frame, T the opening and w the share of a frame, all sums over
    frames: v = (sum w x x^T + penalty)^-1 sum w x T, and d = sum w f_E T / sum w T^2 is where f_E
    goes for each unit of opening. The path adds d v.x.
    """
    total, mean, square, along, code, power = (0.0,) * 6
    shown = track(clips, "listening", len(weights), console=Console(stderr=True))
    for clip, weight in zip(shown, weights, strict=True):
        if clip is None:
            continue
        x = clip.features.reshape(len(clip.features), -1).astype(np.float64)
        total += weight * len(x)
        mean += weight * x.sum(0)
        square += weight * x.T @ x
        along += weight * x.T @ clip.opening
        code += weight * clip.opening @ clip.codes
        power += weight * clip.opening @ clip.opening
        shape = clip.features.shape[1:]
    if not total:
        raise InputError("no clip of the training split has landmarks: prepare it with them")
    mean, square, along = mean / total, square / total, along / total
    covariance = square - mean[:, None] * mean[None]
    deviation = np.sqrt(np.diag(covariance)) + 1e-3
    correlation = covariance / (deviation[:, None] * deviation[None])
    correlation[np.diag_indices_from(correlation)] += PENALTY
    slope = np.linalg.solve(correlation, along / deviation) / deviation
    direction = code / power
    kernel = slope.reshape(*shape, 1) * direction[None, None]
    return LinearPath(np.float32(kernel), np.float32(-(slope @ mean) * direction))


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.linear_path",
        description="Adds a linear path from what is heard to f_E.",
    )
    parser.add_argument("--checkpoint", required=True, help="folder of weights, or a workdir")
    parser.add_argument("--data", type=Path, required=True, help="prepared records with landmarks")
    parser.add_argument("--span", type=int, default=5, help="frames that the path sees")
    parser.add_argument("--strength", type=float, default=2.8, help="of the path's opening")
    parser.add_argument("--scale", type=float, default=0.7, help="of what the model did before")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with sentences_for_errors():
        check_device()
        check_outside(Path(arguments.checkpoint), arguments.out)
        model = load_reta(arguments.checkpoint)
        params, values = add_linear_path(
            model, arguments.data, arguments.span, arguments.strength, arguments.scale
        )
        heard = {"source": str(arguments.data), "people": trained_people([arguments.data])}
        provenance = values.pop("provenance", [])
        provenance += [heard] if heard not in provenance else []
        save_reta(arguments.out, params, values, provenance)
    print(f"done: weights in {arguments.out}")


if __name__ == "__main__":
    set_up_xla()
    main()
