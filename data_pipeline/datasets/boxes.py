"""Ready-made boxes: where the face of each clip is, said by somebody else's detector."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from data_pipeline.clips import VideoJob
from data_pipeline.errors import InputError
from data_pipeline.tables import read_table

_COLUMNS = ("x", "y", "side")


def in_boxes(jobs: Sequence[VideoJob], path: str | os.PathLike) -> list[VideoJob]:
    """The jobs, each with its box; those without one are refused.

    Args:
        jobs: the sources.
        path: CSV with columns `clip` (the source's name in the manifest, of a long video without
            "@" and minutes), `x`, `y` (the centre) and `side`, in pixels of the upright video.

    Raises:
        InputError: the file cannot be read as that.
    """
    boxes = _read_boxes(path)
    return [
        dataclasses.replace(job, box=boxes[name])
        if (name := job.clip.partition("@")[0]) in boxes
        else dataclasses.replace(job, refused=job.refused or f"no box for it in {path}")
        for job in jobs
    ]


def _read_boxes(path: str | os.PathLike) -> dict[str, tuple[float, float, float]]:
    lines = read_table(path, [("clip",), *((column,) for column in _COLUMNS)])
    try:
        return {line["clip"]: _box(line) for line in lines}
    except ValueError as error:
        raise InputError(
            f"{path} has not its columns clip, x, y, side in pixels: see {error}"
        ) from error


def _box(line: dict[str, str]) -> tuple[float, float, float]:
    x, y, side = (float(line[column]) for column in _COLUMNS)
    if not (np.isfinite((x, y)).all() and 0 < side < np.inf):
        raise ValueError(f"the box of {line['clip']}")
    return x, y, side
