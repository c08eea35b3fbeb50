"""CSV files that users write: lines by the columns that their head names."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.datasets.raw import VIDEO_SUFFIXES
from data_pipeline.errors import InputError


def read_table(path: str | os.PathLike, columns: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """A CSV file's lines by column, without the blanks about their words and without empty lines.

    Args:
        path: the file, with or without the mark that Excel begins its files with.
        columns: what it has to have, of each group one at least.

    Raises:
        InputError: it cannot be read, lacks a column, or has no line below its head.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, skipinitialspace=True, strict=True) if line]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error):
        lines = []
    header, *lines = [[word.strip() for word in line] for line in lines or [[]]]
    if not all(set(group) & set(header) for group in columns):
        wanted = ", ".join(" or ".join(group) for group in columns)
        raise InputError(f"{path} is not a CSV file with columns {wanted}")
    if not lines:
        raise InputError(f"{path} has no line below its head")
    empty = [""] * len(header)  # for lines that end early
    return [dict(zip(header, line + empty, strict=False)) for line in lines]


def without_suffix(name: str) -> str:
    """A video's name or place without the suffix that says that it is one."""
    path = Path(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in VIDEO_SUFFIXES else name
