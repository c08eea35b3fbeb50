"""A source becomes clips: here or in processes of its own, and whatever befalls it is a row."""

import contextlib
import functools
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn, Protocol

from data_pipeline.audio import limit_decoders
from data_pipeline.clips import Outcome
from data_pipeline.commands import usable_cores
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError, MissingError
from data_pipeline.manifest import Row, Scores
from data_pipeline.records import save_example


class Job(Protocol):
    """A source to be made into clips, in another process: it must be picklable."""

    clip: str  # unique in the data set
    identity: str
    source: str  # file it comes from, or empty

    def run(self) -> Iterable[Outcome]:
        """Yields the clips `clip`, or `clip`#000, #001 …; raises InputError to refuse all."""


def run_in_processes(
    run: Callable[[Job], list[Row]], jobs: Sequence[Job], workers: int
) -> Iterator[list[Row]]:
    """As `map`, in no order; a job that takes its process down has failed, the others go on."""
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
                    # Not refused: it may be the machine's fault, and another day's run take it.
                    yield [_whole_row(job, "failed", CRASHED)]


CRASHED = "its process died, also when it ran alone: the file breaks the decoder, or memory ran out"


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, which are ended at once where this one is interrupted."""
    # Spawned: a fork of a process with threads (decoders, MediaPipe) may hang.
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(max(1, usable_cores() // workers),),
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


def _start_worker(decoder_threads: int) -> None:
    """Leaves Ctrl-C and the like to the parent, and ends with it even if that is killed."""
    limit_decoders(decoder_threads)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> NoReturn:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def run_job(job: Job, parts: Path) -> list[Row]:
    """Makes a job's clips into files in `parts`; whatever is wrong with its source is a row."""
    try:
        sha256 = _sha256_of(job.source) if is_looked_into(job) else ""
        refused = _whole_row(job, "refused", "", size_of(job), sha256)
    except OSError as error:
        reason = f"{error.filename or job.source} cannot be read ({error.strerror})"
        return [_whole_row(job, "failed", reason)]
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
            return [_whole_row(job, "failed", f"{type(error).__name__}: {error}")]
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


def _whole_row(job: Job, state: str, reason: str, bytes: int = 0, sha256: str = "") -> Row:
    """The row of a source of which there is no clip."""
    return Row(
        clip=job.clip,
        job=job.clip,
        identity=job.identity,
        emotion="",
        source=job.source,
        bytes=bytes,
        sha256=sha256,
        start=None,
        end=None,
        scores=Scores(),
        state=state,
        reason=_one_line(reason),
        place=place_of(job),
    )


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _sha256_of(source: str) -> str:
    found = os.stat(source)
    return _sha256(source, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)  # Many clips may be of one long video.
def _sha256(source: str, size: int, changed: int) -> str:
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_looked_into(job: Job) -> bool:
    """Whether what becomes of a job depends on its file."""
    return bool(job.source) and not getattr(job, "refused", "") and not getattr(job, "missing", "")


def place_of(job: Job) -> str:
    """A digest of where in its files a job looks, as annotations and lists of boxes may change.

    Folders are left out: they may be moved.
    """
    asked = [getattr(job, name, None) for name in ("start", "end", "region", "box")]
    voice = os.path.basename(getattr(job, "audio", ""))
    return hashlib.sha256(json.dumps([*asked, voice]).encode()).hexdigest()[:16]


def size_of(job: Job) -> int:
    """Bytes of a job's files; raises OSError where they cannot be had."""
    return sum(map(os.path.getsize, filter(None, (job.source, getattr(job, "audio", "")))))
