"""What to expect of a preparation before it runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from data_pipeline.audio import FPS, SAMPLE_RATE
from data_pipeline.clips import MAX_FRAMES, VideoJob
from data_pipeline.datasets.raw import missing_videos
from data_pipeline.errors import InputError

# Measured on one core of a server: the landmarks of a frame, and decoding it twice. Of a frame
# without a face it is up to twice the former.
SECONDS_PER_FRAME = 0.017
SECONDS_PER_PIXEL = 29e-9
BYTES_PER_PIXEL = 0.3  # of faces as JPEG of quality 95, without chroma subsampling
BYTES_PER_FRAME = 2 * SAMPLE_RATE / FPS + 68 * 2 * 4  # sound and landmarks
MAX_PROBED = 200  # files whose length is read, evenly spread


def estimate(pending: Sequence[VideoJob], done: int, size: int, workers: int) -> str:
    """How many clips, hours, gigabytes and minutes; a few lines for a person.

    Args:
        pending: the jobs that are still to be run.
        done: how many others there are.
        size: side of the crops in pixels.
        workers: processes.
    """
    refused = sum(bool(job.refused) for job in pending)
    missing = sum(bool(job.missing and not job.refused) for job in pending)
    ready = [job for job in pending if not job.refused and not job.missing]
    extents = _extents(ready)
    seconds = float(extents.sources @ extents.seconds)
    clips = float(extents.sources @ np.ceil(extents.seconds * FPS / MAX_FRAMES))
    frames = seconds * FPS
    gigabytes = frames * (size**2 * BYTES_PER_PIXEL + BYTES_PER_FRAME) / 1e9
    per_frame = SECONDS_PER_FRAME + SECONDS_PER_PIXEL * extents.pixels
    minutes = FPS * float(extents.sources * extents.seconds @ per_frame) / workers / 60
    lines = [
        f"sources: {len(ready)} to prepare, {done} done, {refused} refused beforehand, "
        f"{missing} missing",
        f"video:   {seconds / 3600:.2f} hours, about {clips:.0f} clips, if none is refused",
        f"disk:    {gigabytes:.2f} gigabytes, twice that while the records are written",
        f"time:    about {max(minutes, 1):.0f} minutes with {workers} processes",
    ]
    if wanted := missing_videos(pending):
        lines.append(f"fetch:   {len(wanted)} videos, by the missing.sh that a run writes")
    return "\n".join(lines)


class _Extents(NamedTuple):
    """Of some sources, each of which stands for a number of them."""

    seconds: Float64[np.ndarray, " n"]
    pixels: Float64[np.ndarray, " n"]  # of a frame
    sources: Float64[np.ndarray, " n"]


def _extents(jobs: Sequence[VideoJob]) -> _Extents:
    """Those whose files must be opened are a sample."""
    known = [job.extent() for job in jobs if job.end is not None]
    unknown = [job for job in jobs if job.end is None]
    picked = np.linspace(0, len(unknown) - 1, min(len(unknown), MAX_PROBED)).round().astype(int)
    probed = [_probe(unknown[index]) for index in picked]
    share = len(unknown) / max(len(probed), 1)
    rows = [(*extent, 1) for extent in known] + [(*extent, share) for extent in probed]
    return _Extents(*np.array(rows, np.float64).reshape(-1, 3).T)


def _probe(job: VideoJob) -> tuple[float, float]:
    try:
        return job.extent()
    except InputError:
        return 0.0, 0.0  # It will be refused.
