"""How fast a prepared data set is read, and whether training would wait for it:

    python -m data_pipeline.benchmark data/hdtf --batch 32 --readers 0 2 4 8 --step-ms 400

Clips are training samples as data_pipeline.loader makes them. The first batches are not counted:
they open files. Before each number of readers the page cache is as the one before left it.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_pipeline.audio import FPS
from data_pipeline.augment import AugmentSpec
from data_pipeline.commands import above_0, at_least_0, at_least_1, exit_code, usable_cores
from data_pipeline.errors import InputError
from data_pipeline.loader import WindowSpec, training_batches
from data_pipeline.records import list_clips, open_records

_AUGMENT = AugmentSpec(
    brightness=0.05, contrast=0.1, saturation=0.1, hue=5, crop=0.05, mirror=0.5, gain_db=6
)
_FEWEST_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Storage:
    """What a split holds and how fast whole records are read, one after another."""

    clips: int
    hours: float  # of video
    megabytes: float  # of its files
    megabytes_per_hour: float
    records_per_second: float  # in random order, nothing decoded


@dataclasses.dataclass(frozen=True)
class Speed:
    """The loader with so many readers."""

    readers: int  # threads that read ahead; 0 reads between the steps
    clips_per_second: float
    waiting: float | None  # share of the time that a training step of the given length waits


def measure_storage(dir: Path, split: str, seconds: float) -> Storage:
    """Reads random records for about so many seconds."""
    rows, records = list_clips(dir, split), open_records(dir, split)
    hours = sum(row["frames"] for row in rows) / FPS / 3600
    files = dir.glob(f"records/*-{split}.array_record*")
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    rng = np.random.default_rng(0)
    records[0]
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        records[int(rng.integers(len(rows)))]
        count += 1
    return Storage(len(rows), hours, megabytes, megabytes / hours, count / spent)


def measure_speed(
    dir: Path,
    split: str,
    window: WindowSpec,
    batch: int,
    readers: int,
    seconds: float,
    step_ms: float | None = None,
    augment: AugmentSpec = AugmentSpec(),
) -> Speed:
    """Takes batches for about so many seconds, and then again between steps of `step_ms`."""
    batches = training_batches({dir: 1.0}, split, batch, window, augment=augment, threads=readers)
    try:
        for _ in range(4):  # More than are read ahead.
            next(batches)
        count, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            next(batches)
            count += 1
        waiting = None
        if step_ms is not None:
            waiting = _share_of_waiting(batches, step_ms / 1000, seconds)
    finally:
        batches.close()
    return Speed(readers, count * batch / spent, waiting)


def _share_of_waiting(batches, step: float, seconds: float) -> float:
    waits = []
    while len(waits) <= _FEWEST_STEPS or (sum(waits) + len(waits) * step) < seconds:
        time.sleep(step)  # The device works; this process is free to read ahead.
        asked = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - asked)
    waiting = sum(waits[1:]) / len(waits[1:])  # The first found nothing read ahead.
    return waiting / (waiting + step)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parse(arguments)
    return exit_code(lambda: _run(args))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.benchmark", description="Time the reading of a data set."
    )
    parser.add_argument("dir", type=Path, help="a prepared data set")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch", type=at_least_1, default=16, help="clips a batch")
    parser.add_argument(
        "--readers",
        type=at_least_0,
        nargs="+",
        default=[0, 1, 2, 4],
        help="threads that read ahead",
    )
    parser.add_argument("--frames", type=at_least_1, default=5, help="frames a clip")
    parser.add_argument(
        "--size", type=at_least_1, default=256, help="side of the pictures in pixels"
    )
    parser.add_argument("--augment", action="store_true", help="vary the samples too")
    parser.add_argument("--step-ms", type=above_0, help="length of a training step to keep up with")
    parser.add_argument("--seconds", type=above_0, default=5.0, help="for each figure")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    return parser.parse_args(arguments)


def _run(args: argparse.Namespace) -> int:
    window = WindowSpec(frames=args.frames, size=args.size)
    storage = measure_storage(args.dir, args.split, args.seconds)
    speeds = [
        measure_speed(
            args.dir,
            args.split,
            window,
            args.batch,
            readers,
            args.seconds,
            args.step_ms,
            _AUGMENT if args.augment else AugmentSpec(),
        )
        for readers in args.readers
    ]
    figures = {
        "dir": str(args.dir),
        "split": args.split,
        "batch": args.batch,
        "frames": args.frames,
        "size": args.size,
        "augment": args.augment,
        "step_ms": args.step_ms,
        "cores": usable_cores(),
        "load_before": os.getloadavg()[0],
        "storage": dataclasses.asdict(storage),
        "speeds": [dataclasses.asdict(speed) for speed in speeds],
    }
    _show(storage, speeds, figures)
    if args.out:
        try:
            args.out.write_text(json.dumps(figures, indent=1) + "\n")
        except OSError as error:
            raise InputError(
                f"cannot write {args.out} ({error.strerror}): give another --out."
            ) from error
    return 0


def _show(storage: Storage, speeds: Sequence[Speed], figures: dict) -> None:
    print(
        f"{figures['dir']} {figures['split']}: {storage.clips} clips, {storage.hours:.3f} hours, "
        f"{storage.megabytes:.1f} MB, {storage.megabytes_per_hour:.0f} MB per hour of video\n"
        f"{storage.records_per_second:.0f} whole records/s, one reader; {figures['cores']} cores"
    )
    table = Table("readers", "clips/s", "ms per batch", f"waiting at {figures['step_ms']} ms/step")
    for speed in speeds:
        waiting = "" if speed.waiting is None else f"{speed.waiting:.0%}"
        milliseconds = 1000 * figures["batch"] / speed.clips_per_second
        table.add_row(
            str(speed.readers), f"{speed.clips_per_second:.1f}", f"{milliseconds:.0f}", waiting
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
