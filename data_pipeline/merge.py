"""Joins the shards that an array job prepared into one data set:

    python -m data_pipeline.prepare folder --raw videos --out data/mine --shard 0/2
    python -m data_pipeline.prepare folder --raw videos --out data/mine --shard 1/2
    python -m data_pipeline.merge data/mine

The result is that of one run without --shard, and can be gone on with like one. Merging again after
a shard was prepared again takes over what changed; the shards may be deleted when nothing will.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline import settings
from data_pipeline.commands import exit_code
from data_pipeline.errors import InputError, system_error
from data_pipeline.lock import alone_in
from data_pipeline.manifest import (
    FILE,
    Row,
    by_job,
    read_manifest,
    refuse_unlisted,
    write_manifest,
)
from data_pipeline.records import (
    Source,
    iterate_sources,
    recover_records,
    split_of_clips,
    write_records,
)
from data_pipeline.shards import Shard, find_shards


def merge(out: Path) -> int:
    """Makes out/records and the manifest of the shards below `out`; returns the number of clips.

    Clips of sources that no shard knows stay in the data set.

    Raises:
        InputError: shards are missing, unfinished, made with different settings or of the same
            sources; or no clip was accepted; or the place cannot be written to.
    """
    dirs = {shard: shard.dir(out) for shard in _all_shards(out)}
    try:
        with alone_in(out):
            recover_records(out)
            return _merge(out, dirs)
    except OSError as error:
        raise system_error(
            f"cannot write to {out} ({error.strerror}): give a place that may be written to and "
            "has room.",
            error,
        ) from error


def _merge(out: Path, dirs: dict[Shard, Path]) -> int:
    shared = _shared_settings(out, dirs)
    rows = by_job(read_manifest(out)) | _shared_rows(dirs)
    kept: dict[str, Source] = {}
    split: dict[str, str] = {}
    for dir in (out, *dirs.values()):
        kept |= {source.clip: source for source in iterate_sources(dir)}
        split |= split_of_clips(dir)
        refuse_unlisted(dir, split_of_clips(dir), rows)
    every = sorted((row for group in rows.values() for row in group), key=lambda row: row.clip)
    clips = [kept[row.clip] for row in every if row.state == "accepted" and row.clip in kept]
    wanted = {clip.clip: split[clip.clip] for clip in clips}
    if every != read_manifest(out) or split_of_clips(out) != wanted:
        write_manifest(out, every)  # Before: records without rows would be taken for strangers.
        write_records(clips, out, lambda source: split[source.clip])
    settings.write_settings(out, shared)
    return len(clips)


def failed_shards(out: Path) -> list[Shard]:
    """The shards in which there are sources that failed, and that the same command tries again."""
    return [
        shard
        for shard in find_shards(out)
        if any(row.state == "failed" for row in read_manifest(shard.dir(out)))
    ]


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
    has_begun = (dir / FILE).exists() and (dir / settings.FILE).exists()
    return has_begun and not (dir / ".parts").exists()


def _shared_settings(out: Path, dirs: dict[Shard, Path]) -> dict[str, Any]:
    """The settings of all shards; refuses where they are not the same, or not those of `out`."""
    found = {shard: settings.read_settings(dir) for shard, dir in dirs.items()}
    first, *others = dirs
    if unlike := [shard for shard in others if found[shard] != found[first]]:
        raise InputError(
            f"{out} has shards that were made with other settings than {first}: "
            f"{_enumerate(unlike)} (compare their {settings.FILE}); delete and run those again."
        )
    before = settings.read_settings(out)
    if before and (names := settings.differing(before, found[first])):
        raise InputError(
            f"{out} was prepared with other settings ({', '.join(names)} in "
            f"{out / settings.FILE}) than its shards: give the shards another --out, or delete it."
        )
    return found[first]


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
    return exit_code(lambda: _run(args.out))


def _run(out: Path) -> int:
    print(f"{out}: {merge(out)} clips; see {FILE}")
    if failed := failed_shards(out):
        print(
            f"sources failed in the shards {_enumerate(failed)}: see {FILE} for the reasons, run "
            "these again, then merge again.",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
