"""Files that are there whole or not at all, even after a loss of power; where, or why not."""

import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from data_pipeline.errors import InputError

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+", re.I)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Puts what `write` writes in the place of `path` when it is on the disk.

    Raises:
        InputError: no file can take this place.
    """
    target = target_of(path)
    part = part_of(target)
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


class Lines:
    """A file of JSON values, a line each, to which more are added behind the last whole line."""

    def __init__(self, path: Path):
        self._path = path
        whole = path.read_bytes() if path.exists() else b""
        if not whole.endswith(b"\n"):  # Cut off, or there is none yet.
            path.write_bytes(whole[: whole.rfind(b"\n") + 1])

    def append(self, value: Any) -> None:
        """Adds a value, which is on the disk then."""
        with self._path.open("a") as file:
            file.write(json.dumps(value) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[Any]:
    """The values of `Lines`; those that a killed run or a loss of power spoilt are left out."""
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n"):
            yield value


def target_of(path: Path) -> Path:
    """The file to write for a path: the one that it names where it is a link, so that it stays one.

    Raises:
        InputError: a folder, a device or a pipe is there, which a file must not replace, or no file
            can have this name.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = 0  # Nothing is there yet.
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"cannot write {path}: it is a folder; name a file in it")
    if mode and not stat.S_ISREG(mode):
        raise InputError(f"cannot write {path}: it is a device or a pipe; name a file")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def part_of(target: Path) -> Path:
    """Where a file grows until it is whole: beside it, hidden, its name no longer than allowed."""
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.part")


def fault_of(path: str | os.PathLike) -> str:
    """What keeps a path from being a file's, to follow it in a sentence; empty if nothing does."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except (OSError, ValueError) as error:  # ValueError of a name with a null byte
        return f"cannot be read ({getattr(error, 'strerror', error)})"
    return "" if stat.S_ISREG(mode) else "is not a file"


def cache_folder() -> Path:
    """Where what can be fetched or made again is kept: the user's cache.

    Raises:
        InputError: there is none.
    """
    for cache in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(cache):  # Others are to be ignored; the ~ stays where there is no home.
            return Path(cache, "reta_jax")
    raise InputError("there is no home folder to keep a cache in: set XDG_CACHE_HOME to a folder")


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
