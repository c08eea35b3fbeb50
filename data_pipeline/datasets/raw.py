"""Raw files: what lies below a directory, and how to fetch what does not."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from data_pipeline.clips import Remote, VideoJob
from data_pipeline.errors import InputError, system_error

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v", ".flv", ".ts"}
AUDIO_SUFFIXES = {".m4a", ".aac", ".wav", ".mp3", ".flac"}
_FETCH = "yt-dlp --no-overwrites -S res:1080,ext:mp4:m4a --merge-output-format mp4"


def absolute(raw: str | os.PathLike) -> Path:
    """A directory's path that holds from anywhere, and whose last part is the directory's name."""
    path = Path(raw)
    return path.resolve() if ".." in path.parts else path.absolute()


def files_below(raw: str | os.PathLike) -> list[Path]:
    """All files below a directory in the order of their paths, through links but not in circles.

    Raises:
        InputError: it is none, a folder in it cannot be read, or a medium's name is no text.
    """
    try:
        if not Path(raw).is_dir():
            raise InputError(f"{raw} is not a directory: give the folder with the videos.")
        files = sorted(_walk(raw))
    except OSError as error:
        raise system_error(
            f"{error.filename} cannot be read ({error.strerror}): check its permissions.", error
        ) from error
    for path in files:
        if path.suffix.lower() in VIDEO_SUFFIXES | AUDIO_SUFFIXES:
            _check_name(path)
    return files


def _check_name(path: Path) -> None:
    """Raises InputError if a path is not in UTF-8, as names of clips and people must be."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the name {ascii(str(path))} is not in UTF-8: rename the file or the folder."
        ) from error


def _walk(raw: str | os.PathLike) -> Iterator[Path]:
    seen = set()
    for folder, below, names in os.walk(raw, onerror=_refuse, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            below.clear()
            continue
        seen.add(place)
        below.sort()  # Of several ways to a folder, the same one counts on every disk.
        yield from (path for name in names if (path := Path(folder, name)).is_file())


def _refuse(error: OSError) -> NoReturn:
    raise error


def video_files(raw: str | os.PathLike) -> list[Path]:
    """The files of `files_below` that videos are named like."""
    return [path for path in files_below(raw) if path.suffix.lower() in VIDEO_SUFFIXES]


def by_name(videos: Iterable[Path]) -> dict[str, Path]:
    """Videos by their names without suffix, in small letters; the largest file of each name."""
    return {
        path.stem.lower(): path for path in sorted(videos, key=lambda path: path.stat().st_size)
    }


def write_missing(jobs: Sequence[VideoJob], raw: Path, out: Path) -> str:
    """Writes out/missing.sh, which fetches the videos that are not there; a sentence on them.

    They come under the names by which they are looked for. Where none is missing there is no script
    and no sentence.
    """
    script = out / "missing.sh"
    wanted = sorted(missing_videos(jobs))
    if not wanted:
        script.unlink(missing_ok=True)
        return ""
    lines = [
        "#!/bin/sh",
        "# Fetches the videos that were not found; needs yt-dlp and ffmpeg. Some may be gone.",
    ]
    for name, address in wanted:
        place = shlex.quote(f"{raw.resolve()}/{name}.%(ext)s")
        lines.append(f"{_FETCH} -o {place} -- {shlex.quote(address)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        script.write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise system_error(
            f"cannot write {script} ({error.strerror}): give another --out.", error
        ) from error
    return (
        f"{len(wanted)} videos are not below {raw}: `sh {shlex.quote(str(script))}` fetches them "
        "with yt-dlp; then give this command again."
    )


def missing_videos(jobs: Sequence[VideoJob]) -> set[Remote]:
    """The videos that jobs wait for and that can be fetched."""
    return {job.remote for job in jobs if job.missing and job.remote and not job.refused}
