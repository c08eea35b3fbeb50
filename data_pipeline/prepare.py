"""Prepares a data set:

    python -m data_pipeline.prepare synthetic --out data/synthetic
    python -m data_pipeline.prepare folder --raw videos --out data/mine
    python -m data_pipeline.prepare hdtf --raw hdtf --out data/hdtf --dry-run

and mead and vfhq likewise; the modules of data_pipeline/datasets say what they expect below --raw.

Every finished clip is kept in out/.parts until all of them become out/records; an interrupted run
goes on where it was, and a finished one has nothing to do. out/manifest.csv says of every source
what became of it and why.
"""

import argparse
import csv
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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

from data_pipeline.audio import FPS
from data_pipeline.clips import VideoJob
from data_pipeline.datasets import folder, hdtf, mead, splits, vfhq
from data_pipeline.datasets.raw import write_missing
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError, MissingError
from data_pipeline.estimate import estimate
from data_pipeline.face import landmarker_model
from data_pipeline.records import (
    Source,
    iterate_sources,
    load_example,
    save_example,
    write_records,
)


class Job(Protocol):
    """A source to be made into clips, in another process: it must be picklable."""

    clip: str  # unique in the data set
    identity: str
    source: str  # file it comes from, or empty

    def run(self) -> Iterable[dict[str, Any]]:
        """Yields the examples `clip`, or `clip`#000, #001 …; raises InputError to refuse."""


class Row(NamedTuple):
    """A line of the manifest."""

    clip: str
    identity: str
    emotion: str
    source: str
    bytes: int  # of the source file; a file of another size is prepared again
    sha256: str
    seconds: float  # that were accepted
    clips: str  # names of the records, separated by blanks
    state: str  # accepted, refused (its fault); missing, failed (ours): tried again by the next run
    reason: str


class Summary(NamedTuple):
    """What a data set holds after `prepare`."""

    accepted: int
    refused: int
    failed: int
    clips: int
    missing: int = 0


def prepare(
    jobs: Sequence[Job],
    out_dir: str | os.PathLike,
    split_of: Callable[[Source], str],
    settings: dict[str, Any],
    workers: int = 1,
) -> Summary:
    """Runs the jobs that are not done yet and adds their clips to the records.

    Args:
        jobs: the sources; what earlier calls made of other sources stays in the data set.
        out_dir: where records/ and manifest.csv go, made if missing.
        split_of: says of a clip whether it is "train" or "test".
        settings: what a prepared data set cannot be continued with other values of.
        workers: processes; 1 works in this one.

    Raises:
        InputError: no clip was accepted, the place cannot be written to, or it holds a data set
            with other settings.
    """
    out = Path(out_dir)
    parts = out / ".parts"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _check_settings(out, settings)
        parts.mkdir(exist_ok=True)
        manifest = _read_manifest(out)
        recorded = {source.clip: source for source in iterate_sources(out)}
        for row in _run_all(list_pending(jobs, out), parts, workers):
            manifest[row.clip] = row
            _append(out, row)
        fresh = _list_parts(parts)
        kept = recorded | fresh
        rows = [row for _, row in sorted(manifest.items())]
        clips = {
            name: kept[name]._replace(identity=row.identity)
            for row in rows
            for name in row.clips.split()
            if name in kept
        }
        if fresh.keys() & clips.keys() or clips.keys() != recorded.keys() or not clips:
            write_records(list(clips.values()), out, split_of)
            _write_manifest(out, rows)
        shutil.rmtree(parts)
    except OSError as error:
        raise InputError(
            f"cannot write to {out} ({error.strerror}): give a place that may be written to and "
            "has room."
        ) from error
    states = [row.state for row in rows]
    accepted, refused, failed, missing = map(
        states.count, ("accepted", "refused", "failed", "missing")
    )
    return Summary(accepted, refused, failed, len(clips), missing)


def list_pending(jobs: Sequence[Job], out: Path) -> list[Job]:
    """The jobs that are still to be run; reads `out` and writes nothing."""
    manifest = _read_manifest(out)
    kept = {source.clip for source in iterate_sources(out)} | _list_parts(out / ".parts").keys()
    return [job for job in jobs if not _is_done(job, manifest.get(job.clip), kept)]


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


def _is_done(job: Job, row: Row | None, kept: Set[str]) -> bool:
    if row is None or row.state in ("failed", "missing") or row.bytes != _size(job.source):
        return False
    return all(name in kept for name in row.clips.split())


def _size(source: str) -> int:
    return os.path.getsize(source) if source else 0


def _run_all(jobs: Sequence[Job], parts: Path, workers: int) -> Iterator[Row]:
    """Yields the row of every job as it ends, with a line of progress."""
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
        for row in map(run, jobs) if workers == 1 else _run_in_processes(run, jobs, workers):
            refused += row.state != "accepted"
            told = f"preparing ({refused} refused)" if refused else "preparing"
            progress.update(task, advance=1, description=told)
            yield row


def _run_in_processes(
    run: Callable[[Job], Row], jobs: Sequence[Job], workers: int
) -> Iterator[Row]:
    """As `map`, in no order; a job that takes its process down is refused, the others go on."""
    waiting = list(reversed(jobs))
    while waiting:
        running: dict[Future, Job] = {}
        suspects = []
        with _pool(workers) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < workers:
                        job = waiting.pop()
                        running[pool.submit(run, job)] = job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        row = future.result()
                        del running[future]
                        yield row
            except BrokenProcessPool:
                suspects = list(running.values())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for job in suspects:
            with _pool(1) as pool:
                try:
                    yield pool.submit(run, job).result()
                except BrokenProcessPool:
                    yield _row(job, "refused", "the decoder crashed on it", [])


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned: a fork of a process with threads (decoders, MediaPipe) may hang. Ctrl-C is the
    # parent's business; the workers finish the clip in hand.
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )


def run_job(job: Job, parts: Path) -> Row:
    """Makes a job's clips into files in `parts`; whatever is wrong with its source is a row."""
    examples = iter(job.run())
    made = []
    while True:
        try:
            example = next(examples, None)
        except MissingError as error:
            return _row(job, "missing", str(error), [])
        except InputError as error:
            return _row(job, "refused", str(error), [])
        except Exception as error:
            return _row(job, "failed", f"{type(error).__name__}: {error}", [])
        if example is None:
            return _row(job, "accepted", "", made)
        save_example(parts / f"{example['clip']}.npz", example)
        made.append((example["clip"], len(example["frames"]), int(example["emotion"])))


def _row(job: Job, state: str, reason: str, made: list[tuple[str, int, int]]) -> Row:
    emotion = made[0][2] if made else -1
    return Row(
        clip=job.clip,
        identity=job.identity,
        emotion=EMOTIONS[emotion] if emotion >= 0 else "",
        source=job.source,
        bytes=_size(job.source),
        sha256=_sha256(job.source),
        seconds=sum(frames for _, frames, _ in made) / FPS,
        clips=" ".join(name for name, _, _ in made),
        state=state,
        reason=" ".join(reason.split()),
    )


def _sha256(source: str) -> str:
    if not source:
        return ""
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(out: Path) -> dict[str, Row]:
    path = out / "manifest.csv"
    rows = {}
    if path.exists():
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                if None in line.values() or None in line:
                    continue  # Cut off when a run was killed.
                row = Row(**line)
                rows[row.clip] = row._replace(bytes=int(row.bytes), seconds=float(row.seconds))
    return rows


def _append(out: Path, row: Row) -> None:
    path = out / "manifest.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(Row._fields)
        writer.writerow(row)


def _write_manifest(out: Path, rows: Iterable[Row]) -> None:
    part = out / ".manifest.csv.part"
    with part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    os.replace(part, out / "manifest.csv")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.prepare", description="Prepare a data set for training."
    )
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
    return parser.parse_args(arguments)


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
    return "" if args.dry_run else str(landmarker_model(args.face_landmarker))


def _prepare_videos(
    args: argparse.Namespace,
    jobs: Sequence[VideoJob],
    split_of: splits.Split,
    settings: dict[str, Any],
) -> str:
    if args.dry_run:
        pending = list_pending(jobs, args.out)
        return estimate(pending, len(jobs) - len(pending), args.size, args.workers)
    if told := write_missing(jobs, args.raw, args.out):
        print(told, file=sys.stderr)
    settings = {"size": args.size} | settings
    return _tell(args.out, prepare(jobs, args.out, split_of, settings, args.workers))


def _tell(out: Path, summary: Summary) -> str:
    missing = f", {summary.missing} missing" if summary.missing else ""
    return (
        f"{out}: {summary.clips} clips of {summary.accepted} sources, {summary.refused} refused, "
        f"{summary.failed} failed{missing}; see manifest.csv"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parse(arguments)
    try:
        print(args.run(args))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
