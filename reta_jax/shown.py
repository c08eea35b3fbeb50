"""Clips that are looked at closely: which, when, and what a model does inside meanwhile.

reta_jax.figures draws them.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.errors import InputError
from data_pipeline.face import eye_distance
from data_pipeline.loader import EvaluationClip, evaluation_clips
from data_pipeline.records import open_records
from data_pipeline.synthetic_phonemes import PHONEMES
from reta_jax.inside import Inside, look_inside
from reta_jax.metrics.mouth import opening
from reta_jax.metrics.rendering import first_frames
from reta_jax.pretrained.reta import Pretrained
from reta_jax.renderer import controls_in_silence, encode_portrait
from reta_jax.windows import audio_windows


class Shown(NamedTuple):
    """A clip as the model renders it: T frames, some of them looked into."""

    clip: EvaluationClip  # cut to T frames
    sounds: list[str] | None  # name of the sound in each frame, where known
    moments: list[int]  # frame numbers
    frames: UInt8[np.ndarray, "t h w 3"]  # generated
    pooled: list[np.ndarray]  # of each level (T, d), see `Inside`
    mean_flows: list[np.ndarray]  # of each level (h, w, 2), over the clip
    inside: list[Inside]  # of each moment, one frame without the axis of time
    p_exp: np.ndarray | None  # (T, k)


def load_clips(
    data: Path, split: str, size: int, limit: int, frames: int
) -> list[tuple[EvaluationClip, list[str] | None]]:
    """The first `limit` clips of a split, cut to `frames` frames, and their sounds' names."""
    found = []
    for clip, record in islice(
        zip(evaluation_clips(data, split, size), open_records(data, split), strict=True), limit
    ):
        phonemes = record["phonemes"][:frames]
        sounds = [PHONEMES[p] for p in phonemes] if phonemes.any() else None
        found.append((first_frames(clip, frames), sounds))
    if not found:
        raise InputError(f"there is no clip in the split {split!r} of {data}")
    return found


def true_opening(clip: EvaluationClip) -> Float[np.ndarray, " t"]:
    """Opening of the true mouth over the distance of the eyes; NaN where points are not known."""
    known = eye_distance(clip.landmarks) > 0
    result = np.full(len(clip.landmarks), np.nan)
    result[known] = opening(clip.landmarks[known])
    return result


def pick_shown(clips: Sequence[EvaluationClip], count: int) -> list[int]:
    """The clips whose mouths move most, of different emotions as long as there are any."""
    movement = [float(np.nan_to_num(true_opening(clip)).std()) for clip in clips]
    by_movement = sorted(range(len(clips)), key=lambda i: -movement[i])
    best_of: dict[int, int] = {}
    for i in by_movement:
        best_of.setdefault(clips[i].emotion, i)
    return list(dict.fromkeys([*best_of.values(), *by_movement]))[:count]


def pick_moments(gap: Float[np.ndarray, " t"], count: int) -> list[int]:
    """Frames spread over a clip, mouths wide and shut in turn.

    The clip is cut into `count` equal stretches; of one the widest mouth is taken, of the next the
    narrowest, but none of its ends: neighbours would be one moment. Where the opening is not known
    it is the middle.
    """
    edges = np.linspace(0, len(gap), min(count, len(gap)) + 1).round().astype(int)
    moments = []
    for i, (first, end) in enumerate(zip(edges, edges[1:], strict=False)):
        margin = (end - first) // 6
        stretch = gap[first + margin : end - margin]
        if not np.isfinite(stretch).any():
            moments.append(int(first + end) // 2)
        else:
            choose = np.nanargmax if i % 2 == 0 else np.nanargmin
            moments.append(int(first + margin + choose(stretch)))
    return moments


def render_inside(
    model: Pretrained, clip: EvaluationClip, sounds: list[str] | None, moments: list[int]
) -> Shown:
    """Renders a clip from its portrait and voice, and keeps what happens inside at `moments`."""
    reta, params, morphable = model.reta, model.params, model.morphable
    silence = controls_in_silence(reta, params, morphable)
    identity = encode_portrait(reta, params, clip.portrait[None])
    chunks, kept = [], []
    flows: list[np.ndarray] = []
    first = 0
    for audio, count in audio_windows(clip.audio, reta.window):
        inside = look_inside(reta, params, morphable, identity, audio, silence)
        whole = jax.device_get((inside.frames, inside.pooled, inside.p_exp))
        chunks.append(jax.tree.map(lambda x, n=count: x[:n], whole))
        sums = [np.asarray(flow[:count].sum(0)) for flow in inside.flows]
        flows = [a + b for a, b in zip(flows, sums, strict=True)] if flows else sums
        kept += [
            jax.device_get(jax.tree.map(lambda x, i=m - first: x[i], inside))
            for m in moments
            if first <= m < first + count
        ]
        first += count
    frames, pooled, p_exp = jax.tree.map(lambda *x: np.concatenate(x), *chunks)
    mean_flows = [flow / first for flow in flows]
    return Shown(clip, sounds, moments, frames, list(pooled), mean_flows, kept, p_exp)


def liveliest(clip: EvaluationClip, length: int) -> slice:
    """The stretch of `length` frames in which the true mouth's opening varies most."""
    length = min(length, len(clip.frames))
    gap = np.nan_to_num(true_opening(clip))
    spread = [gap[i : i + length].std() for i in range(len(gap) - length + 1)]
    first = int(np.argmax(spread))
    return slice(first, first + length)
