"""Who is for training and who for judging: by identity, or as others published it, by name."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from data_pipeline.clips import VideoJob
from data_pipeline.errors import InputError


class Named(Protocol):
    """A job, or a clip that was made of one: those have "#000" and so on after the job's name."""

    clip: str
    identity: str


Split = Callable[[Named], str]  # "train" or "test"; "" if the split leaves it out


def by_identity(test_identities: str | os.PathLike | None = None) -> Split:
    """Splits by identity: those named in a file, one a line, are for judging; else about 10 %."""
    if test_identities is None:
        return lambda source: by_hash(source.identity)
    try:
        named = set(Path(test_identities).read_text().split("\n"))
    except OSError as error:
        raise InputError(f"{test_identities} cannot be read ({error.strerror}).") from error
    return lambda source: "test" if source.identity in named else "train"


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
