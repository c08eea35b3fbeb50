"""Files that appear whole or not at all, and what is in them."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from data_pipeline import files
from data_pipeline.errors import InputError, system_error


def make_folder(path: Path) -> None:
    """A folder with all above it; raises InputError if it cannot be made."""
    files.refuse_address(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise system_error(f"{path} cannot be made a folder: {error.strerror}", error) from error


def check_place(path: Path, *read: Path) -> None:
    """Raises InputError where no file can have this path.

    A folder, a device or a pipe has it, no folder is above it, or one of the files that are `read`
    would be replaced.
    """
    files.refuse_address(path)
    folder = files.target_of(path).parent
    if not os.path.isdir(folder):
        raise InputError(f"cannot write {path}: {folder} is no folder")
    for source in read:
        if all(map(os.path.exists, (path, source))) and path.samefile(source):
            raise InputError(
                f"cannot write {path}: it would replace {source}, which is read; name another file"
            )


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; raises InputError if it cannot be written."""
    try:
        files.write_whole(path, lambda file: file.write(data))
    except OSError as error:
        raise system_error(f"cannot write {path}: {error.strerror or error}", error) from error


def write_json(path: Path, values: Any) -> None:
    """As `write_whole`, JSON that a person can read."""
    write_whole(path, f"{json.dumps(values, indent=1)}\n".encode())


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
