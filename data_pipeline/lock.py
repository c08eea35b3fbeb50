"""One run at a time in a folder: of a data set, of a training."""

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from data_pipeline.errors import TransientError

_FILE = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre mounted without -o flock


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keeps a second run out of `out`; the lock goes with the process, however that ends.

    It is a flock. Within a machine it always holds. Between hosts it does where the file system
    hands it on: NFS, and Lustre mounted with -o flock; the lock of a host that lost its power goes
    with its lease there. Buckets that are mounted (gcsfuse, s3fs) and Lustre with -o localflock
    know each host's locks alone. Where there are none at all, a warning says so.

    Raises:
        TransientError: another run works there.
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
                raise TransientError(
                    f"another run works in {out}: wait for it, end it, or give another folder"
                ) from error
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                print(
                    f"warning: the file system of {out} has no locks ({error.strerror}): nothing "
                    "keeps a second run out of it",
                    file=sys.stderr,
                )
            if _is_there(file, path):
                stack.pop_all()
                return file


def _is_there(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
