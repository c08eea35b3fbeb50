"""VFHQ (Xie et al., CVPRW 2022): faces in interviews, given as places in videos of YouTube.

meta_info/Clip+<video>+P<person>+C<clip>+F<first>-<last>.txt has, beside landmarks,

    H 1080
    W 1920
    FPS 29.97
    CROP 644 87 1292 735        x0 y0 x1 y1 in a picture of that height

The published faces have no sound, so that the videos themselves are needed: anywhere below --raw,
under a name that is their id or ends in it, as downloaders write it: "Talk [id].mp4", "T-id.mkv".
A person of a video is an identity; the split goes by videos, as a person may have two numbers.
"""

import os
import re
from pathlib import Path

from data_pipeline.clips import Region, Remote, VideoJob
from data_pipeline.datasets.raw import VIDEO_SUFFIXES, absolute, files_below
from data_pipeline.datasets.splits import Named, by_hash
from data_pipeline.errors import InputError

_NAME = re.compile(r"Clip\+(.+)\+P(\d+)\+C(\d+)\+F(\d+)-(\d+)\.txt")


def jobs(raw: str | os.PathLike, size: int, model: str, limit: int | None = None) -> list[VideoJob]:
    """A job for each file of meta_info, in the order of the clips' names.

    Args:
        raw: the folder with the meta files and the videos; searched to any depth.
        size: side of the crops in pixels.
        model: the face landmarker's file.
        limit: takes only the first so many clips.

    Raises:
        InputError: there is no such folder, or no meta file in it.
    """
    files = files_below(absolute(raw))
    places = [(path, found) for path in files if (found := _NAME.fullmatch(path.name))]
    if not places:
        raise InputError(
            f"{raw} has no Clip+….txt of VFHQ's meta_info: unpack its archive of them there."
        )
    videos = _by_id([path for path in files if path.suffix.lower() in VIDEO_SUFFIXES])
    found = [
        _job(path, *name.groups(), videos=videos, size=size, model=model) for path, name in places
    ]
    return sorted(found, key=lambda job: job.clip)[:limit]


def split_of(source: Named) -> str:
    """About a tenth of the videos are for judging."""
    return by_hash(source.identity.rpartition("_")[0])


def _by_id(videos: list[Path]) -> dict[str, Path]:
    """The largest video of each id: the last eleven letters of its name, maybe in brackets."""
    ordered = sorted(videos, key=lambda path: path.stat().st_size)
    return {path.stem.removesuffix("]")[-11:]: path for path in ordered}


def _job(
    path: Path,
    video: str,
    person: str,
    clip: str,
    first: str,
    last: str,
    *,
    videos: dict[str, Path],
    size: int,
    model: str,
) -> VideoJob:
    source = videos.get(video)
    fields = {
        "clip": f"{video}_P{person}_C{clip}_F{first}-{last}",
        "identity": f"{video}_P{person}",
        "source": str(source or ""),
        "size": size,
        "model": model,
    }
    try:
        fps, region = _read_meta(path)
        # The first and the last frame may be of the shots around it.
        start, end = (int(first) + 1) / fps, int(last) / fps
        if start >= end:
            raise InputError(f"its frames {first}-{last} are none")
    except InputError as error:
        return VideoJob(**fields, refused=str(error))
    fields |= {"start": start, "end": end, "region": region}
    if source:
        return VideoJob(**fields)
    address = f"https://www.youtube.com/watch?v={video}"
    return VideoJob(
        **fields, missing=f"its video is not there: {address}", remote=Remote(video, address)
    )


def _read_meta(path: Path) -> tuple[float, Region]:
    """Frames a second, and the crop."""
    words = {}
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        key, *values = re.split(r"[\s:=,()\[\]]+", line.strip().rstrip(")]"))
        words[key] = values
    try:
        height, fps = float(words["H"][-1]), float(words["FPS"][-1])
        left, top, right, bottom = (float(word) for word in words["CROP"][-4:])
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{path.name} lacks H, FPS or CROP") from error
    if height <= 0 or fps <= 0 or left >= right or top >= bottom:
        raise InputError(f"{path.name} has a broken H, FPS or CROP")
    return fps, Region(left, top, right, bottom, height)
