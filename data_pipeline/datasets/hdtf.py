"""HDTF (Zhang et al., CVPR 2021): videos of addresses and interviews, annotated by hand.

The annotation (github.com/MRzzm/HDTF, CC BY 4.0) is four text files for each of RD, WDA and WRA:

    RD_video_url.txt        Radio11 https://www.youtube.com/watch?v=…
    RD_annotion_time.txt    Radio11.mp4 00:30-01:00 01:30-02:30
    RD_crop_wh.txt          Radio11_1.mp4 557 478 0 478       of clip 1: x, width, y, height
    RD_resolution.txt       Radio11.mp4 720                   the height that the crops refer to

The videos are fetched by whoever uses them, and lie anywhere below --raw as Radio11.mp4 or
RD_Radio11.webm or the like; clips that others have cut (RD_Radio11_001.mp4) are taken as they are.

Who speaks is what WDA and WRA call the video, without the number at its end: NancyPelosi3 is
NancyPelosi. Two names for one video are one person (WhipJimClyburn is JamesClyburn1). RD's names
tell nobody, so that each of its videos counts as another person.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_pipeline.clips import Region, Remote, VideoJob
from data_pipeline.datasets.raw import VIDEO_SUFFIXES, absolute, by_name, files_below
from data_pipeline.datasets.splits import Split, by_identity, published
from data_pipeline.errors import InputError

SplitName = Literal["edtalk", "identity"]

_PREFIXES = ("RD", "WDA", "WRA")
_KINDS = ("video_url", "annotion_time", "crop_wh", "resolution")
_HEIGHTS = (720, 1080, 2160)  # The authors' videos; the first is the usual one.
_BEYOND = 1.1  # Some crops reach a little over the picture's edge.

Annotation = dict[str, dict[str, list[str]]]  # of each kind: the words after each name


def jobs(raw: str | os.PathLike, size: int, model: str, limit: int | None = None) -> list[VideoJob]:
    """A job for each annotated clip, in the order of their names.

    Args:
        raw: the folder with the annotation and the videos; searched to any depth.
        size: side of the crops in pixels.
        model: the face landmarker's file.
        limit: takes only the first so many clips.

    Raises:
        InputError: there is no such folder, or no whole annotation in it.
    """
    files = files_below(absolute(raw))
    videos = by_name(path for path in files if path.suffix.lower() in VIDEO_SUFFIXES)
    found = []
    for prefix in _PREFIXES:
        annotation = _read_annotation(files, prefix)
        people = _people(annotation, prefix)
        for name, index in _list_clips(annotation):
            place = _place(annotation, prefix, name, index, videos)
            found.append(VideoJob(identity=people[name], size=size, model=model, **place))
    if not found:
        raise InputError(
            f"{raw} has no annotation of HDTF (WDA_annotion_time.txt and so on): put a copy of "
            "github.com/MRzzm/HDTF into it."
        )
    return sorted(found, key=lambda job: job.clip)[:limit]


def split_of(name: SplitName) -> Split:
    """EDTalk's 308 and 77 clips, in which some people are on both sides, or ours by identity."""
    if name == "identity":
        return by_identity()
    return lambda source: published("hdtf", name).get(source.clip.partition("#")[0], "")


def _read_annotation(files: list[Path], prefix: str) -> Annotation:
    paths = {}
    for kind in _KINDS:
        named = [path for path in files if path.name == f"{prefix}_{kind}.txt"]
        if named:
            paths[kind] = min(named, key=lambda path: len(path.parts))
    lacking = [f"{prefix}_{kind}.txt" for kind in _KINDS if kind not in paths]
    if paths and lacking:
        folder = next(iter(paths.values())).parent
        raise InputError(f"{folder} lacks {', '.join(lacking)}: copy HDTF's annotation whole.")
    return {kind: _read_table(paths[kind]) if paths else {} for kind in _KINDS}


def _read_table(path: Path) -> dict[str, list[str]]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()  # One of them has a byte order mark.
    return {words[0].removesuffix(".mp4"): words[1:] for words in map(str.split, lines) if words}


def _list_clips(annotation: Annotation) -> Iterator[tuple[str, int | None]]:
    """Names and numbers of all clips that any file knows; None of a video without clips."""
    clips = {
        (name, index)
        for name, spans in annotation["annotion_time"].items()
        for index in range(len(spans))
    }
    for clip in annotation["crop_wh"]:
        name, _, index = clip.rpartition("_")
        clips.add((name, int(index)) if name and index.isdecimal() else (clip, None))
    named = {name for name, _ in clips}
    clips |= {(name, None) for kind in _KINDS[:2] for name in annotation[kind] if name not in named}
    yield from clips


def _people(annotation: Annotation, prefix: str) -> dict[str, str]:
    """Who speaks in each video."""
    names = {name for name, _ in _list_clips(annotation)}
    people = {name: name if prefix == "RD" else name.rstrip("0123456789") for name in names}
    speakers: dict[str, str] = {}  # of each address
    also: dict[str, str] = {}  # people who go by another name too
    for name, person in sorted(people.items()):
        address = _video_id(_address(annotation, name)) or name
        also[person] = speakers.setdefault(address, also.get(person, person))
    return {name: also[person] for name, person in people.items()}


def _address(annotation: Annotation, name: str) -> str:
    words = annotation["video_url"].get(name, [])
    return next((word for word in words if word.startswith("http")), "")


def _video_id(address: str) -> str:
    found = re.search(r"(?:v=|youtu\.be/)([\w-]{11})", address)
    return found.group(1) if found else address


def _place(
    annotation: Annotation, prefix: str, name: str, index: int | None, videos: dict[str, Path]
) -> dict:
    """Where a clip is, or why it is nowhere: fields of its job."""
    whole = videos.get(f"{prefix}_{name}".lower()) or videos.get(name.lower())
    if index is None:
        reason = "no time and no crop are published for it"
        return {"clip": f"{prefix}_{name}", "source": str(whole or ""), "refused": reason}
    clip = f"{prefix}_{name}_{index:03d}"
    cut = videos.get(clip.lower()) or videos.get(f"{name}_{index}".lower())
    if cut and not whole:
        return {"clip": clip, "source": str(cut)}
    fields = {"clip": clip, "source": str(whole or "")}
    try:
        start, end = _span(annotation["annotion_time"].get(name, []), index)
        region = _region(
            annotation["crop_wh"].get(f"{name}_{index}"), annotation["resolution"].get(name)
        )
    except InputError as error:
        return fields | {"refused": str(error)}
    fields |= {"start": start, "end": end, "region": region}
    if whole:
        return fields
    address = _address(annotation, name)
    remote = Remote(f"{prefix}_{name}", address) if address else None
    return fields | {
        "missing": f"its video is not there: {address or 'no address is published for it'}",
        "remote": remote,
    }


def _span(spans: list[str], index: int) -> tuple[float, float]:
    if index >= len(spans):
        raise InputError("no time is published for it")
    try:
        start, end = (_seconds(time) for time in spans[index].split("-"))
    except ValueError:
        start = end = 0.0
    if start >= end:
        raise InputError(f"the published time {spans[index]} is broken")
    return start, end


def _seconds(time: str) -> float:
    return sum(float(part) * 60**power for power, part in enumerate(reversed(time.split(":"))))


def _region(crop: list[str] | None, resolution: list[str] | None) -> Region:
    if crop is None:
        raise InputError("no crop is published for it")
    try:
        x, width, y, height = (float(word) for word in crop)
        listed = float(resolution[0]) if resolution else 0.0
    except ValueError:
        width = height = 0.0
    if width <= 0 or height <= 0:
        raise InputError(f"the published crop {' '.join(crop)} is broken")
    # The list says 0, or 720 of a crop that needs 872 rows: then the first height it fits into.
    fitting = (tall for tall in _HEIGHTS if y + height <= tall * _BEYOND and x + width <= 2 * tall)
    if y + height > listed * _BEYOND:
        listed = next(fitting, y + height)
    return Region(x, y, x + width, y + height, listed)
