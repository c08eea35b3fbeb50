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
import fcntl
import functools
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol, get_args

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

from data_pipeline.clips import CropMode, Outcome, VideoJob
from data_pipeline.datasets import folder, hdtf, mead, splits, vfhq
from data_pipeline.datasets.boxes import in_boxes
from data_pipeline.datasets.raw import write_missing
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError, MissingError
from data_pipeline.estimate import estimate
from data_pipeline.face import landmarker_model
from data_pipeline.manifest import (
    Journal,
    Row,
    Scores,
    by_job,
    read_journal,
    read_manifest,
    write_manifest,
)
from data_pipeline.records import (
    Source,
    iterate_sources,
    load_example,
    save_example,
    write_records,
)
from data_pipeline.shards import parse_shard


class Job(Protocol):
    """A source to be made into clips, in another process: it must be picklable."""

    clip: str  # unique in the data set
    identity: str
    source: str  # file it comes from, or empty

    def run(self) -> Iterable[Outcome]:
        """Yields the clips `clip`, or `clip`#000, #001 …; raises InputError to refuse all."""


class Summary(NamedTuple):
    """What a data set holds after `prepare`."""

    accepted: int  # sources of which there is a clip at least
    refused: int  # sources of which there is none
    failed: int
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
        settings: what a prepared data set cannot be continued with other values of.
        workers: processes; 1 works in this one.
        may_be_empty: a data set without clips will do: one shard of many may have none.
        run_all: runs the jobs elsewhere, with which `workers` has nothing to do.

    Raises:
        InputError: no clip was accepted, the place cannot be written to, or it holds a data set
            with other settings, or another run works on it.
    """
    out = Path(out_dir)
    parts = out / ".parts"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _alone_in(out):
            _check_settings(out, settings)
            parts.mkdir(exist_ok=True)
            rows = _run_pending(jobs, out, run_all or functools.partial(_run_all, workers=workers))
            recorded = {source.clip: source for source in iterate_sources(out)}
            fresh = _list_parts(parts)
            kept = recorded | fresh
            clips = {
                row.clip: kept[row.clip]._replace(identity=row.identity)
                for row in rows
                if row.state == "accepted" and row.clip in kept
            }
            if not clips and may_be_empty:
                shutil.rmtree(out / "records", ignore_errors=True)
            elif fresh.keys() & clips.keys() or clips.keys() != recorded.keys() or not clips:
                write_records(list(clips.values()), out, split_of)
            shutil.rmtree(parts)
    except OSError as error:
        raise InputError(
            f"cannot write to {out} ({error.strerror}): give a place that may be written to and "
            "has room."
        ) from error
    states = [_state(group) for group in by_job(rows).values()]
    accepted, refused, failed, missing = map(
        states.count, ("accepted", "refused", "failed", "missing")
    )
    return Summary(accepted, refused, failed, len(clips), missing)


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keeps a second run out; the lock goes with the process, however that ends."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another run prepares {out}: wait for it, or end it.") from error
        yield
        (out / ".lock").unlink(missing_ok=True)


def _run_pending(jobs: Sequence[Job], out: Path, run_all: RunAll) -> list[Row]:
    """Runs what is not done; the manifest then says so, however the run ends but by kill -9."""
    parts = out / ".parts"
    found = _read_rows(out)
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
    kept = {source.clip for source in iterate_sources(out)} | _list_parts(out / ".parts").keys()
    return [job for job in jobs if not _is_done(job, rows.get(job.clip, []), kept)]


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    path = out / "settings.json"
    text = json.dumps(settings, indent=1, sort_keys=True)
    if path.exists() and path.read_text() != text:
        raise InputError(
            f"{out} was prepared with other settings ({path}): give another --out or delete it."
        )
    path.write_text(text)


def _list_parts(parts: Path) -> dict[str, Source]:
    """The finished clips that are not in the records yet."""
    return {
        path.stem: Source(path.stem, "", functools.partial(load_example, path))
        for path in parts.glob("*.npz")
    }


def _is_done(job: Job, rows: Sequence[Row], kept: Set[str]) -> bool:
    if not rows or rows[0].state in ("failed", "missing") or rows[0].bytes != _size(job.source):
        return False
    return all(row.clip in kept for row in rows if row.state == "accepted")


def _size(source: str) -> int:
    return os.path.getsize(source) if source else 0


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
        for rows in map(run, jobs) if workers == 1 else _run_in_processes(run, jobs, workers):
            refused += _state(rows) != "accepted"
            told = f"preparing ({refused} refused)" if refused else "preparing"
            progress.update(task, advance=1, description=told)
            yield rows


def _run_in_processes(
    run: Callable[[Job], list[Row]], jobs: Sequence[Job], workers: int
) -> Iterator[list[Row]]:
    """As `map`, in no order; a job that takes its process down is refused, the others go on."""
    waiting = list(reversed(jobs))
    while waiting:
        running: dict[Future, Job] = {}
        suspects = []
        with _pool(workers) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < workers:
                        running[pool.submit(run, waiting[-1])] = waiting[-1]
                        waiting.pop()  # Only now: a pool that broke meanwhile takes nothing.
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        rows = future.result()
                        del running[future]
                        yield rows
            except BrokenProcessPool:
                suspects = list(running.values())
        for job in suspects:
            with _pool(1) as pool:
                try:
                    yield pool.submit(run, job).result()
                except BrokenProcessPool:
                    yield [_whole_row(job)._replace(reason="the decoder crashed on it")]


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, which are ended at once where this one is interrupted."""
    # Spawned: a fork of a process with threads (decoders, MediaPipe) may hang.
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    ) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise
        except BaseException:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.kill()  # Nothing is half written: clips come under their names whole.
            raise


def _start_worker() -> None:
    """Leaves Ctrl-C and the like to the parent, and ends with it even if that is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> NoReturn:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def run_job(job: Job, parts: Path) -> list[Row]:
    """Makes a job's clips into files in `parts`; whatever is wrong with its source is a row."""
    refused = _whole_row(job)
    outcomes = iter(job.run())
    rows = []
    while True:
        try:
            outcome = next(outcomes, None)
        except MissingError as error:
            return [refused._replace(state="missing", reason=_one_line(error))]
        except InputError as error:
            return [refused._replace(reason=_one_line(error))]
        except Exception as error:
            reason = _one_line(f"{type(error).__name__}: {error}")
            return [refused._replace(state="failed", reason=reason)]
        if outcome is None:
            return rows or [refused._replace(reason="there is nothing in it")]
        row = refused._replace(**{name: getattr(outcome, name) for name in _PLACE})
        if outcome.example is not None:
            save_example(parts / f"{outcome.clip}.npz", outcome.example)
            emotion = int(outcome.example["emotion"])
            name = EMOTIONS[emotion] if emotion >= 0 else ""
            row = row._replace(state="accepted", emotion=name)
        rows.append(row)


_PLACE = ("clip", "start", "end", "scores", "reason")  # An outcome's fields that a row has too.


def _whole_row(job: Job) -> Row:
    """The row of a source of which nothing can be had."""
    return Row(
        clip=job.clip,
        job=job.clip,
        identity=job.identity,
        emotion="",
        source=job.source,
        bytes=_size(job.source),
        sha256=_sha256(job.source),
        start=None,
        end=None,
        scores=Scores(),
        state="refused",
        reason="",
    )


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _sha256(source: str) -> str:
    if not source:
        return ""
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_parser(program: str) -> argparse.ArgumentParser:
    """The command line; `run_command` does what it says."""
    parser = argparse.ArgumentParser(prog=program, description="Prepare a data set for training.")
    parser.set_defaults(run_all=None)
    kinds = parser.add_subparsers(dest="kind", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--out", type=Path, required=True, help="directory of the data set")
    shared.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")

    synthetic = kinds.add_parser("synthetic", parents=[shared], help="the procedural world")
    synthetic.add_argument("--identities", type=int, default=64)
    synthetic.add_argument("--clips-per-identity", type=int, default=4)
    synthetic.add_argument("--seconds", type=float, default=3.0, help="length of a clip")
    synthetic.add_argument("--size", type=int, default=128, help="side of the frames in pixels")
    synthetic.add_argument("--seed", type=int, default=0)
    synthetic.set_defaults(run=_prepare_synthetic)

    videos = argparse.ArgumentParser(add_help=False, parents=[shared])
    videos.add_argument("--raw", type=Path, required=True, help="folder with the raw files")
    videos.add_argument("--size", type=int, default=256, help="side of the crops in pixels")
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
    videos.add_argument("--limit", type=int, help="take only the first so many files or clips")
    videos.add_argument("--dry-run", action="store_true", help="say what to expect, make nothing")

    kind = kinds.add_parser("folder", parents=[videos], help="your own talking-head videos")
    kind.add_argument(
        "--identity-from",
        choices=("folder", "prefix", "file"),
        default="folder",
        help="who speaks: the file's folder, its name before '__', or each file another",
    )
    kind.add_argument("--identities", type=Path, help="CSV with columns id and identity")
    kind.add_argument("--test-identities", type=Path, help="file that names them, one a line")
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
        synthetic.jobs(**settings), out_dir, split_of, settings, workers or os.cpu_count() or 1
    )


def _prepare_synthetic(args: argparse.Namespace) -> str:
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


def _prepare_folder(args: argparse.Namespace) -> str:
    jobs = folder.jobs(
        args.raw, args.size, _model(args), args.identity_from, args.identities, args.limit
    )
    split = splits.by_identity(args.test_identities)
    return _prepare_videos(args, jobs, split, {"identity_from": args.identity_from})


def _prepare_hdtf(args: argparse.Namespace) -> str:
    split = hdtf.split_of(args.split)
    jobs = hdtf.jobs(args.raw, args.size, _model(args), args.limit)
    jobs = splits.leave_out(jobs, split, args.split)
    return _prepare_videos(args, jobs, split, {"split": args.split})


def _prepare_mead(args: argparse.Namespace) -> str:
    split = mead.split_of(args.split)
    jobs = mead.jobs(args.raw, args.size, _model(args), args.views, args.limit)
    jobs = splits.leave_out(jobs, split, args.split)
    return _prepare_videos(args, jobs, split, {"split": args.split})


def _prepare_vfhq(args: argparse.Namespace) -> str:
    jobs = vfhq.jobs(args.raw, args.size, _model(args), args.limit)
    return _prepare_videos(args, jobs, vfhq.split_of, {})


def _model(args: argparse.Namespace) -> str:
    """The landmarker's file; empty where the place of the face is known and no model is given."""
    is_placed = args.crop == "none" or args.boxes is not None
    if args.dry_run or (is_placed and args.face_landmarker is None):
        return ""
    return str(landmarker_model(args.face_landmarker))


def _prepare_videos(
    args: argparse.Namespace,
    jobs: Sequence[VideoJob],
    split_of: splits.Split,
    settings: dict[str, Any],
) -> str:
    jobs = [dataclasses.replace(job, crop=args.crop) for job in jobs]
    if args.boxes:
        jobs = in_boxes(jobs, args.boxes)
    settings |= {
        "size": args.size,
        "crop": "boxes" if args.boxes else args.crop,
        "landmarks": any(job.model for job in jobs),
    }
    out = args.out
    if args.shard:
        out, jobs = args.shard.dir(out), args.shard.take(jobs)
    if args.dry_run:
        pending = list_pending(jobs, out)
        return estimate(pending, len(jobs) - len(pending), args.size, args.workers)
    if told := write_missing(jobs, args.raw, out):
        print(told, file=sys.stderr)
    summary = prepare(
        jobs, out, split_of, settings, args.workers, args.shard is not None, args.run_all
    )
    return _tell(out, summary)


def _tell(out: Path, summary: Summary) -> str:
    missing = f", {summary.missing} missing" if summary.missing else ""
    return (
        f"{out}: {summary.clips} clips of {summary.accepted} sources, {summary.refused} refused, "
        f"{summary.failed} failed{missing}; see manifest.parquet"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = make_parser("python -m data_pipeline.prepare")
    return run_command(parser.parse_args(arguments))


def run_command(args: argparse.Namespace) -> int:
    """Does what a command line says; returns the exit code."""
    try:
        with _terminable():
            print(args.run(args))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, by which batch systems end jobs, does what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
