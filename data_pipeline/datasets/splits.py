"""Who is for training and who for judging: by identity, or as others published it, by name."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal, Protocol

from data_pipeline.clips import VideoJob
from data_pipeline.errors import InputError


class Named(Protocol):
    """A job, or a clip that was made of one: those have "#000" and so on after the job's name."""

    clip: str
    identity: str


Split = Callable[[Named], str]  # "train" or "test"; "" if the split leaves it out


def by_identity(test_identities: Collection[str] | None = None) -> Split:
    """Splits by identity: those named are for judging; without names, about 10 %."""
    if test_identities is None:
        return lambda source: by_hash(source.identity)
    named = set(test_identities)
    return lambda source: "test" if source.identity in named else "train"


def read_identities(path: str | os.PathLike) -> list[str]:
    """The names in a file, one a line, sorted.

    Raises:
        InputError: it cannot be read, or there is none in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: write the names as that.") from error
    names = {name for line in text.splitlines() if (name := line.strip())}
    if not names:
        raise InputError(f"{path} names nobody: write a name a line.")
    return sorted(names)


def by_hash(name: str) -> str:
    """ "test" for about a tenth of all names, the same ones everywhere and ever."""
    return "test" if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0 else "train"


@functools.cache
def published(data_set: Literal["hdtf", "mead"], name: str) -> dict[str, str]:
    """The split of every name in a list that was published with a paper."""
    lists = json.loads(Path(__file__).with_name("splits.json").read_text())[data_set][name]
    return {member: split for split, members in lists.items() for member in members}


def leave_out(jobs: Sequence[VideoJob], split: Split, name: str) -> list[VideoJob]:
    """The jobs, of which those that a split leaves out are refused."""
    reason = f"not in the split {name}: --split identity takes it"
    return [
        job if job.refused or split(job) else dataclasses.replace(job, refused=reason)
        for job in jobs
    ]
