"""The jobs of data_pipeline.prepare under Apache Beam:

    python -m pip install -e '.[beam]'    # in an environment of its own
    python -m data_pipeline.beam folder --raw videos --out data/mine --runner DirectRunner
    python -m data_pipeline.beam hdtf --raw /mnt/hdtf --out /mnt/data/hdtf --runner FlinkRunner ...

What prepare does not know is handed to Beam (its runner and the runner's flags). The workers must
see --raw, --out and the landmarker's file under the same paths: a shared or mounted file system.
They make the clips; the records are written from these by the machine that gave the command.
An interrupted pipeline goes on where it was when the same command is given again.
"""

import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from data_pipeline import prepare
from data_pipeline.errors import InputError
from data_pipeline.jobs import Job, run_job
from data_pipeline.manifest import Journal, Row, read_journal
from data_pipeline.records import list_examples

_FOLDER = "beam"  # in .parts: the rows of each job, until the pipeline has ended


def run_all(jobs: Sequence[Job], parts: Path, flags: Sequence[str]) -> Iterator[list[Row]]:
    """Yields the rows of every job when a pipeline with these flags has run them all.

    Raises:
        InputError: Beam is not installed, or the pipeline failed.
    """
    beam = _import_beam()
    if waiting := list_waiting(jobs, parts):
        options = beam.options.pipeline_options.PipelineOptions(list(flags))
        try:
            with beam.Pipeline(options=options) as pipeline:
                (
                    pipeline
                    | "jobs" >> beam.Create(waiting)
                    | "spread" >> beam.Reshuffle()
                    # Bare of the annotations, which Beam would try to check.
                    | "run" >> beam.Map(lambda job: run_and_keep(job, parts))
                )
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"the Beam pipeline failed ({reason}): see its log; the same command goes on with "
                "what is left."
            ) from error
    for job in jobs:
        yield _rows_of(job, parts)


def list_waiting(jobs: Sequence[Job], parts: Path) -> list[Job]:
    """The jobs that an interrupted pipeline has not done, or whose sources changed since."""
    clips = list_examples(parts).keys()
    return [job for job in jobs if not prepare.is_done(job, _rows_of(job, parts), clips)]


def run_and_keep(job: Job, parts: Path) -> None:
    """Runs a job and keeps its rows in a file, which appears when its clips are there."""
    folder = parts / _FOLDER / job.clip
    folder.mkdir(parents=True, exist_ok=True)
    Journal(folder).append(run_job(job, parts))


def _rows_of(job: Job, parts: Path) -> list[Row]:
    return read_journal(parts / _FOLDER / job.clip).get(job.clip, [])


def _import_beam() -> ModuleType:
    try:
        import apache_beam
        import apache_beam.options.pipeline_options
    except ImportError as error:
        raise InputError(
            "Apache Beam is not installed: say python -m pip install -e '.[beam]' in the project's "
            "folder and an environment of its own, for it holds back numpy, protobuf and pyarrow."
        ) from error
    return apache_beam


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args, flags = prepare.make_parser("python -m data_pipeline.beam").parse_known_args(arguments)
    args.run_all = functools.partial(run_all, flags=flags)
    return prepare.run_command(args)


if __name__ == "__main__":
    # Under its own name, by which the workers find the functions.
    from data_pipeline.beam import main as run

    sys.exit(run())
