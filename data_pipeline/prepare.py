"""Prepares a data set:

    python -m data_pipeline.prepare synthetic --out data/synthetic
    python -m data_pipeline.prepare folder --raw videos --out data/mine
    python -m data_pipeline.prepare hdtf --raw hdtf --out data/hdtf --dry-run

and mead and vfhq likewise; the modules of data_pipeline/datasets say what they expect below --raw.

Every finished clip is kept in out/.parts until all of them become out/records; an interrupted run
goes on where it was, and a finished one has nothing to do. out/manifest.parquet has a row for every
clip, refused stretch and refused source: its place, its scores, what became of it and why.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, get_args

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from data_pipeline.clips import CropMode, VideoJob
from data_pipeline.commands import (
    above_0,
    at_least_0,
    at_least_1,
    exit_code,
    terminable,
    usable_cores,
)
from data_pipeline.datasets import folder, hdtf, mead, splits, vfhq
from data_pipeline.datasets.boxes import in_boxes
from data_pipeline.datasets.raw import write_missing
from data_pipeline.errors import InputError, system_error
from data_pipeline.estimate import estimate
from data_pipeline.face import check_landmarker, landmarker_model
from data_pipeline.files import refuse_address
from data_pipeline.jobs import (
    Job,
    is_looked_into,
    place_of,
    run_in_processes,
    run_job,
    size_of,
)
from data_pipeline.lock import alone_in
from data_pipeline.manifest import (
    Journal,
    Row,
    by_job,
    read_journal,
    read_manifest,
    refuse_unlisted,
    write_manifest,
)
from data_pipeline.records import (
    Source,
    iterate_sources,
    list_examples,
    load_example,
    recover_records,
    split_of_clips,
    write_records,
)
from data_pipeline.settings import (
    FILE,
    TEST_IDENTITIES,
    differing,
    read_settings,
    write_settings,
)
from data_pipeline.shards import parse_shard


class Summary(NamedTuple):
    """What a data set holds after `prepare`."""

    accepted: int  # sources of which there is a clip at least
    refused: int  # sources of which there is none
    failed: int  # of the sources of this call
    clips: int
    missing: int = 0


# Yields the rows of every job; its clips are in the folder by then.
RunAll = Callable[[Sequence[Job], Path], Iterator[list[Row]]]


def prepare(
    jobs: Sequence[Job],
    out_dir: str | os.PathLike,
    split_of: Callable[[Source], str],
    settings: dict[str, Any],
    workers: int = 1,
    may_be_empty: bool = False,
    run_all: RunAll | None = None,
) -> Summary:
    """Runs the jobs that are not done yet and adds their clips to the records.

    Args:
        jobs: the sources; what earlier calls made of other sources stays in the data set.
        out_dir: where records/ and manifest.parquet go, made if missing.
        split_of: says of a clip whether it is "train" or "test".
        settings: what a prepared data set cannot be continued with other values of, but for
            TEST_IDENTITIES.
        workers: processes; 1 works in this one.
        may_be_empty: a data set without clips will do: one shard of many may have none.
        run_all: runs the jobs elsewhere, with which `workers` has nothing to do.

    Raises:
        InputError: no clip was accepted, the place cannot be written to, or it holds a data set
            with other settings, or another run works on it.
    """
    refuse_address(out_dir)
    out = Path(out_dir)
    parts = out / ".parts"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with alone_in(out):
            recover_records(out)
            _check_settings(out, settings)
            parts.mkdir(exist_ok=True)
            rows = _run_pending(jobs, out, run_all or functools.partial(_run_all, workers=workers))
            recorded = {source.clip: source for source in iterate_sources(out)}
            fresh = _list_parts(parts)
            kept = recorded | fresh
            clips = {
                # For `split_of`, as those in .parts have none; the record's own is the same one.
                row.clip: kept[row.clip]._replace(identity=row.identity)
                for row in rows
                if row.state == "accepted" and row.clip in kept
            }
            if not clips and may_be_empty:
                shutil.rmtree(out / "records", ignore_errors=True)
            elif fresh.keys() & clips.keys() or not clips or _splits_differ(clips, out, split_of):
                write_records(list(clips.values()), out, split_of)
            shutil.rmtree(parts)
    except OSError as error:
        raise system_error(
            f"cannot write to {out} ({error.strerror}): give a place that may be written to and "
            "has room.",
            error,
        ) from error
    states = {name: _state(group) for name, group in by_job(rows).items()}
    accepted, refused, missing = map([*states.values()].count, ("accepted", "refused", "missing"))
    failed = sum(states.get(job.clip) == "failed" for job in jobs)
    return Summary(accepted, refused, failed, len(clips), missing)


def _splits_differ(clips: dict[str, Source], out: Path, split_of: Callable[[Source], str]) -> bool:
    """Whether the records hold other clips, or these in other splits."""
    return split_of_clips(out) != {name: split_of(clip) for name, clip in clips.items()}


def _run_pending(jobs: Sequence[Job], out: Path, run_all: RunAll) -> list[Row]:
    """Runs what is not done; the manifest then says so, however the run ends but by kill -9."""
    parts = out / ".parts"
    found = _read_rows(out)
    refuse_unlisted(out, split_of_clips(out), found)
    journal = Journal(parts)
    try:
        with contextlib.closing(run_all(list_pending(jobs, out), parts)) as finished:
            for rows in finished:
                found[rows[0].job] = rows
                journal.append(rows)
    finally:
        every = [row for rows in found.values() for row in rows]
        write_manifest(out, every)
    return every


def _read_rows(out: Path) -> dict[str, list[Row]]:
    """The rows of every source: as the manifest has them, and as an unfinished run goes on."""
    return by_job(read_manifest(out)) | read_journal(out / ".parts")


def _state(rows: Sequence[Row]) -> str:
    """What became of a source."""
    states = [row.state for row in rows]
    return "accepted" if "accepted" in states else states[0]


def list_pending(jobs: Sequence[Job], out: Path) -> list[Job]:
    """The jobs that are still to be run; reads `out` and writes nothing."""
    rows = _read_rows(out)
    kept = split_of_clips(out).keys() | list_examples(out / ".parts").keys()
    return [job for job in jobs if not is_done(job, rows.get(job.clip, []), kept)]


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    found = read_settings(out)
    if found and (names := differing(found, settings)):
        raise InputError(
            f"{out} was prepared with other settings ({', '.join(names)} in {out / FILE}): give "
            "another --out or delete it."
        )
    write_settings(out, settings)


def _list_parts(parts: Path) -> dict[str, Source]:
    """The finished clips that are not in the records yet."""
    return {
        name: Source(name, "", functools.partial(load_example, path))
        for name, path in list_examples(parts).items()
    }


def is_done(job: Job, rows: Sequence[Row], kept: Set[str]) -> bool:
    """Whether the rows say what would become of a source now, and its clips are among `kept`."""
    if not rows or rows[0].state in ("failed", "missing"):
        return False
    if any(row.clip not in kept for row in rows if row.state == "accepted"):
        return False
    if getattr(job, "missing", ""):
        return True  # Its files were there once, and may be gone.
    first = rows[0]
    if first.identity != job.identity or bool(first.sha256) != is_looked_into(job):
        return False
    if first.place not in ("", place_of(job)):
        return False
    try:
        return first.bytes == size_of(job)
    except OSError:
        return True  # What was made of it is better than nothing.


def _run_all(jobs: Sequence[Job], parts: Path, workers: int) -> Iterator[list[Row]]:
    """Yields the rows of every job as it ends, with a line of progress."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    run = functools.partial(run_job, parts=parts)
    refused = 0
    with Progress(*columns, console=Console(stderr=True), disable=not jobs) as progress:
        task = progress.add_task("preparing", total=len(jobs))
        for rows in map(run, jobs) if workers == 1 else run_in_processes(run, jobs, workers):
            refused += _state(rows) != "accepted"
            told = f"preparing ({refused} refused)" if refused else "preparing"
            progress.update(task, advance=1, description=told)
            yield rows


def make_parser(program: str) -> argparse.ArgumentParser:
    """The command line; `run_command` does what it says."""
    parser = argparse.ArgumentParser(prog=program, description="Prepare a data set for training.")
    parser.set_defaults(run_all=None)
    kinds = parser.add_subparsers(dest="kind", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--out", type=Path, required=True, help="directory of the data set")
    shared.add_argument("--workers", type=at_least_1, default=usable_cores(), help="processes")

    synthetic = kinds.add_parser("synthetic", parents=[shared], help="the procedural world")
    synthetic.add_argument("--identities", type=at_least_1, default=64)
    synthetic.add_argument("--clips-per-identity", type=at_least_1, default=4)
    synthetic.add_argument("--seconds", type=above_0, default=3.0, help="length of a clip")
    synthetic.add_argument(
        "--size", type=at_least_1, default=128, help="side of the frames in pixels"
    )
    synthetic.add_argument("--seed", type=at_least_0, default=0)
    synthetic.set_defaults(run=_prepare_synthetic)

    videos = argparse.ArgumentParser(add_help=False, parents=[shared])
    videos.add_argument("--raw", type=Path, required=True, help="folder with the raw files")
    videos.add_argument("--size", type=at_least_1, default=256, help="side of the crops in pixels")
    videos.add_argument("--face-landmarker", type=Path, help="MediaPipe's face_landmarker.task")
    videos.add_argument(
        "--crop",
        choices=get_args(CropMode),
        default="emoca",
        help="emoca: tight, follows the head; fomm: wide, one box a clip; none: the middle square",
    )
    videos.add_argument(
        "--boxes", type=Path, help="CSV with columns clip, x, y, side: crops there instead"
    )
    videos.add_argument(
        "--shard",
        type=parse_shard,
        metavar="I/N",
        help="prepare every N-th video from the I-th on, for data_pipeline.merge to join",
    )
    videos.add_argument(
        "--limit", type=at_least_1, help="take only the first so many files or clips"
    )
    videos.add_argument("--dry-run", action="store_true", help="say what to expect, make nothing")

    kind = kinds.add_parser("folder", parents=[videos], help="your own talking-head videos")
    kind.add_argument(
        "--identity-from",
        choices=get_args(folder.IdentityFrom),
        default="folder",
        help="who speaks: the file's folder, the first folder below --raw, the file's name before "
        "'__', or each file another",
    )
    kind.add_argument("--identities", type=Path, help="CSV with columns id and identity")
    kind.add_argument(
        "--test-identities",
        type=Path,
        help="file that names who is for judging, one a line; stays until another is given",
    )
    kind.set_defaults(run=_prepare_folder)

    kind = kinds.add_parser("hdtf", parents=[videos], help="HDTF's annotation and its videos")
    _add_split(kind, "edtalk", "identity")
    kind.set_defaults(run=_prepare_hdtf)

    kind = kinds.add_parser("mead", parents=[videos], help="MEAD's actors")
    _add_split(kind, "edtalk", "eat", "identity")
    kind.add_argument("--views", nargs="+", choices=mead.VIEWS, default=["front"], help="cameras")
    kind.set_defaults(run=_prepare_mead)

    kind = kinds.add_parser("vfhq", parents=[videos], help="VFHQ's meta_info and its videos")
    kind.set_defaults(run=_prepare_vfhq)
    return parser


def _add_split(parser: argparse.ArgumentParser, *names: str) -> None:
    parser.add_argument(
        "--split",
        choices=names,
        default=names[0],
        help="who is for judging: as published with a paper, or about a tenth of the identities",
    )


def prepare_synthetic(
    out_dir: str | os.PathLike,
    *,
    identities: int = 64,
    clips_per_identity: int = 4,
    seconds: float = 3.0,
    size: int = 128,
    seed: int = 0,
    workers: int | None = None,
) -> Summary:
    """Makes clips of the procedural world; two seeds have nobody in common."""
    from data_pipeline.datasets import synthetic

    settings = {
        "identities": identities,
        "clips_per_identity": clips_per_identity,
        "seconds": seconds,
        "size": size,
        "seed": seed,
    }
    split_of = synthetic.split_of(identities)
    return prepare(
        synthetic.jobs(**settings), out_dir, split_of, settings, workers or usable_cores()
    )


def _prepare_synthetic(args: argparse.Namespace) -> int:
    if args.run_all:
        raise InputError("the synthetic world is made without Beam: data_pipeline.prepare makes it")
    summary = prepare_synthetic(
        args.out,
        identities=args.identities,
        clips_per_identity=args.clips_per_identity,
        seconds=args.seconds,
        size=args.size,
        seed=args.seed,
        workers=args.workers,
    )
    return _tell(args.out, summary)


def _prepare_folder(args: argparse.Namespace) -> int:
    jobs = folder.jobs(
        args.raw, args.size, _model(args), args.identity_from, args.identities, args.limit
    )
    _refuse_namesakes(jobs, _place(args))
    settings = {"identity_from": args.identity_from}
    test = _test_identities(args, jobs)
    if test is not None:
        settings[TEST_IDENTITIES] = test
    code = _prepare_videos(args, jobs, splits.by_identity(test), settings)
    if not args.dry_run and not args.shard and (told := _one_sided(args.out)):
        print(told, file=sys.stderr)
    return code


def _refuse_namesakes(jobs: Sequence[VideoJob], out: Path) -> None:
    """Refuses videos that would take the places of others, which lie below another --raw.

    Raises:
        InputError: says of one which it is.
    """
    rows = _read_rows(out)
    for job in jobs:
        before = rows[job.clip][0] if job.clip in rows else None
        if before and before.state != "failed" and _is_another(job.source, before):
            raise InputError(
                f"{job.source} would take the place of {before.source} as clip {job.clip} of "
                f"{out}: rename one, or give another --out."
            )


def _is_another(source: str, row: Row) -> bool:
    """Whether a row is of another file than `source`, which is still there and is no copy."""
    try:
        return not os.path.samefile(source, row.source) and os.path.getsize(source) != row.bytes
    except OSError:
        return False  # One of them is gone.


def _test_identities(args: argparse.Namespace, jobs: Sequence[VideoJob]) -> list[str] | None:
    """Who is for judging: whom --test-identities names, or named last; None without that.

    Raises:
        InputError: the file cannot be read, or names somebody of whom there is nothing.
    """
    if args.test_identities is None:
        settings = read_settings(_place(args)) or read_settings(args.out)
        return settings.get(TEST_IDENTITIES)
    named = splits.read_identities(args.test_identities)
    known = {row.identity for rows in _read_rows(args.out).values() for row in rows}
    known |= {job.identity for job in jobs}
    if not args.limit and (strangers := sorted(set(named) - known)):
        raise InputError(
            f"{args.test_identities} names {', '.join(strangers[:8])}, of whom there is no video: "
            f"names are written like {', '.join(sorted(known)[:8])}."
        )
    return named


def _one_sided(out: Path) -> str:
    """A sentence where a data set has nobody for judging, or nobody for training."""
    lacking = {"train", "test"} - set(split_of_clips(out).values())
    if len(lacking) != 1:
        return ""
    return (
        f"no clip of {out} is in its {lacking.pop()} split: say who is for judging by "
        "--test-identities FILE, or take each file for another person by --identity-from file "
        "and another --out."
    )


def _prepare_hdtf(args: argparse.Namespace) -> int:
    split = hdtf.split_of(args.split)
    jobs = hdtf.jobs(args.raw, args.size, _model(args), args.limit)
    jobs = splits.leave_out(jobs, split, args.split)
    return _prepare_videos(args, jobs, split, {"split": args.split})


def _prepare_mead(args: argparse.Namespace) -> int:
    split = mead.split_of(args.split)
    jobs = mead.jobs(args.raw, args.size, _model(args), args.views, args.limit)
    jobs = splits.leave_out(jobs, split, args.split)
    return _prepare_videos(args, jobs, split, {"split": args.split})


def _prepare_vfhq(args: argparse.Namespace) -> int:
    jobs = vfhq.jobs(args.raw, args.size, _model(args), args.limit)
    return _prepare_videos(args, jobs, vfhq.split_of, {})


def _model(args: argparse.Namespace) -> str:
    """The landmarker's file; empty where the place of the face is known and no model is given."""
    is_placed = args.crop == "none" or args.boxes is not None
    if args.dry_run or (is_placed and args.face_landmarker is None):
        return ""
    model = landmarker_model(args.face_landmarker)
    check_landmarker(model)  # Else every source would be refused for it.
    return str(model)


def _place(args: argparse.Namespace) -> Path:
    """Where the data set, or its shard, comes."""
    return args.shard.dir(args.out) if args.shard else args.out


def _prepare_videos(
    args: argparse.Namespace,
    jobs: Sequence[VideoJob],
    split_of: splits.Split,
    settings: dict[str, Any],
) -> int:
    jobs = [dataclasses.replace(job, crop=args.crop) for job in jobs]
    if args.boxes:
        jobs = in_boxes(jobs, args.boxes)
    settings |= {
        "size": args.size,
        "crop": "boxes" if args.boxes else args.crop,
        "landmarks": any(job.model for job in jobs),
    }
    out = _place(args)
    if args.shard:
        jobs = args.shard.take(jobs)
    if args.dry_run:
        pending = list_pending(jobs, out)
        print(estimate(pending, len(jobs) - len(pending), args.size, args.workers))
        return 0
    if told := write_missing(jobs, args.raw, out):
        print(told, file=sys.stderr)
    summary = prepare(
        jobs, out, split_of, settings, args.workers, args.shard is not None, args.run_all
    )
    return _tell(out, summary)


def _tell(out: Path, summary: Summary) -> int:
    """Says what there is; returns 1 if the same command has something left to try."""
    missing = f", {summary.missing} missing" if summary.missing else ""
    print(
        f"{out}: {summary.clips} clips of {summary.accepted} sources, {summary.refused} refused, "
        f"{summary.failed} failed{missing}; see manifest.parquet"
    )
    if summary.failed:
        print(
            f"{summary.failed} sources failed: see the manifest for the reasons; the same command "
            "tries them again.",
            file=sys.stderr,
        )
    return 1 if summary.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = make_parser("python -m data_pipeline.prepare")
    return run_command(parser.parse_args(arguments))


def run_command(args: argparse.Namespace) -> int:
    """Does what a command line says; returns the exit code."""
    with terminable():
        return exit_code(lambda: _run(args), "the same command goes on from here.")


def _run(args: argparse.Namespace) -> int:
    for place in (args.out, getattr(args, "raw", args.out)):  # before one is read, or made
        refuse_address(place)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
