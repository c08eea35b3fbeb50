"""Files that appear whole or not at all."""

import os
from pathlib import Path

from data_pipeline.errors import InputError


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; raises InputError if it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
