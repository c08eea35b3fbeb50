"""What a data set is prepared with: out/settings.json, which says what it can be gone on with."""

import json
import os
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.files import write_whole

FILE = "settings.json"
TEST_IDENTITIES = "test_identities"  # names; may change, as no video has to be read anew for that


def read_settings(dir: str | os.PathLike) -> dict[str, Any]:
    """The settings of a data set; none if it has not been begun.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(dir) / FILE
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged: delete it, and prepare again with the settings it was made with."
        ) from error


def write_settings(dir: str | os.PathLike, settings: dict[str, Any]) -> None:
    """Keeps the settings; the file is replaced as a whole, and only if it says something else."""
    path = Path(dir) / FILE
    text = json.dumps(settings, indent=1, sort_keys=True)
    if not path.exists() or path.read_text() != text:
        write_whole(path, lambda file: file.write(text.encode()))


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the settings for which clips of the one do not go with clips of the other."""
    names = sorted((one.keys() | other.keys()) - {TEST_IDENTITIES})
    return [name for name in names if one.get(name) != other.get(name)]
