"""What to expect of a preparation before it runs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from data_pipeline.audio import FPS, SAMPLE_RATE
from data_pipeline.clips import VideoJob
from data_pipeline.datasets.raw import missing_videos
from data_pipeline.errors import InputError

# Measured on one core of a server: the landmarks of a frame, and decoding it twice.
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
    seconds, pixels = _extents(ready)
    frames = sum(seconds) * FPS
    gigabytes = frames * (size**2 * BYTES_PER_PIXEL + BYTES_PER_FRAME) / 1e9
    work = FPS * float(np.dot(seconds, SECONDS_PER_FRAME + SECONDS_PER_PIXEL * pixels))
    lines = [
        f"sources: {len(ready)} to prepare, {done} done, {refused} refused beforehand, "
        f"{missing} missing",
        f"video:   {sum(seconds) / 3600:.2f} hours, if none is refused",
        f"disk:    {gigabytes:.2f} gigabytes, twice that while the records are written",
        f"time:    about {work / workers / 60:.0f} minutes with {workers} processes",
    ]
    if wanted := missing_videos(pending):
        lines.append(f"fetch:   {len(wanted)} videos, by the missing.sh that a run writes")
    return "\n".join(lines)


def _extents(
    jobs: Sequence[VideoJob],
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Seconds and pixels of a frame of each job; a sample for those whose files must be opened."""
    known = [job.extent() for job in jobs if job.end is not None]
    unknown = [job for job in jobs if job.end is None]
    picked = np.linspace(0, len(unknown) - 1, min(len(unknown), MAX_PROBED)).round().astype(int)
    probed = [_probe(unknown[index]) for index in picked]
    share = len(unknown) / max(len(probed), 1)
    rows = known + [(seconds * share, pixels) for seconds, pixels in probed]
    seconds, pixels = np.array(rows, np.float64).reshape(-1, 2).T
    return seconds, pixels


def _probe(job: VideoJob) -> tuple[float, float]:
    try:
        return job.extent()
    except InputError:
        return 0.0, 0.0  # It will be refused.
