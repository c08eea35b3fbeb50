"""Judged clips on disk, so that a second look at the same thing costs nothing."""

import collections
import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from data_pipeline.emotions import EMOTIONS
from data_pipeline.records import list_clips, open_records
from reta_jax.files import make_folder, write_whole
from reta_jax.metrics.statistics import Figures
from reta_jax.weights import flatten

Entry = TypeVar("Entry")  # a named tuple
VERSION = 9  # of how figures come about: raised when that changes


class Judged(NamedTuple):
    """What is kept of a clip."""

    clip: str
    identity: str
    emotion: str  # empty if unknown
    rows: dict[str, Figures]
    features: dict[str, Float[np.ndarray, "n d"]]  # for the FID, by row; empty without it
    person: Float[np.ndarray, " d"]  # mean identity vector of the truth; empty without a judge
    frames: int = 0
    seconds: float = 0.0  # that rendering took
    latency: float = 0.0  # seconds to the first frames
    remarks: list[str] = []  # what could not be judged, or not as it was
    memory: int = 0  # bytes at most in use until then, of rendering and judging


class ClipCache:
    """A folder of what is known of clips, by key; None keeps nothing.

    Entries are named tuples with `features`, a dict of arrays, an array `person`, and facts that
    JSON can tell.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder
        if folder is not None:
            make_folder(folder)

    def get(self, key: str, kind: type[Entry]) -> Entry | None:
        path = self._folder and self._folder / f"{key}.npz"
        if not path or not path.is_file():
            return None
        try:
            with np.load(path) as file:
                arrays = dict(file)
            facts, person = json.loads(str(arrays.pop("facts"))), arrays.pop("person")
            return kind(**facts, features=arrays, person=person)
        except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
            return None  # cut off or damaged: judged again

    def put(self, key: str, entry: Any) -> None:
        """Kept whole or not at all."""
        if self._folder is None:
            return
        facts = entry._asdict()
        arrays = {"person": facts.pop("person"), **facts.pop("features")}
        file = io.BytesIO()
        np.savez(file, facts=json.dumps(facts), **arrays)
        write_whole(self._folder / f"{key}.npz", file.getvalue())


def digest(*parts: Any) -> str:
    """SHA-256 of texts and bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else str(part).encode())
        found.update(b"\0")
    return found.hexdigest()


def weights_digest(*trees: Mapping[str, Any]) -> str:
    """SHA-256 of all numbers of nested dicts."""
    found = hashlib.sha256()
    for tree in trees:
        for path, leaf in flatten(tree).items():
            found.update(path.encode())
            found.update(np.ascontiguousarray(leaf))
    return found.hexdigest()


def device() -> str:
    """The device that times and memory are of."""
    return jax.devices()[0].device_kind


def clip_digests(data: Path, split: str, count: int | None) -> list[str]:
    """SHA-256 of what judging each of the first clips of a split depends on.

    That is its own record, the neutral ones of its identity (the portrait may be theirs), and the
    one whose voice it borrows.
    """
    rows, records = list_clips(data, split), open_records(data, split)
    record_digest = functools.cache(lambda index: _digest_of(records[index]))
    neutral = collections.defaultdict(list)
    for index, row in enumerate(rows):
        if row["emotion"] == EMOTIONS.index("neutral"):
            neutral[row["identity"]].append(index)
    count = min(len(rows), count or len(rows))
    people = [row["identity"] for row in rows]
    return [
        digest(*map(record_digest, (i, other_voice(i, people), *neutral[people[i]])))
        for i in range(count)
    ]


def other_voice(index: int, people: Sequence[str]) -> int:
    """The clip whose voice clip `index` borrows: the nearest one before it that is another's.

    Where there is but one person, the one before it. The first clip comes after the last.

    Args:
      people: who speaks in each clip; empty where that is not known.
    """
    before = ((index - i) % len(people) for i in range(1, len(people)))
    nearest = (index - 1) % len(people)
    return next((i for i in before if people[i] != people[index]), nearest)


def _digest_of(record: dict[str, Any]) -> str:
    numbers = ("audio", "landmarks", "sync_box", "coefficients", "emotion")
    return digest(
        *record["frames"],
        *(np.asarray(record[name]).tobytes() for name in numbers),
        record["identity"],
        record["clip"],
    )
