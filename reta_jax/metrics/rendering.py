"""Clips as the protocol has them and as the model renders them, with what its 3DMM did."""

import functools
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.audio import SAMPLES_PER_FRAME, to_float
from data_pipeline.loader import EvaluationClip, evaluation_clips
from data_pipeline.records import list_clips, open_records
from data_pipeline.video import VideoWriter, read_video, resized
from reta_jax.metrics.cache import Judged, other_voice
from reta_jax.metrics.clips import has_known_mesh
from reta_jax.metrics.protocol import Protocol
from reta_jax.renderer import Renderer, window_controls
from reta_jax.windows import audio_windows


class Rendered(NamedTuple):
    """A clip as the model has it."""

    frames: UInt8[np.ndarray, "t h w 3"]
    p_exp: Float[np.ndarray, "t 64"] | None  # None without the built-in 3DMM
    seconds: float
    latency: float  # to the first frames


def render_clip(renderer: Renderer, clip: EvaluationClip) -> Rendered:
    """The clip's voice in its portrait, as many frames as the clip has and of their size."""
    portrait = resized(clip.portrait, renderer.size, renderer.size)
    start, chunks, latency = time.perf_counter(), [], 0.0
    for chunk in renderer.stream(portrait, clip.audio):
        latency = latency or time.perf_counter() - start
        chunks.append(chunk)
    seconds = time.perf_counter() - start
    count = len(clip.frames)
    p_exp = None
    if renderer.reta.motion_encoder is not None and has_known_mesh(renderer.morphable):
        p_exp = coefficients(renderer, clip)[:count]
    frames = [resized(frame, *clip.portrait.shape[:2]) for frame in np.concatenate(chunks)[:count]]
    return Rendered(np.stack(frames), p_exp, seconds, latency)


def coefficients(renderer: Renderer, clip: EvaluationClip) -> Float[np.ndarray, "t 64"]:
    """p_exp of every frame, as it was rendered."""
    reta = renderer.reta
    found = [
        _p_exp(reta, renderer.prepared, renderer.morphable, audio[None], renderer.silence)[0]
        for audio, _ in audio_windows(clip.audio, reta.window)
    ]
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames="reta")
def _p_exp(reta, params, morphable, audio, silence):
    return window_controls(reta, params, morphable, audio, silence).p_exp


def through_codec(
    frames: UInt8[np.ndarray, "t h w 3"], audio: Float[np.ndarray, " n"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames as a player shows the project's own mp4 of them, whose size is even."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with VideoWriter(path, frames.shape[1], audio) as video:
            video.write(frames)
        count, height, width = frames.shape[:3]
        return read_video(path).frames[:count, :height, :width]


def waiting_clips(
    data: Path, protocol: Protocol, known: list[Judged | None]
) -> Iterator[tuple[int, EvaluationClip, Float[np.ndarray, " n"] | None]]:
    """Clips that are not judged yet, with their number and the voice that they borrow.

    The next one is decoded while this one is judged. Alone in its split, a clip borrows none.
    """
    waiting = [i for i, one in enumerate(known) if one is None]
    clips = evaluation_clips(data, protocol.split, protocol.size, waiting)
    records = open_records(data, protocol.split)
    people = [row["identity"] for row in list_clips(data, protocol.split)]
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, clips)
        for i in waiting:
            clip = coming.result()
            coming = reader.submit(next, clips, None)  # None comes after the last
            other = other_voice(i, people)
            yield i, clip, None if other == i else to_float(records[other]["audio"])


def cut(clip: EvaluationClip, protocol: Protocol) -> EvaluationClip:
    """The clip as the protocol has it: its first frames, and the portrait."""
    if protocol.source == "own":
        clip = clip._replace(portrait=clip.frames[0])
    return first_frames(clip, protocol.frames or len(clip.frames))


def first_frames(clip: EvaluationClip, count: int) -> EvaluationClip:
    """The clip's first `count` frames, or all of them if it has fewer."""
    count = min(count, len(clip.frames))
    return clip._replace(
        frames=clip.frames[:count],
        audio=clip.audio[: count * SAMPLES_PER_FRAME],
        landmarks=clip.landmarks[:count],
        coefficients=clip.coefficients[:count],
    )
