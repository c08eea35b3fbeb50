"""From a published checkpoint's tensors to Flax parameters, by an explicit table.

A table maps every old key to its new path and to the transform that its layout needs. Keys are
matched exactly; whatever does not fit is reported in one error, never silently left random.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
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
    transform: Transform = same


Table = Mapping[str, Entry]


def apply_table(
    state: Mapping[str, np.ndarray],
    table: Table,
    ignore: Iterable[str] = (),
    like: Any = None,
) -> Params:
    """The nested parameter dict (float32) that `table` makes of `state`.

    ignore: regular expressions; a key of `state` that is not in the table must match one in full.
    like: a parameter tree of the expected shapes, as `jax.eval_shape(module.init, ...)["params"]`
      gives it. Every leaf of it must be filled, with its own shape.

    Raises MisfitError (an InputError) with all missing, unexpected and mis-shaped keys at once.
    """
    ignored = re.compile("|".join(f"(?:{pattern})" for pattern in ignore) or r"(?!)")
    missing = [key for key in table if key not in state]
    unexpected = [key for key in state if key not in table and not ignored.fullmatch(key)]
    leaves, wrong = _transform(state, table)
    if like is not None:
        shapes = _shapes(like)
        missing += [f"(nothing for {path})" for path in shapes if path not in _paths(table)]
        for key, entry in table.items():
            if entry.path in leaves and shapes.get(entry.path) != leaves[entry.path].shape:
                expected = shapes.get(entry.path, "no such parameter")
                wrong.append(f"{key}: {entry.path} is {expected}, got {leaves[entry.path].shape}")
    if missing or unexpected or wrong:
        raise MisfitError(missing, unexpected, wrong)
    return nest(leaves)


def _transform(
    state: Mapping[str, np.ndarray], table: Table
) -> tuple[dict[str, np.ndarray], list[str]]:
    leaves, wrong = {}, []
    for key, (path, transform) in table.items():
        if key not in state:
            continue
        weight = np.asarray(state[key])
        try:
            leaves[path] = np.ascontiguousarray(transform(weight), np.float32)
        except ValueError:  # the transform needs another number of axes
            wrong.append(f"{key}: no place for shape {weight.shape}")
    return leaves, wrong


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in flat}


def _paths(table: Table) -> set[str]:
    return {entry.path for entry in table.values()}


class MisfitError(InputError):
    """A checkpoint is not what its table expects; holds every key concerned, shows the first."""

    SHOWN = 5

    def __init__(self, missing: list[str], unexpected: list[str], wrong: list[str]):
        self.missing, self.unexpected, self.wrong = missing, unexpected, wrong
        named = {"missing": missing, "unexpected": unexpected, "mis-shaped": wrong}
        parts = [self._first(what, keys) for what, keys in named.items() if keys]
        super().__init__("this checkpoint does not fit the network: " + "; ".join(parts))

    def _first(self, what: str, keys: list[str]) -> str:
        rest = len(keys) - self.SHOWN
        more = f" and {rest} more" if rest > 0 else ""
        return f"{len(keys)} {what}: {', '.join(keys[: self.SHOWN])}{more}"
