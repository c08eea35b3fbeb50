"""What became of every source: a row for each clip, refused stretch and refused source.

    out/manifest.parquet        a finished or interrupted data set's rows, for any reader of Parquet
    out/.parts/journal.jsonl    while it is made: a line for each source that was gone through

A line that a killed run or a loss of power cut off or spoilt is dropped; its source is gone through
again.
"""

import os
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipeline.errors import InputError
from data_pipeline.files import Lines, read_lines, write_whole

FILE = "manifest.parquet"
_JOURNAL = "journal.jsonl"


class Scores(NamedTuple):
    """How good a clip is; None where it was not measured."""

    sharpness: float | None = None  # variance of the Laplacian of the face, in grey levels squared
    dark: float | None = None  # share of the face's pixels that are black
    bright: float | None = None  # share that are white
    face_pixels: float | None = None  # mean side of the face's bounding box in the source
    yaw: float | None = None  # degrees to the side, of the frame that is turned most but a tenth
    lost: float | None = None  # share of the frames in which no face was found
    others: float | None = None  # share in which another face at least half as large was
    movement: float | None = None  # of the lips: deviation of their opening, in eyes' distances
    sync: float | None = None  # correlation of lips and voice where it is best
    sync_offset: float | None = None  # frames by which the voice comes late there


class Row(NamedTuple):
    """What became of a source or of a part of it: a clip, or a refusal with its reason."""

    clip: str  # the record's name, unique; of a source that was refused whole, the source's
    job: str  # the source's name; its clips are called so, or so with #000, #001 … in turn
    identity: str
    emotion: str  # empty if unknown
    source: str  # the file; empty if there is none
    bytes: int  # of the source file and a separate voice; of another size, they are prepared again
    sha256: str  # of the source file; empty if that was not looked into
    start: float | None  # seconds after the source's first frame; None if it was not gone through
    end: float | None
    scores: Scores
    state: str  # accepted, refused (its fault); missing, failed (ours): tried again by the next run
    reason: str  # one sentence; empty if accepted
    place: str = ""  # digest of where in its files it was looked for; empty if that was not noted


COLUMNS = tuple(
    column
    for field in Row._fields
    for column in (Scores._fields if field == "scores" else (field,))
)


def read_manifest(out: str | os.PathLike) -> list[Row]:
    """The rows of a data set, in the order of their names; none if it has no manifest.

    Raises:
        InputError: the file is damaged, or of another version.
    """
    import pyarrow as pa
    import pyarrow.parquet

    path = Path(out) / FILE
    if not path.exists():
        return []
    try:
        return [_row(line) for line in pa.parquet.read_table(path).to_pylist()]
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        if getattr(error, "errno", None):
            raise  # Of a damaged file, Arrow says OSError too.
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is not a manifest of this version, or damaged ({reason}): put a copy of it "
            "there, or give another --out."
        ) from error


def write_manifest(out: str | os.PathLike, rows: Iterable[Row]) -> None:
    """Replaces the manifest of a data set."""
    import pyarrow as pa
    import pyarrow.parquet

    kinds = {"bytes": pa.int64(), "start": pa.float64(), "end": pa.float64()}
    kinds |= dict.fromkeys(Scores._fields, pa.float32())
    schema = pa.schema([(column, kinds.get(column, pa.string())) for column in COLUMNS])
    lines = [_line(row) for row in sorted(rows, key=lambda row: row.clip)]
    table = pa.Table.from_pylist(lines, schema)
    write_whole(Path(out) / FILE, lambda file: pa.parquet.write_table(table, file))


def by_job(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each source."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.job, []).append(row)
    return found


def refuse_unlisted(out: str | os.PathLike, clips: Iterable[str], jobs: Container[str]) -> None:
    """Raises InputError if the records hold clips of sources that are not in the manifest.

    The next records are written from the manifest's rows, so those clips would be lost.

    Args:
        out: the data set.
        clips: names of the clips in its records.
        jobs: names of the sources in its manifest.

    Raises:
        InputError: names some of them.
    """
    unlisted = [clip for clip in clips if not (clip in jobs or clip.rpartition("#")[0] in jobs)]
    if unlisted:
        raise InputError(
            f"{Path(out) / FILE} says nothing of {len(unlisted)} clips in the records "
            f"({', '.join(unlisted[:4])}), which would be lost: put the one there that was written "
            "with them, or give another --out."
        )


def read_journal(parts: Path) -> dict[str, list[Row]]:
    """The rows of each source that an unfinished run has gone through."""
    sources = ([_row(line) for line in lines] for lines in read_lines(parts / _JOURNAL))
    return {rows[0].job: rows for rows in sources}


class Journal(Lines):
    """The rows of an unfinished run, safe on disk source by source.

    Args:
        parts: the folder of the unfinished run.
    """

    def __init__(self, parts: Path):
        super().__init__(parts / _JOURNAL)

    def append(self, rows: Sequence[Row]) -> None:
        """Adds the rows of a source."""
        super().append([_line(row) for row in rows])


def _line(row: Row) -> dict:
    rest = {name: value for name, value in row._asdict().items() if name != "scores"}
    return rest | row.scores._asdict()


def _row(line: dict) -> Row:
    # Some fields are lacking in manifests that were written before there were any.
    line = Row._field_defaults | Scores._field_defaults | line
    scores = Scores(**{name: line[name] for name in Scores._fields})
    rest = {name: line[name] for name in Row._fields if name != "scores"}
    return Row(**rest, scores=scores)
