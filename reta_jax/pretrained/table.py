"""From a published checkpoint's tensors to Flax parameters, by an explicit table.

A table maps every old key to its new path, its shape as published, and the transform that its
layout needs. Keys and shapes are matched exactly; whatever does not fit is reported in one error,
never silently left random. NumPy alone is needed, and the numbers stay in the mapped file.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.errors import InputError
from reta_jax.weights import nest

Transform = Callable[[np.ndarray], np.ndarray]
Params = dict[str, Any]


def same(weight: np.ndarray) -> np.ndarray:
    return weight


def conv(weight: np.ndarray) -> np.ndarray:
    """(O, I, *window) to (*window, I, O), for any number of window axes; grouped ones included."""
    return np.moveaxis(weight, (0, 1), (-1, -2))


def linear(weight: np.ndarray) -> np.ndarray:
    """(O, I) to (I, O)."""
    return weight.T


def vector(weight: np.ndarray) -> np.ndarray:
    """(1, C, 1, 1) to (C,)."""
    return weight.reshape(-1)


class Entry(NamedTuple):
    path: str  # "block_1/conv2/kernel"
    shape: tuple[int, ...]  # as published
    transform: Transform = same


Table = Mapping[str, Entry]


def apply_table(
    state: Mapping[str, np.ndarray], table: Table, ignore: Iterable[str] = ()
) -> Params:
    """The nested parameter dict that `table` makes of `state`.

    Leaves are views of the state's arrays wherever the transform allows, and keep their type.

    ignore: regular expressions; a key of `state` that is not in the table must match one in full.

    Raises MisfitError (an InputError) with all missing, unexpected and mis-shaped keys at once.
    """
    ignored = re.compile("|".join(f"(?:{pattern})" for pattern in ignore) or r"(?!)")
    missing = [key for key in table if key not in state]
    unexpected = [key for key in state if key not in table and not ignored.fullmatch(key)]
    wrong = [
        f"{key} is {state[key].shape}, expected {entry.shape}"
        for key, entry in table.items()
        if key in state and state[key].shape != entry.shape
    ]
    if missing or unexpected or wrong:
        raise MisfitError(missing, unexpected, wrong)
    return nest({path: transform(state[key]) for key, (path, _, transform) in table.items()})


class MisfitError(InputError):
    """A checkpoint is not what its table expects; holds every key concerned, shows the first."""

    def __init__(self, missing: list[str], unexpected: list[str], wrong: list[str]):
        self.missing, self.unexpected, self.wrong = missing, unexpected, wrong
        named = {"missing": missing, "unexpected": unexpected, "mis-shaped": wrong}
        parts = [f"{len(keys)} {what}: {first_of(keys)}" for what, keys in named.items() if keys]
        super().__init__("this checkpoint does not fit the network: " + "; ".join(parts))


def first_of(keys: list[str], shown: int = 5) -> str:
    rest = len(keys) - shown
    return ", ".join(keys[:shown]) + (f" and {rest} more" if rest > 0 else "")
