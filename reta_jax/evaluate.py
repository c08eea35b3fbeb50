"""Judges a model on held-out identities: python -m reta_jax.evaluate --checkpoint DIR --data DIR

Every clip of the split is rendered from its identity's portrait and its own voice. The rows "truth"
and "still portrait" say what the judges make of perfection and of doing nothing. The judges
(landmarks, emotion) are networks that no model is trained against.
"""

import argparse
import functools
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.loader import EvaluationClip, evaluation_clips
from reta_jax.commands import enable_compilation_cache, sentences_for_errors
from reta_jax.experts.landmark_net import MOUTH, into_lower_face, lower_face, mouth_opening
from reta_jax.experts.load import load_expert
from reta_jax.images import to_float
from reta_jax.metrics.image import psnr, ssim
from reta_jax.metrics.mouth import correlation
from reta_jax.render import SHIPPED_WEIGHTS, Renderer

JUDGES = SHIPPED_WEIGHTS.parent
EMOTION_SIZE = 64  # what the emotion judge was trained on
BLOCK = 25  # frames a judge looks at in one call: one compiled shape for clips of any length


class Judges(NamedTuple):
    """Functions of a video's uint8 frames (t, h, w, 3)."""

    mouth: Callable[..., Float[np.ndarray, "t 20 2"]]  # and the face box (4,)
    emotion: Callable[..., int]  # class of the clip


def load_judges(folder: Path) -> Judges:
    """The mouth and emotion judges under `folder` (trained by reta_jax.train_expert)."""
    mouths, mouth_variables, _ = load_expert("landmark_net", str(folder / "landmark_net"), {})
    feelings, feeling_variables, _ = load_expert("emotion_fan", str(folder / "emotion_fan"), {})

    @jax.jit
    def find_mouth(frames, box):
        boxes = jnp.broadcast_to(box, (len(frames), 4))
        return mouths.apply(mouth_variables, lower_face(to_float(frames), boxes, mouths.size))

    @jax.jit
    def feel(frames):
        shape = (len(frames), EMOTION_SIZE, EMOTION_SIZE, 3)
        small = jax.image.resize(to_float(frames), shape, "linear", antialias=True)
        return feelings.apply(feeling_variables, small[None])[0][0]

    def mouth(frames, box):
        points = [find_mouth(block, box) for block in _blocks(frames)]
        return np.concatenate(points)[: len(frames)]

    def emotion(frames):
        spread = np.linspace(0, len(frames) - 1, BLOCK).round().astype(int)
        return int(np.argmax(feel(frames[spread])))

    return Judges(mouth, emotion)


def judge_video(
    judges: Judges, clip: EvaluationClip, frames: UInt8[np.ndarray, "t h w 3"]
) -> dict[str, float]:
    """Figures of one video against the truth of its clip."""
    mouth = jnp.asarray(judges.mouth(frames, clip.sync_box))
    boxes = jnp.broadcast_to(clip.sync_box, (len(frames), 4))
    truth = into_lower_face(jnp.asarray(clip.landmarks[:, MOUTH]), boxes)
    opening, true_opening = np.asarray(mouth_opening(mouth)), np.asarray(mouth_opening(truth))
    figures = {
        "psnr": float(np.mean(np.minimum(_in_blocks(psnr, frames, clip.frames), 100.0))),
        "ssim": float(np.mean(_in_blocks(ssim, frames, clip.frames))),
        "mouth_correlation": correlation(opening, true_opening),
        "mouth_opening_error": float(np.abs(opening - true_opening).mean()),
        "mouth_landmark_distance": float(jnp.linalg.norm(mouth - truth, axis=-1).mean()),
    }
    if clip.emotion >= 0:
        figures["emotion_accuracy"] = float(judges.emotion(frames) == clip.emotion)
    return figures


def evaluate(
    renderer: Renderer, judges: Judges, data: Path, split: str = "test", limit: int | None = None
) -> dict[str, Any]:
    """Judges generated clips, the truth, and still portraits.

    Returns:
      {"clips": n, "identities": n, "rows": {row: {figure: mean over clips}},
       "by_emotion": {emotion: figures of the generated clips}}
    """
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    by_emotion: dict[str, list[dict[str, float]]] = defaultdict(list)
    identities = set()
    for i, clip in enumerate(evaluation_clips(data, split, renderer.size)):
        if limit is not None and i >= limit:
            break
        generated = renderer.render(clip.portrait, clip.audio)[: len(clip.frames)]
        figures = judge_video(judges, clip, generated)
        rows["generated"].append(figures)
        rows["still portrait"].append(
            judge_video(judges, clip, np.repeat(clip.portrait[None], len(clip.frames), 0))
        )
        rows["truth"].append(judge_video(judges, clip, clip.frames))
        if clip.emotion >= 0:
            by_emotion[EMOTIONS[clip.emotion]].append(figures)
        identities.add(clip.identity)
    return {
        "split": split,
        "clips": len(rows["generated"]),
        "identities": len(identities),
        "rows": {name: mean_figures(figures) for name, figures in rows.items()},
        "by_emotion": {name: mean_figures(by_emotion[name]) for name in sorted(by_emotion)},
    }


def mean_figures(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over the clips that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def markdown_table(rows: dict[str, dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = ["| | " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for title, row in rows.items():
        cells = [f"{row[name]:.3f}" if name in row else "" for name in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _in_blocks(metric: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    compiled = _compiled(metric)
    values = [compiled(x, y) for x, y in zip(_blocks(a), _blocks(b), strict=True)]
    return np.concatenate(values)[: len(a)]


@functools.cache
def _compiled(metric: Any) -> Any:
    return jax.jit(metric)


def _blocks(frames: np.ndarray) -> list[np.ndarray]:
    """Frames in blocks of one shape, the last one filled up with its last frame."""
    missing = -len(frames) % BLOCK
    filled = np.concatenate([frames, np.repeat(frames[-1:], missing, 0)])
    return list(filled.reshape(-1, BLOCK, *frames.shape[1:]))


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.evaluate", description="Judges a model on held-out identities."
    )
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED_WEIGHTS)
    parser.add_argument("--data", type=Path, required=True, help="folder of prepared records")
    parser.add_argument("--split", default="test")
    parser.add_argument("--judges", type=Path, default=JUDGES, help="folder of judges' weights")
    parser.add_argument("--limit", type=int, help="judge the first N clips only")
    parser.add_argument("--out", type=Path, help="JSON to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with sentences_for_errors():
        if arguments.out and not arguments.out.parent.is_dir():
            raise InputError(f"cannot write {arguments.out}: {arguments.out.parent} is no folder")
        report = evaluate(
            Renderer.from_pretrained(arguments.checkpoint),
            load_judges(arguments.judges),
            arguments.data,
            arguments.split,
            arguments.limit,
        )
        if arguments.out:
            arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown_table(report["rows"]))


if __name__ == "__main__":
    enable_compilation_cache()
    main()
