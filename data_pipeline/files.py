"""Files that are there whole or not at all, even after a loss of power; why there is none."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from data_pipeline.errors import InputError

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+", re.I)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Puts what `write` writes in the place of `path` when it is on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def fault_of(path: str | os.PathLike) -> str:
    """What keeps a path from being a file's, to follow it in a sentence; empty if nothing does."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except (OSError, ValueError) as error:  # ValueError of a name with a null byte
        return f"cannot be read ({getattr(error, 'strerror', error)})"
    return "" if stat.S_ISREG(mode) else "is not a file"


def refuse_address(place: str | os.PathLike) -> None:
    """Raises InputError for gs://bucket/x and the like, which would be taken for a folder's name.

    A Path will do, which has one of the two slashes left.
    """
    text = os.fspath(place)
    if found := _ADDRESS.match(text):
        raise InputError(
            f"{found[1]}://{text[found.end() :]} is an address, not a folder: mount the bucket "
            "(gcsfuse, s3fs, ...) and give its folder"
        )


def sync_folder(folder: Path) -> None:
    """Waits until all that is in a folder is on the disk."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
