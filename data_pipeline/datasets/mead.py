"""MEAD (Wang et al., ECCV 2020): actors who speak with eight emotions in up to three levels.

    M003/video/front/angry/level_1/001.mp4      seven views, 1080p, 30 frames a second, no sound
    M003/audio/angry/level_1/001.m4a            the voice, of all views

Of these the clips M003_front_angry_1_001 are made; the actor, or several, lie anywhere below --raw.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from data_pipeline.clips import VideoJob
from data_pipeline.datasets.raw import AUDIO_SUFFIXES, VIDEO_SUFFIXES, absolute, files_below
from data_pipeline.datasets.splits import Split, by_identity, published
from data_pipeline.emotions import EMOTIONS, UNKNOWN_EMOTION
from data_pipeline.errors import InputError

SplitName = Literal["edtalk", "eat", "identity"]

VIEWS = ("front", "left_30", "left_60", "right_30", "right_60", "top", "down")
# Actor, view, emotion, level and number of a clip, or of a piece of it.
_CLIP = re.compile(rf"(.+)_({'|'.join(VIEWS)})_({'|'.join(EMOTIONS)})_([^_]+)_([^_#]+)(?:#[0-9]+)?")


class _Take(NamedTuple):
    """What an actor said once, before all cameras."""

    actor: str
    emotion: str
    level: str
    number: str


def jobs(
    raw: str | os.PathLike,
    size: int,
    model: str,
    views: Sequence[str] = ("front",),
    limit: int | None = None,
) -> list[VideoJob]:
    """A job for each take from each view, in the order of their names.

    Args:
        raw: the folder with the actors' folders; searched to any depth.
        size: side of the crops in pixels.
        model: the face landmarker's file.
        views: of VIEWS.
        limit: takes only the first so many clips.

    Raises:
        InputError: there is no such folder, or no take in it.
    """
    videos: dict[tuple[_Take, str], Path] = {}
    voices: dict[_Take, Path] = {}
    for path in files_below(absolute(raw)):
        match [folder.lower() for folder in path.parent.parts]:
            case [*_, actor, "video", view, emotion, level] if view in views:
                if path.suffix.lower() in VIDEO_SUFFIXES:
                    videos[_take(actor, emotion, level, path), view] = path
            case [*_, actor, "audio", emotion, level] if path.suffix.lower() in AUDIO_SUFFIXES:
                voices[_take(actor, emotion, level, path)] = path
    keys = videos.keys() | {(take, view) for take in voices for view in views}
    if not videos:
        raise InputError(
            f"{raw} has no videos of MEAD: expected M003/video/{views[0]}/angry/level_1/001.mp4 "
            "and so on, as its archives unpack."
        )
    found = [
        _job(take, view, videos.get((take, view)), voices.get(take), size, model)
        for take, view in keys
    ]
    return sorted(found, key=lambda job: job.clip)[:limit]


def _take(actor: str, emotion: str, level: str, path: Path) -> _Take:
    return _Take(actor.upper(), emotion, level.removeprefix("level_"), path.stem)


def _job(
    take: _Take, view: str, video: Path | None, voice: Path | None, size: int, model: str
) -> VideoJob:
    name = f"{take.emotion}/level_{take.level}/{take.number}"
    refused = missing = ""
    if take.emotion not in EMOTIONS:
        refused = f"{take.emotion} is none of MEAD's emotions"
    elif video is None:
        missing = f"no video goes with the voice: {take.actor}/video/{view}/{name}.mp4 is not there"
    elif voice is None:
        missing = f"no voice goes with the video: {take.actor}/audio/{name}.m4a is not there"
    return VideoJob(
        clip="_".join((take.actor, view, take.emotion, take.level, take.number)),
        identity=take.actor,
        source=str(video or ""),
        audio=str(voice or ""),
        size=size,
        model=model,
        emotion=UNKNOWN_EMOTION if refused else EMOTIONS.index(take.emotion),
        refused=refused,
        missing=missing,
    )


def split_of(name: SplitName) -> Split:
    """EDTalk's 39 and 4 actors; EAT's 100 clips of those 4 and all other actors; or ours."""
    if name == "identity":
        return by_identity()
    if name == "edtalk":
        return lambda source: published("mead", name).get(source.identity, "")
    return _eat_split


def _eat_split(source) -> str:
    clips = published("mead", "eat")
    if source.identity not in {clip.partition("_")[0] for clip in clips}:
        return "train"
    if view_of(source.clip) != "front":
        return ""
    actor, _, emotion, level, number = _CLIP.fullmatch(source.clip).groups()
    return clips.get(f"{actor}_{emotion[:3]}_{level}_{number}", "")


def view_of(clip: str) -> str:
    """The camera that a clip's name states; empty for clips of other data sets."""
    named = _CLIP.fullmatch(clip)
    return named[2] if named else ""
