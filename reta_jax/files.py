"""Files that appear whole or not at all, and what is in them."""

import hashlib
import os
from pathlib import Path

from data_pipeline.errors import InputError


def make_folder(path: Path) -> None:
    """A folder with all above it; raises InputError if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made a folder: {error.strerror}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; raises InputError if it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
