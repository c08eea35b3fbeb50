"""A part of a prepared data set, small enough to travel."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.manifest import read_manifest, write_manifest
from data_pipeline.records import (
    Source,
    decode_jpeg,
    encode_jpeg,
    iterate_sources,
    list_clips,
    of_clip,
    write_records,
)

_TEST_CLIPS = 4  # what a preview shows
_DATASET_BYTES = 250_000  # of a data set beside its clips, at most: array records end in blocks
_CLIP_BYTES = 3_000  # of a clip in lists, manifest and framing, at most


class Subset(NamedTuple):
    """What was taken."""

    clips: int
    identities: int
    bytes: int  # of the folder


def write_subset(
    source: str | os.PathLike,
    out: str | os.PathLike,
    megabytes: float,
    seed: int = 0,
    size: int = 0,
) -> Subset:
    """Writes a data set of at most some megabytes (10^6) out of a prepared one.

    Training clips are drawn in rounds: every identity has one before any has a second. The test
    clips, four at most, are the same for every seed, so that previews can be compared.

    Args:
        source: the prepared data set.
        out: replaced if it is a data set.
        megabytes: of the whole folder.
        seed: another one draws other clips.
        size: side in pixels that pictures are reduced to; 0 leaves them.

    Raises:
        InputError: there is no such data set, or not even a clip of each split fits.
    """
    source, out = Path(source), Path(out)
    if not source.is_dir():
        raise InputError(f"there is no data folder {source}: name a prepared one")
    if source.resolve() == out.resolve():
        raise InputError(f"{out} is the data set to draw from: name another folder to write")
    sources = {clip.clip: _reduced(clip, size) for clip in iterate_sources(source)}
    room = int(megabytes * 1e6) - _DATASET_BYTES
    split_of: dict[str, str] = {}
    for split, most, order in (("test", _TEST_CLIPS, 0), ("train", len(sources), seed)):
        clips = [sources[row["clip"]] for row in list_clips(source, split)]
        for clip in itertools.islice(draw_in_rounds(clips, order), most):
            needed = _clip_bytes(clip.load())
            if needed > room:
                break
            room -= needed
            split_of[clip.clip] = split
        if split not in split_of.values():
            raise InputError(
                f"{megabytes:g} MB do not hold a {split} clip of {source} beside the rest: give "
                "more megabytes, or a smaller size to reduce its pictures to"
            )
    clips = [sources[name] for name in split_of]
    write_records(clips, out, lambda clip: split_of[clip.clip])
    write_manifest(out, [row for row in read_manifest(source) if row.clip in split_of])
    return Subset(
        clips=len(clips),
        identities=len({clip.identity for clip in clips}),
        bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    )


def draw_in_rounds(clips: Sequence[Source], seed: int) -> list[Source]:
    """The clips in a random order: the first of every identity, the second of those that have one,
    and so on."""
    rng = np.random.default_rng(seed)
    groups: dict[str, list[Source]] = {}
    for clip in clips:
        groups.setdefault(clip.identity, []).append(clip)
    orders = [[group[i] for i in rng.permutation(len(group))] for group in groups.values()]
    drawn = []
    for row in itertools.zip_longest(*orders):
        present = [clip for clip in row if clip is not None]
        drawn += [present[i] for i in rng.permutation(len(present))]
    return drawn


def _reduced(clip: Source, size: int) -> Source:
    if not size:
        return clip

    def load() -> dict[str, Any]:
        example = clip.load()
        with of_clip(clip.clip):
            frames = [encode_jpeg(decode_jpeg(jpeg, size)) for jpeg in example["frames"]]
        return example | {"frames": frames}

    return clip._replace(load=load)


def _clip_bytes(example: dict[str, Any]) -> int:
    """What a clip adds to a data set, at most."""
    arrays = sum(np.asarray(x).nbytes for name, x in example.items() if name != "frames")
    return sum(len(jpeg) + 16 for jpeg in example["frames"]) + arrays + _CLIP_BYTES
