"""A data set that is prepared in N shards by an array job, each as a data set of its own.

    out/shards/I-of-N/{records, manifest.parquet, settings.json}    I = 0 .. N - 1

`python -m data_pipeline.merge out` makes one of them.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

_FOLDER = "shards"


class Shard(NamedTuple):
    """One of `count` shards; the first is 0, as batch systems count their tasks."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def take(self, jobs: Sequence[T]) -> list[T]:
        """Every `count`-th job."""
        return list(jobs[self.index :: self.count])

    def dir(self, out: Path) -> Path:
        """Where the shard of the data set `out` is."""
        return out / _FOLDER / f"{self.index}-of-{self.count}"


def parse_shard(text: str) -> Shard:
    """Reads "I/N"; for argparse."""
    matched = re.fullmatch(r"(\d+)/(\d+)", text)
    shard = Shard(*map(int, matched.groups())) if matched else Shard(0, 0)
    if shard.index >= shard.count:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not I/N with I from 0 to N - 1, for example 3/100"
        )
    return shard


def find_shards(out: Path) -> list[Shard]:
    """The shards that have been begun, in order."""
    named = (re.fullmatch(r"(\d+)-of-(\d+)", path.name) for path in out.glob(f"{_FOLDER}/*"))
    return sorted(Shard(*map(int, match.groups())) for match in named if match)
