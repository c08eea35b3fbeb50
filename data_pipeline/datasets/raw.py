"""Raw files: what lies below a directory, and how to fetch what does not."""

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipeline.clips import VideoJob
from data_pipeline.errors import InputError

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m4v", ".flv", ".ts"}


def files_below(raw: str | os.PathLike) -> list[Path]:
    """All files below a directory in the order of their paths, through links but not in circles.

    Raises:
        InputError: it is none.
    """
    if not Path(raw).is_dir():
        raise InputError(f"{raw} is not a directory: give the folder with the videos as --raw.")
    found, seen = [], set()
    for folder, below, names in os.walk(raw, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            below.clear()
            continue
        seen.add(place)
        found += [path for name in names if (path := Path(folder, name)).is_file()]
    return sorted(found)


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

    The file names are those under which the videos are found; without any missing there is no
    script and no sentence.
    """
    wanted = dict(sorted({job.remote for job in jobs if job.missing and job.remote}))
    script = out / "missing.sh"
    if not wanted:
        script.unlink(missing_ok=True)
        return ""
    lines = [
        "#!/bin/sh",
        "# Fetches the videos that were not found; needs yt-dlp and ffmpeg. Some are gone for good.",
        *(
            "yt-dlp --no-overwrites -S res:1080,ext:mp4:m4a --merge-output-format mp4 -o "
            f"{shlex.quote(f'{raw.resolve()}/{name}.%(ext)s')} -- {shlex.quote(address)}"
            for name, address in wanted.items()
        ),
    ]
    out.mkdir(parents=True, exist_ok=True)
    script.write_text("\n".join(lines) + "\n")
    return (
        f"{len(wanted)} videos are not below {raw}: `sh {script}` fetches them with yt-dlp; then "
        "give this command again."
    )
