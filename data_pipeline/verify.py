"""Re-reads a prepared data set and says whether every record is what it should be:

    python -m data_pipeline.verify data/mine
    python -m data_pipeline.verify data/mine --raw      also hashes the raw videos anew

Prints a table and leaves with exit code 0, or with 1 and one line for each fault.
"""

import argparse
import collections
import functools
import hashlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from data_pipeline.audio import FPS, SAMPLES_PER_FRAME
from data_pipeline.commands import at_least_1, exit_code, usable_cores
from data_pipeline.emotions import EMOTIONS, UNKNOWN_EMOTION
from data_pipeline.face import MOUTH
from data_pipeline.manifest import Row, read_manifest
from data_pipeline.records import COEFFICIENTS, list_splits, open_records
from data_pipeline.settings import read_settings
from data_pipeline.sync_score import LipOpening, out_of_sync

# A head that turns fast leaves its smoothed crop for a moment; a mouth that does so is of no use.
_BEYOND = 0.25  # of the picture's side


class Split(NamedTuple):
    """What was found in one split."""

    name: str
    clips: int
    identities: int
    minutes: float
    megabytes: float  # of JPEG and sound
    faulty: int  # clips with at least one fault


class Report(NamedTuple):
    """What `verify` found."""

    splits: list[Split]
    faults: list[str]  # one line each: where, and what
    notes: list[str]  # what to know that is no fault


class _Reading(NamedTuple):
    """A record that was read."""

    bytes: int
    faults: list[str]


def verify(
    dir: str | os.PathLike, raw: bool = False, workers: int | None = None, progress: bool = False
) -> Report:
    """Re-reads every record of a data set, and with `raw` every video that it was made of.

    Args:
        dir: the data set's directory, as given to `prepare`.
        raw: also compares the raw videos' SHA-256 with the manifest's; separate voices have none.
        workers: threads that decode; one a core if None.
        progress: shows a bar on stderr.

    Raises:
        InputError: there is no data set, or its lists or settings are damaged.
    """
    dir = Path(dir)
    clips = list_splits(dir)
    settings = read_settings(dir)
    splits, faults = [], []
    for name, rows in clips.items():
        split, found = _read_split(dir, name, rows, settings.get("size"), workers, progress)
        splits.append(split)
        faults += found
    faults += _doubled(clips)
    crossing, notes = _crossing(clips, settings.get("split", "identity"))
    faults += crossing
    manifest = read_manifest(dir)
    if manifest:
        faults += _against_manifest(clips, manifest, waiting := _waiting(dir))
        faults += _out_of_sync(dir, clips, manifest, progress)
        if waiting:
            notes.append(f"{len(waiting)} clips wait for prepare to be run again to its end")
    else:
        notes.append("there is no manifest, so that nothing is known of the sources")
    if raw:
        faults += list(_raw_faults(manifest, progress))
    return Report(splits, faults, notes)


def _read_split(
    dir: Path, name: str, rows: list[dict], size: int | None, workers: int | None, progress: bool
) -> tuple[Split, list[str]]:
    try:
        records = open_records(dir, name)
        count = len(records)
    except Exception as error:  # Whatever readers raise of a damaged file.
        return _summary(name, rows, []), [f"{name}: its records cannot be opened ({_brief(error)})"]
    faults = []
    if count != len(rows):
        faults.append(f"{name}: {count} records, but clips.json lists {len(rows)}")
    read = functools.partial(_read_record, records, rows, size or _size_of(records))
    with ThreadPoolExecutor(workers or usable_cores()) as pool:
        readings = list(_shown(pool.map(read, range(count)), count, f"reading {name}", progress))
    for index, reading in enumerate(readings):
        label = rows[index]["clip"] if index < len(rows) else "unlisted"
        faults += [f"{name} record {index} ({label}): {fault}" for fault in reading.faults]
    return _summary(name, rows, readings), faults


def _summary(name: str, rows: list[dict], readings: list[_Reading]) -> Split:
    return Split(
        name=name,
        clips=len(rows),
        identities=len({row["identity"] for row in rows}),
        minutes=sum(row["frames"] for row in rows) / FPS / 60,
        megabytes=sum(reading.bytes for reading in readings) / 1e6,
        faulty=sum(bool(reading.faults) for reading in readings),
    )


def _shown(items: Iterable, total: int, label: str, progress: bool) -> Iterator:
    console = Console(stderr=True)
    yield from track(items, label, total, console=console, disable=not progress)


def _size_of(records: Sequence[dict[str, Any]]) -> int | None:
    """Side of the first picture that can be read, for sets whose settings do not state it."""
    for index in range(len(records)):
        try:
            return Image.open(io.BytesIO(records[index]["frames"][0])).height
        except Exception:  # It is reported when its turn comes.
            continue
    return None


def _read_record(
    records: Sequence[dict[str, Any]], rows: list[dict], size: int | None, index: int
) -> _Reading:
    try:
        record = records[index]
    except Exception as error:  # Checksum, framing, protocol buffer: each has its own.
        return _Reading(0, [f"cannot be read ({_brief(error)})"])
    row = rows[index] if index < len(rows) else None
    volume = sum(map(len, record["frames"])) + record["audio"].nbytes
    return _Reading(volume, check_record(record, row, size))


def _brief(error: Exception) -> str:
    """The beginning of what an exception says, on one line."""
    text = " ".join(str(error).split()) or "no more is known"
    return f"{type(error).__name__}: {text[:120]}"


def check_record(
    record: dict[str, Any], row: dict[str, Any] | None = None, size: int | None = None
) -> list[str]:
    """What is wrong with a record of the schema of data_pipeline/records.py; nothing if it is good.

    Args:
        record: as `open_records` gives it.
        row: what clips.json says of it, if known.
        size: side that its pictures must have; that of its first one if None.
    """
    count = len(record["frames"])
    faults = list(_check_frames(record["frames"], size))
    expected = {
        "audio": (count * SAMPLES_PER_FRAME,),
        "landmarks": (count, 68, 2),
        "boxes": (count, 3),
        "coefficients": (count, COEFFICIENTS),
        "phonemes": (count,),
    }
    for field, shape in expected.items():
        if record[field].shape != shape:
            faults.append(f"{field} of shape {record[field].shape} for {count} frames")
    for field in ("landmarks", "sync_box", "boxes", "coefficients"):
        if not np.isfinite(record[field]).all():
            faults.append(f"{field} with values that are not numbers")
    faults += _check_geometry(record["landmarks"], record["sync_box"], record["boxes"])
    if not UNKNOWN_EMOTION <= int(record["emotion"]) < len(EMOTIONS):
        faults.append(f"emotion {int(record['emotion'])} is none")
    return faults + list(_check_row(record, row))


def _check_frames(frames: Sequence[bytes], size: int | None) -> Iterator[str]:
    if not len(frames):
        yield "no frames"
    for index, data in enumerate(frames):
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()  # Unlike OpenCV, refuses what is cut off.
                shape, kind, mode = image.size, image.format, image.mode
        except (OSError, SyntaxError, ValueError) as error:
            yield f"frame {index} cannot be decoded ({_brief(error)})"
            continue
        size = size or shape[0]
        if shape != (size, size) or (kind, mode) != ("JPEG", "RGB"):
            yield (
                f"frame {index} is a {kind} of {shape[0]}x{shape[1]} pixels ({mode}), not an RGB "
                f"JPEG of {size}x{size}"
            )


def _check_geometry(landmarks: np.ndarray, box: np.ndarray, boxes: np.ndarray) -> Iterator[str]:
    """Comparisons with NaN are false: those are told of elsewhere."""
    if landmarks.size and (np.abs(landmarks - 0.5) > 0.5 + _BEYOND).any():
        yield "landmarks far outside of the picture"
    elif landmarks.size and (np.abs(landmarks[:, MOUTH] - 0.5) > 0.5).any():
        yield "a mouth outside of the picture"
    top, left, bottom, right = box
    if top >= bottom or left >= right or (np.abs(box - 0.5) > 0.5).any():
        yield "a sync_box that is empty or outside of the picture"
    if boxes.any() and (boxes[..., 2] <= 0).any():
        yield "boxes without a size"


def _check_row(record: dict[str, Any], row: dict[str, Any] | None) -> Iterator[str]:
    if row is None:
        return
    held = {
        "clip": record["clip"].decode(errors="replace"),
        "identity": record["identity"].decode(errors="replace"),
        "emotion": int(record["emotion"]),
        "frames": len(record["frames"]),
    }
    for field, value in held.items():
        if value != row[field]:
            yield f"{field} is {value!r}, but clips.json says {row[field]!r}"


def _doubled(clips: dict[str, list[dict]]) -> list[str]:
    counts = collections.Counter(row["clip"] for rows in clips.values() for row in rows)
    return [f"clip {name} is there {count} times" for name, count in counts.items() if count > 1]


def _crossing(clips: dict[str, list[dict]], split: str) -> tuple[list[str], list[str]]:
    """Faults, or notes where a split was published like that, on people on both sides."""
    places = collections.defaultdict(list)
    for name, rows in clips.items():
        for identity in sorted({row["identity"] for row in rows}):
            places[identity].append(name)
    shared = {identity: names for identity, names in places.items() if len(names) > 1}
    if shared and split != "identity":
        return [], [f"{len(shared)} identities are in several splits: {split} was published so"]
    return [f"identity {name} is in {' and '.join(shared[name])}" for name in shared], []


def _waiting(dir: Path) -> set[str]:
    """Clips of an unfinished run, which come into the records when it ends."""
    return {path.stem for path in (dir / ".parts").glob("*.npz")}


def _against_manifest(
    clips: dict[str, list[dict]], manifest: list[Row], waiting: set[str]
) -> Iterator[str]:
    held = {row["clip"] for rows in clips.values() for row in rows}
    accepted = {row.clip for row in manifest if row.state == "accepted"}
    for name in sorted(accepted - held - waiting):
        yield f"{name}: accepted by the manifest, but not in the records"
    for name in sorted(held - accepted):
        yield f"{name}: in the records, but not accepted by the manifest"


def _out_of_sync(
    dir: Path, clips: dict[str, list[dict]], manifest: list[Row], progress: bool
) -> Iterator[str]:
    """Judges lips and voice as `prepare` does, over the clips that follow each other in a video."""
    judged = {row.clip: row for row in manifest if row.scores.sync is not None}
    for name, listed in clips.items():
        runs = list(_runs([judged.get(row["clip"]) for row in listed]))
        try:
            records = open_records(dir, name)
        except Exception:  # It was told of when they were read.
            continue
        for indices in _shown(runs, len(runs), f"lips and voice of {name}", progress):
            if reason := _judge(records, indices):
                yield f"{name} record {indices[0]} ({listed[indices[0]]['clip']}): {reason}"


def _runs(rows: Sequence[Row | None]) -> Iterator[list[int]]:
    """Indices of rows that follow each other without a gap; None are left out."""
    run: list[int] = []
    for index, row in enumerate([*rows, None]):
        before = rows[run[-1]] if run else None
        if before and (not row or row.job != before.job or abs(row.start - before.end) > 0.5 / FPS):
            yield run
            run = []
        if row:
            run.append(index)


def _judge(records: Sequence[dict[str, Any]], indices: list[int]) -> str:
    """Why the lips and the voice of a run do not go together; empty if they do, or nobody knows."""
    try:
        parts = [_lips_and_voice(records[index]) for index in indices]
        landmarks, samples = map(np.concatenate, zip(*parts, strict=True))
    except Exception:  # As above.
        return ""
    if len(samples) != SAMPLES_PER_FRAME * len(landmarks) or not np.isfinite(landmarks).all():
        return ""
    return out_of_sync(LipOpening().score(landmarks, samples))


def _lips_and_voice(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return record["landmarks"], record["audio"]  # Without the pictures, for a run may be long.


def _raw_faults(manifest: list[Row], progress: bool) -> Iterator[str]:
    hashes = {row.source: row.sha256 for row in manifest if row.source and row.sha256}
    for source, expected in _shown(hashes.items(), len(hashes), "hashing sources", progress):
        try:
            with open(source, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            yield f"source {source} cannot be read ({error.strerror})"
            continue
        if found != expected:
            yield (
                f"source {source} has changed since it was prepared: prepare takes it anew if its "
                "size has changed too, else give another --out"
            )


def table(report: Report) -> Table:
    """The splits of a report, for a person."""
    columns = ("split", "clips", "identities", "minutes", "MB", "MB an hour", "faulty clips")
    drawn = Table(*columns)
    for split in report.splits:
        rate = split.megabytes / split.minutes * 60 if split.minutes else 0.0
        drawn.add_row(
            split.name,
            str(split.clips),
            str(split.identities),
            f"{split.minutes:.1f}",
            f"{split.megabytes:.1f}",
            f"{rate:.0f}",
            str(split.faulty),
        )
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.verify", description="Re-read every record of a data set."
    )
    parser.add_argument("dir", type=Path, help="directory of the data set")
    parser.add_argument("--raw", action="store_true", help="also hash the raw videos anew")
    parser.add_argument("--workers", type=at_least_1, help="threads that decode")
    args = parser.parse_args(arguments)
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    report = verify(args.dir, args.raw, args.workers, progress=True)
    Console().print(table(report))
    for note in report.notes:
        print(f"note: {note}")
    for fault in report.faults:
        print(fault)
    print(f"{args.dir}: {len(report.faults) or 'no'} faults")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
