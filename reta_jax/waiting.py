"""What a user waits for: a live talk's frames, and the first frame of a process that starts."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from data_pipeline.audio import FPS, SAMPLES_PER_FRAME
from data_pipeline.errors import InputError
from reta_jax.commands import CACHE_VARIABLE
from reta_jax.export import COMPILED, export, keep_compiled
from reta_jax.renderer import Renderer
from reta_jax.stream import ServedStream, StreamServer
from reta_jax.windows import ChunkRenderer


def measure_live(renderer: ChunkRenderer, streams: int, minutes: float) -> dict[str, Any]:
    """Talks without an end on one `StreamServer`, pushed frame by frame as fast as they go through.

    Returns:
      {"minutes": of each talk, "streams", "needed_milliseconds": of sound until the first frames
       come, "milliseconds": from a chunk's last sample to every talk's frames, as `time_calls`
       gives them, "real_time_streams": how many this rate is enough for,
       "resident_megabytes": of the process, [at a tenth of the talks, at their end],
       "device_megabytes": the same of the device, None where it does not say}
    """
    random = np.random.default_rng(0)
    portrait = random.integers(0, 256, (renderer.size, renderer.size, 3), np.uint8)
    server, count = StreamServer(renderer, streams), round(60 * FPS * minutes)
    talks = [server.open(portrait) for _ in range(streams)]
    times, frames, needed, resident, held = [], 0, None, [], []
    for pushed in range(1, count + 1):
        for talk in talks:
            talk.push_audio(0.1 * random.standard_normal(SAMPLES_PER_FRAME).astype(np.float32))
        start = time.perf_counter()
        if came := _play(server, talks):
            times.append(1e3 * (time.perf_counter() - start))
            frames, needed = frames + came, needed or 1e3 * pushed / FPS
        if pushed in (count // 10, count):
            resident.append(_resident_megabytes())
            held.append(device_megabytes("bytes_in_use"))
    for talk in talks:
        talk.flush()
    frames += _play(server, talks)
    if frames != streams * count:
        raise RuntimeError(f"{frames} frames of {streams * count}")
    waits = [float(x) for x in np.percentile(times, [50, 95, 99])]
    return {
        "minutes": minutes,
        "streams": streams,
        "needed_milliseconds": needed,
        "milliseconds": waits,
        "real_time_streams": 1e3 / FPS * renderer.window.chunk * streams / waits[0],
        "resident_megabytes": resident,
        "device_megabytes": held,
    }


def _play(server: StreamServer, talks: Sequence[ServedStream]) -> int:
    """Renders what can be said by now; returns of how many frames."""
    frames = 0
    while server.step():
        for talk in talks:
            frames += sum(1 for _ in iter(talk.next_frame, None))
    return frames


def _resident_megabytes() -> float:
    """Of the process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return 1e-6 * pages * resource.getpagesize()


def device_megabytes(what: str) -> float | None:
    """A figure of the first device's allocator; None where it keeps none, as on CPUs."""
    figures = jax.devices()[0].memory_stats() or {}
    return 1e-6 * figures[what] if what in figures else None


FIRST_FRAME = """
import sys, numpy as np
from reta_jax.commands import set_up_xla
set_up_xla()
from reta_jax.exported import ExportedRenderer
renderer = ExportedRenderer.load(sys.argv[1])
portrait = np.zeros((renderer.size, renderer.size, 3), np.uint8)
next(renderer.stream(portrait, np.ones(640, np.float32)))
"""


def cold_starts(renderer: Renderer, repeats: int) -> dict[str, float]:
    """Seconds from the start of a process to the first frame of the exported model.

    Returns:
      {"compiling": the first start, "cached": with the programs in JAX's cache on the disk,
       "compiled before": the first one with what `export --compile` keeps}, the last two medians

    Raises:
      InputError: on a TPU, which a second process cannot open.
    """
    platform = jax_export.default_export_platform()
    if platform == "tpu":
        raise InputError("--cold-start starts processes, and a TPU is this one's: leave it out")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        export(renderer, folder, platforms=[platform])

        def start(cache: Path) -> float:
            # This process holds most of a GPU's memory.
            environment = {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
            begin = time.perf_counter()
            command = [sys.executable, "-c", FIRST_FRAME, str(folder)]
            subprocess.run(
                command, env=os.environ | environment | {CACHE_VARIABLE: str(cache)}, check=True
            )
            return time.perf_counter() - begin

        def median(cache: Path) -> float:
            return float(np.median([start(cache) for _ in range(repeats)]))

        cache = Path(scratch, "cache")
        found = {"compiling": start(cache), "cached": median(cache)}
        keep_compiled(folder)
        return found | {"compiled before": median(folder / COMPILED)}
