"""Joins the shards that an array job prepared into one data set:

    python -m data_pipeline.prepare folder --raw videos --out data/mine --shard 0/2
    python -m data_pipeline.prepare folder --raw videos --out data/mine --shard 1/2
    python -m data_pipeline.merge data/mine

The result is that of one run without --shard, and can be gone on with like one. Merging again after
a shard was prepared again takes over what changed; the shards may be deleted when nothing will.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.manifest import FILE, Row, by_job, read_manifest, write_manifest
from data_pipeline.records import Source, iterate_sources, write_records
from data_pipeline.shards import Shard, find_shards

_SETTINGS = "settings.json"


def merge(out: Path) -> int:
    """Makes out/records and the manifest of the shards below `out`; returns the number of clips.

    Clips of sources that no shard knows stay in the data set.

    Raises:
        InputError: shards are missing, unfinished, made with different settings or of the same
            sources; or no clip was accepted; or the place cannot be written to.
    """
    dirs = {shard: shard.dir(out) for shard in _all_shards(out)}
    settings = _shared_settings(out, dirs)
    rows = by_job(read_manifest(out)) | _shared_rows(dirs)
    kept: dict[str, Source] = {}
    split: dict[str, str] = {}
    for dir in (out, *dirs.values()):
        kept |= {source.clip: source for source in iterate_sources(dir)}
        split |= _splits(dir)
    every = sorted((row for group in rows.values() for row in group), key=lambda row: row.clip)
    clips = [
        kept[row.clip]._replace(identity=row.identity)
        for row in every
        if row.state == "accepted" and row.clip in kept
    ]
    try:
        if every != read_manifest(out) or _splits(out).keys() != {clip.clip for clip in clips}:
            write_records(clips, out, lambda source: split[source.clip])
            write_manifest(out, every)
            (out / _SETTINGS).write_text(settings)
    except OSError as error:
        raise InputError(
            f"cannot write to {out} ({error.strerror}): give a place that may be written to and "
            "has room."
        ) from error
    return len(clips)


def _all_shards(out: Path) -> list[Shard]:
    """All shards of the one number there is; refuses where some are not finished."""
    found = find_shards(out)
    counts = sorted({shard.count for shard in found})
    if not counts:
        raise InputError(
            f"{out} has no shards: make them with python -m data_pipeline.prepare ... --shard I/N."
        )
    if len(counts) > 1:
        raise InputError(
            f"{out} has shards of {' and of '.join(map(str, counts))}: delete those of one number."
        )
    shards = [Shard(index, counts[0]) for index in range(counts[0])]
    if lacking := [shard for shard in shards if not _is_finished(shard.dir(out))]:
        raise InputError(
            f"{out} lacks {len(lacking)} of {counts[0]} shards: run (again) --shard "
            f"{_enumerate(lacking)}."
        )
    return shards


def _is_finished(dir: Path) -> bool:
    return (dir / FILE).exists() and (dir / _SETTINGS).exists() and not (dir / ".parts").exists()


def _shared_settings(out: Path, dirs: dict[Shard, Path]) -> str:
    texts = {shard: (dir / _SETTINGS).read_text() for shard, dir in dirs.items()}
    first, *others = dirs
    if differing := [shard for shard in others if texts[shard] != texts[first]]:
        raise InputError(
            f"{out} has shards that were made with other settings than {first}: "
            f"{_enumerate(differing)} (compare their {_SETTINGS}); delete and run those again."
        )
    if (out / _SETTINGS).exists() and (out / _SETTINGS).read_text() != texts[first]:
        raise InputError(
            f"{out} was prepared with other settings ({out / _SETTINGS}) than its shards: give "
            "the shards another --out, or delete it."
        )
    return texts[first]


def _shared_rows(dirs: dict[Shard, Path]) -> dict[str, list[Row]]:
    """The rows of every source; refuses where two shards have the same one."""
    rows: dict[str, list[Row]] = {}
    owner: dict[str, Shard] = {}
    for shard, dir in dirs.items():
        for job, group in by_job(read_manifest(dir)).items():
            if job in rows:
                raise InputError(
                    f"the shards {owner[job]} and {shard} both have {job}: they were made of "
                    "other raw files or another --limit; delete and run all of them again."
                )
            rows[job], owner[job] = group, shard
    return rows


def _splits(dir: Path) -> dict[str, str]:
    """The split of every clip in the records of a data set; empty if it has none."""
    path = dir / "records" / "clips.json"
    splits = json.loads(path.read_text()) if path.exists() else {}
    return {row["clip"]: split for split, rows in splits.items() for row in rows}


def _enumerate(shards: Sequence[Shard], most: int = 8) -> str:
    told = ", ".join(map(str, shards[:most]))
    return told if len(shards) <= most else f"{told} and {len(shards) - most} more"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.merge", description="Join the shards of a data set."
    )
    parser.add_argument("out", type=Path, help="the --out that the shards were prepared with")
    args = parser.parse_args(arguments)
    try:
        print(f"{args.out}: {merge(args.out)} clips; see {FILE}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
