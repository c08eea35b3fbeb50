"""The manifest comes back as it was written, and no torn line or file passes for a row."""

import errno

import pyarrow.parquet
import pytest

from data_pipeline.errors import InputError
from data_pipeline.manifest import (
    COLUMNS,
    FILE,
    Journal,
    Row,
    Scores,
    by_job,
    read_journal,
    read_manifest,
    write_manifest,
)


def row(clip: str, job: str, **fields) -> Row:
    usual = {
        "identity": "Änn",
        "emotion": "",
        "source": "a b.mp4",
        "bytes": 2**40,
        "sha256": "ff",
        "start": None,
        "end": None,
        "scores": Scores(),
        "state": "refused",
        "reason": "no face",
    }
    return Row(clip=clip, job=job, **usual | fields)


ROWS = [
    row("a#000", "a", start=0.0, end=1.2, state="accepted", scores=Scores(0.5, yaw=3.0)),
    row("a#001", "a", start=1.2, end=1.4, reason='too "short", \n 0.2 s'),
    row("b", "b"),
]


def test_rows_come_back_sorted_and_any_reader_of_parquet_has_them(tmp_path):
    assert read_manifest(tmp_path) == []
    write_manifest(tmp_path, reversed(ROWS))
    assert read_manifest(tmp_path) == ROWS
    table = pyarrow.parquet.read_table(tmp_path / FILE)
    assert tuple(table.column_names) == COLUMNS
    assert table["yaw"].to_pylist() == [3.0, None, None]
    assert {name: len(rows) for name, rows in by_job(ROWS).items()} == {"a": 2, "b": 1}
    write_manifest(tmp_path, [])
    assert read_manifest(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_damaged_or_foreign_manifest_is_a_sentence(tmp_path):
    (tmp_path / FILE).write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"manifest.parquet is not a manifest"):
        read_manifest(tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"clip": ["a"]}), tmp_path / FILE)
    with pytest.raises(InputError, match=r"manifest.parquet is not a manifest"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, ROWS)
    whole = (tmp_path / FILE).read_bytes()
    told = []
    for place in range(0, len(whole), 23):
        (tmp_path / FILE).write_bytes(
            whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        )
        try:
            read_manifest(tmp_path)
        except InputError as error:
            told.append(type(error.__cause__))
    assert {OSError, UnicodeDecodeError, pyarrow.ArrowInvalid} <= set(told)


def test_what_the_system_refuses_is_no_damage(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EMFILE, "Too many open files")

    write_manifest(tmp_path, ROWS)
    monkeypatch.setattr(pyarrow.parquet, "read_table", fail)
    with pytest.raises(OSError, match="Too many"):
        read_manifest(tmp_path)


def test_a_manifest_that_was_written_without_places_is_read(tmp_path):
    write_manifest(tmp_path, [row("a", "a", place="1f")])
    table = pyarrow.parquet.read_table(tmp_path / FILE)
    assert read_manifest(tmp_path)[0].place == "1f"
    pyarrow.parquet.write_table(table.drop_columns("place"), tmp_path / FILE)
    assert read_manifest(tmp_path) == [row("a", "a")]


def test_a_journal_survives_its_writer_at_every_byte(tmp_path):
    Journal(tmp_path).append(ROWS[:2])
    Journal(tmp_path).append(ROWS[2:])
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        expected = [*["a"] * (end >= first), *["b"] * (end == len(whole))]
        assert list(read_journal(tmp_path)) == expected
        if end % 50 == 0:  # It goes on behind the last whole line.
            Journal(tmp_path).append([row("c", "c")])
            assert list(read_journal(tmp_path)) == [*expected, "c"]
    assert read_journal(tmp_path)["a"] == ROWS[:2]


def test_a_line_that_a_loss_of_power_spoilt_is_dropped(tmp_path):
    Journal(tmp_path).append(ROWS[:2])
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(bytes(9) + b"\n")
    Journal(tmp_path).append(ROWS[2:])
    assert list(read_journal(tmp_path)) == ["a", "b"]
