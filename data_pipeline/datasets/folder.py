"""Any folder of talking-head videos as a data set."""

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track

from data_pipeline.clips import VideoJob
from data_pipeline.datasets.raw import VIDEO_SUFFIXES, absolute, video_files
from data_pipeline.emotions import EMOTIONS, UNKNOWN_EMOTION
from data_pipeline.errors import InputError
from data_pipeline.tables import read_table, without_suffix

IdentityFrom = Literal["folder", "top", "prefix", "file"]

PART_SECONDS = 300
_LONG_BYTES = 2_000_000  # 450 seconds have more; shorter files need not be opened
_OPENED_AT_ONCE = 8  # Storage over a network answers slowly, but several at once.
_MANY = 1_000  # files whose headers may take more than some seconds
_MOST_BYTES = 150  # of a clip's name: a file name has 255, and names of files are made of it


def jobs(
    raw: str | os.PathLike,
    size: int,
    model: str,
    identity_from: IdentityFrom = "folder",
    identities: str | os.PathLike | None = None,
    limit: int | None = None,
) -> list[VideoJob]:
    """A job for each video file below `raw`, or for each five minutes of it, in their order.

    Several processes can so share a long video, and an interruption costs minutes of it.

    Args:
        raw: the folder; searched to any depth.
        size: side of the crops in pixels.
        model: the face landmarker's file.
        identity_from: who speaks: the file's folder, but for those that state an emotion or its
            level; the first folder below `raw`; the file's name before "__"; each file another.
        identities: CSV with columns `id` (the file's name) and `identity`, which goes before
            `identity_from`; an empty cell says nothing.
        limit: takes only the first so many files.

    Raises:
        InputError: there is no such folder, no video in it, two would be one clip, two folders
            of one name would be one person, or `identities` names strangers or one file twice.
    """
    raw = absolute(raw)
    files = video_files(raw)
    if not files:
        raise InputError(f"{raw} has no video files: expected {', '.join(sorted(VIDEO_SUFFIXES))}.")
    named = _read_identities(identities, files) if identities else {}
    unnamed = [path for path in files if not named.get(path.stem)]
    if identity_from == "folder":
        _check_folders_differ(unnamed, raw)
    whole = [
        VideoJob(
            clip=clip,
            identity=named.get(path.stem) or _identity(path, raw, identity_from),
            source=str(path),
            emotion=emotion_of(path.relative_to(raw)),
            size=size,
            model=model,
        )
        for clip, path in _by_clip(files[:limit], raw).items()
    ]
    return list(itertools.chain.from_iterable(_divided(whole)))


def _divided(jobs: Sequence[VideoJob]) -> Iterator[list[VideoJob]]:
    """The parts of each job, with a line of progress where many files are opened for it."""
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        yield from track(
            pool.map(_parts, jobs),
            "looking for long videos",
            total=len(jobs),
            console=Console(stderr=True),
            disable=len(jobs) < _MANY,
        )


def _parts(job: VideoJob) -> list[VideoJob]:
    """A long video's pieces, called after the minutes that they begin at; the last one is open."""
    try:
        seconds = job.extent()[0] if os.path.getsize(job.source) > _LONG_BYTES else 0
    except (InputError, OSError):  # which its own job will tell
        seconds = 0
    count = round(seconds / PART_SECONDS)
    if count < 2:
        return [job]
    starts = [PART_SECONDS * index for index in range(count)]
    return [
        dataclasses.replace(
            job, clip=f"{job.clip}@{start // 60:03d}", start=start, end=end, one_shot=False
        )
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]


def _by_clip(files: Iterable[Path], raw: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        clip = _clip_name(path.relative_to(raw))
        if clip in found:  # "a/b.mp4" and "a__b.mp4"
            raise InputError(f"{found[clip]} and {path} would both be clip {clip}: rename one.")
        found[clip] = path
    return found


def _read_identities(path: str | os.PathLike, files: Iterable[Path]) -> dict[str, str]:
    """Who speaks in which of the files, by their names without suffix."""
    named: dict[str, str] = {}
    for line in read_table(path, (("id",), ("identity",))):
        name = without_suffix(line["id"])
        who = named.setdefault(name, line["identity"])
        if who != line["identity"]:
            raise InputError(f"{path} says of {name} that it is {who}, and {line['identity']}")
    if strangers := sorted(named.keys() - {file.stem for file in files}):
        raise InputError(
            f"{path} names {', '.join(strangers[:8])}, of which there is no video: an id is a "
            "file's name"
        )
    return named


def _clip_name(relative: Path) -> str:
    """A file name for the clip, short and without blanks; marked where that made it ambiguous."""
    plain = "__".join(relative.with_suffix("").parts)
    name = re.sub(r"[^\w.-]+", "_", plain)
    name = name.encode()[:_MOST_BYTES].decode(errors="ignore")
    if name == plain and relative.suffix == ".mp4":
        return name
    return f"{name}-{hashlib.sha256(str(relative).encode()).hexdigest()[:6]}"


def _identity(path: Path, raw: Path, identity_from: IdentityFrom) -> str:
    if identity_from == "folder":
        return _folder_of_person(path, raw).name
    if identity_from == "top":
        return (raw / path.relative_to(raw).parts[0]).name if path.parent != raw else raw.name
    prefix = path.stem.split("__")[0] if identity_from == "prefix" else ""
    return prefix or path.stem


def _folder_of_person(path: Path, raw: Path) -> Path:
    """The folder that a file lies in, but for those that state what `emotion_of` reads."""
    folder = path.parent
    if emotion_of(path.relative_to(raw)) == UNKNOWN_EMOTION:
        return folder
    while folder != raw and {"level", *EMOTIONS}.issuperset(_words(folder.name)):
        folder = folder.parent
    return folder


def _check_folders_differ(files: Iterable[Path], raw: Path) -> None:
    """Raises InputError where folders in different places have one name, as `session1` may."""
    found: dict[str, Path] = {}
    for folder in (_folder_of_person(path, raw) for path in files):
        if found.setdefault(folder.name, folder) != folder:
            raise InputError(
                f"{found[folder.name]} and {folder} would be one person, {folder.name}: say "
                "--identity-from top for the first folder below --raw, or rename one."
            )


def emotion_of(path: Path) -> int:
    """The emotion that a path states as MEAD does ("level_3_happy", "happy/level_3"), else -1."""
    words = _words(str(path.with_suffix("")))
    stated = [word for word in words if word in EMOTIONS]
    return EMOTIONS.index(stated[-1]) if "level" in words and stated else UNKNOWN_EMOTION


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
