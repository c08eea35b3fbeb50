"""One run at a time in a data set's folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from data_pipeline.errors import InputError

_FILE = ".lock"


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keeps a second run out of `out`; the lock goes with the process, however that ends.

    Raises:
        InputError: another run works there.
        OSError: the folder cannot be written to.
    """
    with _lock(out) as file:
        try:
            yield
        finally:
            # While it is held: whoever has opened this file meanwhile sees that it is gone.
            Path(file.name).unlink(missing_ok=True)


def _lock(out: Path) -> TextIO:
    """The locked file, which is the one that is found under its name."""
    path = out / _FILE
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another run prepares {out}: wait for it, or end it.") from error
            if _is_there(file, path):
                stack.pop_all()
                return file


def _is_there(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
