"""Judges a model on held-out identities: python -m reta_jax.evaluate --checkpoint DIR --data DIR

Every clip of the split is rendered from its identity's portrait and its own voice. The other rows
say what the judges make of perfection, of doing nothing, of coming late and of blur: a figure is
worth what it makes of them. The judges (landmarks, emotion) are networks that no model is trained
against. Figures come with the interval that 95 % of resampled sets of clips give.

Videos of any other system: python -m reta_jax.evaluate --videos GENERATED --reference REAL
"""

import argparse
import functools
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter

from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.face import FaceLandmarker
from data_pipeline.loader import EvaluationClip, evaluation_clips
from reta_jax.commands import enable_compilation_cache, sentences_for_errors
from reta_jax.experts.landmark_net import MOUTH, into_lower_face, lower_face, mouth_opening
from reta_jax.experts.load import load_expert
from reta_jax.images import to_float
from reta_jax.metrics.image import psnr, ssim
from reta_jax.metrics.mouth import correlation, find_points, jitter, silent_frames
from reta_jax.metrics.videos import Face, compare_faces, find_pairs, read_pairs
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
    figures = compare_pixels(frames, clip.frames) | {
        "mouth_correlation": correlation(opening, true_opening),
        "mouth_opening_error": float(np.abs(opening - true_opening).mean()),
        "mouth_landmark_distance": float(jnp.linalg.norm(mouth - truth, axis=-1).mean()),
        "mouth_jitter": jitter(np.asarray(mouth)),
    }
    silent = silent_frames(clip.audio, len(frames))
    if silent.sum() > 1:
        figures["movement_in_silence"] = float(np.std(opening[silent]))
    if clip.emotion >= 0:
        figures["emotion_accuracy"] = float(judges.emotion(frames) == clip.emotion)
    return figures


def compare_pixels(
    frames: UInt8[np.ndarray, "t h w 3"], truth: UInt8[np.ndarray, "t h w 3"]
) -> dict[str, float]:
    """PSNR in dB, 100 of equal frames, and SSIM."""
    return {
        "psnr": float(np.mean(np.minimum(_in_blocks(psnr, frames, truth), 100.0))),
        "ssim": float(np.mean(_in_blocks(ssim, frames, truth))),
    }


LATE, BLUR = 3, 2.0  # frames; pixels at 64 px


def comparisons(
    frames: UInt8[np.ndarray, "t h w 3"], portrait: UInt8[np.ndarray, "h w 3"]
) -> dict[str, UInt8[np.ndarray, "t h w 3"]]:
    """Videos whose rank is known: perfection, and ways to fall short of it."""
    sigma = BLUR * frames.shape[1] / 64
    return {
        "still portrait": np.repeat(portrait[None], len(frames), 0),
        f"truth, {LATE} frames late": np.concatenate([frames[:1].repeat(LATE, 0), frames])[:-LATE],
        "truth, blurred": gaussian_filter(frames, (0, sigma, sigma, 0)),
        "truth": frames,
    }


def evaluate(
    renderer: Renderer, judges: Judges, data: Path, split: str = "test", limit: int | None = None
) -> dict[str, Any]:
    """Judges generated clips and, beside them, the `comparisons`.

    Returns:
      {"clips": n, "identities": n, "rows": {row: {figure: mean over clips}},
       "intervals": {row: {figure: [low, high]}}, and of the generated clips
       "by_emotion" and "by_identity": {which: {figure: mean}}}
    """
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    clips = []
    for clip in itertools.islice(evaluation_clips(data, split, renderer.size), limit):
        generated = renderer.render(clip.portrait, clip.audio)[: len(clip.frames)]
        for name, frames in {
            "generated": generated,
            **comparisons(clip.frames, clip.portrait),
        }.items():
            rows[name].append(judge_video(judges, clip, frames))
        clips.append((EMOTIONS[clip.emotion] if clip.emotion >= 0 else "", clip.identity))
    emotions, identities = zip(*clips, strict=True)
    return {
        "split": split,
        "clips": len(clips),
        "identities": len(set(identities)),
        "rows": {name: mean_figures(figures) for name, figures in rows.items()},
        "intervals": {name: intervals(figures) for name, figures in rows.items()},
        "by_emotion": _grouped(rows["generated"], emotions),
        "by_identity": _grouped(rows["generated"], identities),
    }


def evaluate_videos(
    generated: Path, reference: Path, landmarker: FaceLandmarker, limit: int | None = None
) -> dict[str, Any]:
    """Judges videos of any system against the real ones of the same names.

    Returns:
      as `evaluate`, with the videos' names for "by_clip"; the still portrait is the first frame.
    """
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    pairs = find_pairs(generated, reference)[:limit]
    for _, face, real, video in read_pairs(pairs, landmarker):
        known = comparisons(real.frames, real.frames[0])
        known.pop("truth")  # its points are known already
        faces = {name: Face(x, find_points(x, landmarker)) for name, x in known.items()}
        for name, shown in {"generated": face, **faces, "truth": real}.items():
            figures = compare_pixels(shown.frames, real.frames)
            rows[name].append(figures | compare_faces(shown, real, video.audio))
    return {
        "clips": len(pairs),
        "rows": {name: mean_figures(figures) for name, figures in rows.items()},
        "intervals": {name: intervals(figures) for name, figures in rows.items()},
        "by_clip": dict(zip((pair.name for pair in pairs), rows["generated"], strict=True)),
    }


def _grouped(rows: list[dict[str, float]], groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean figures of each group that has a name."""
    return {
        name: mean_figures([row for row, group in zip(rows, groups, strict=True) if group == name])
        for name in sorted(set(groups) - {""})
    }


def mean_figures(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over the clips that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def intervals(rows: list[dict[str, float]], draws: int = 1_000) -> dict[str, list[float]]:
    """Where the mean of each figure lies in 95 % of the sets of clips drawn from these (bootstrap).

    Clips are drawn with replacement, the same ones for every figure and every row.
    """
    chosen = np.random.default_rng(0).integers(len(rows), size=(draws, len(rows)))
    found = {}
    for name in mean_figures(rows):
        values = np.array([row.get(name, np.nan) for row in rows])
        has_one = np.isfinite(values[chosen]).any(1)
        means = np.nanmean(values[chosen[has_one]], axis=1)
        found[name] = np.percentile(means, [2.5, 97.5]).tolist()
    return found


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
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="folder of prepared records to render and judge")
    what.add_argument("--videos", type=Path, help="folder of generated videos to judge as they are")
    parser.add_argument("--reference", type=Path, help="folder of the real videos of these names")
    parser.add_argument("--face-landmarker", type=Path, help="for --videos: MediaPipe's model")
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
        if arguments.limit is not None and arguments.limit < 1:
            raise InputError(f"--limit {arguments.limit} leaves nothing to judge: give 1 or more")
        report = _evaluate(arguments)
        if arguments.out:
            arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown_table(report["rows"]))


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.videos:
        if not arguments.reference:
            raise InputError("--videos needs --reference, the folder of the real videos")
        landmarker = FaceLandmarker(arguments.face_landmarker)
        return evaluate_videos(arguments.videos, arguments.reference, landmarker, arguments.limit)
    return evaluate(
        Renderer.from_pretrained(arguments.checkpoint),
        load_judges(arguments.judges),
        arguments.data,
        arguments.split,
        arguments.limit,
    )


if __name__ == "__main__":
    enable_compilation_cache()
    main()
