"""What a run tells of itself while it works: rates, slow hosts, memory, heartbeats and traces."""

import contextlib
import json
import math
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from data_pipeline.errors import InputError

BEAT_SECONDS = 5.0  # between two heartbeats, at least
# A process is slow whose own time exceeds so many times the others' median by so much of a step.
SLOW_FACTOR, SLOW_SHARE = 2.0, 0.1
# What the names of a lap's rates begin with.
RATES = (
    *("clips_per_second", "step_seconds", "data_wait_share", "eta_minutes", "device_peak_gb"),
    *("own_seconds/", "data_seconds/"),
)


def tell(sentence: str, stream: TextIO | None = None) -> None:
    """Prints a line, on stdout by default. Where nobody is left to read, that must not end a run.

    A terminal's Ctrl-C ends `tee` too, and a connection that drops takes the terminal away.
    """
    stream = stream or sys.stdout
    try:
        print(sentence, file=stream, flush=True)
    except OSError:
        with open(os.devnull, "w") as nothing:  # else what is held fails again at the exit
            os.dup2(nothing.fileno(), stream.fileno())


class Progress:
    """Measures the rate and where this process's time goes.

    All processes take equally long for a step, for they wait for each other in it. What tells the
    one that holds up the others is its own time: for data and for work of its own, without the time
    that it waits for devices, for other processes and for pictures.
    """

    def __init__(self, steps: int, batch_size: int, hosts: "Hosts"):
        self._steps, self._batch_size, self._hosts = steps, batch_size, hosts
        self._last_step: int | None = None
        self._last_time = time.monotonic()
        self._waited: Counter[str] = Counter()

    @contextlib.contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """The time inside is spent waiting for "data", "devices", "processes" or "pictures"."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._waited[what] += time.monotonic() - start

    def lap(self, step: int) -> dict[str, float]:
        """Rates since the last lap; the first lap holds the compilation and has none.

        On several hosts every process has to call it at the same step.
        """
        now = time.monotonic()
        elapsed, waited = now - self._last_time, self._waited
        rates: dict[str, float] = {}
        ours = {"device_peak_gb": device_peak()}
        if self._last_step is not None and step > self._last_step:
            count = step - self._last_step
            own = elapsed - waited.total() + waited["data"]
            rates = {
                "clips_per_second": count / elapsed * self._batch_size,
                "step_seconds": elapsed / count,
                "data_wait_share": min(waited["data"] / elapsed, 1.0),
                "eta_minutes": (self._steps - step) * elapsed / count / 60,
            }
            ours |= {"own_seconds": own / count, "data_seconds": waited["data"] / count}
        self._last_step, self._last_time, self._waited = step, now, Counter()
        rates |= self._hosts.gather(ours)
        peaks = of_processes(rates, "device_peak_gb") or {0: ours["device_peak_gb"]}
        most = max(peaks.values())
        return rates if math.isnan(most) else rates | {"device_peak_gb": most}

    def show(self, step: int, losses: str, rates: dict[str, float]) -> None:
        """The line of a step, on process 0."""
        if jax.process_index() != 0:
            return
        line = f"step {step}/{self._steps} | {losses}"
        if "clips_per_second" in rates:
            line += (
                f" | {rates['clips_per_second']:.1f} clips/s, data wait "
                f"{100 * rates['data_wait_share']:.0f} %, ETA {rates['eta_minutes']:.1f} min"
            )
        if "device_peak_gb" in rates:
            line += f" | {rates['device_peak_gb']:.1f} GB{self._hosts.fullest(rates)}"
        tell(line + self._hosts.warning(rates))


class Hosts:
    """Compares the processes of a job; a job of one has nothing to compare."""

    def __init__(self, heartbeats: Path):
        self._heartbeats = heartbeats

    def gather(self, ours: dict[str, float]) -> dict[str, float]:
        """Figures of every process i as "name/i", without those that are nan.

        Every process has to call it with the same names.
        """
        if jax.process_count() == 1:
            return {}
        figures = multihost_utils.process_allgather(np.float32([*ours.values()]))
        return {
            f"{name}/{i}": float(value)
            for i, row in enumerate(figures)
            for name, value in zip(ours, row, strict=True)
            if not math.isnan(value)
        }

    def fullest(self, rates: dict[str, float]) -> str:
        """Names the process whose device has held the most, where there are several."""
        peaks = of_processes(rates, "device_peak_gb")
        if not peaks:
            return ""
        process = max(peaks, key=peaks.__getitem__)
        return f" on process {process} ({self._name(process)})"

    def warning(self, rates: dict[str, float]) -> str:
        """Names the slowest process, if it is much slower than the others."""
        own = np.array([*of_processes(rates, "own_seconds").values()])
        slow = slowest(own, rates["step_seconds"]) if len(own) else None
        if slow is None:
            return ""
        data, others = rates[f"data_seconds/{slow}"], others_median(own, slow)
        return (
            f" | process {slow} ({self._name(slow)}) is slow: {own[slow]:.2f} s a step of its own, "
            f"{data:.2f} of it for data; others {others:.2f}"
        )

    def _name(self, process: int) -> str:
        try:
            return json.loads((self._heartbeats / f"{process}.json").read_text())["host"]
        except (OSError, ValueError, KeyError):
            return "unknown host"


def of_processes(rates: dict[str, float], name: str) -> dict[int, float]:
    """A figure by the process; empty where there is one process, or none that can say."""
    places = (key.partition("/") for key in rates)
    return {int(i): rates[f"{name}/{i}"] for found, _, i in places if found == name and i}


def slowest(own_seconds: Float[np.ndarray, " processes"], step_seconds: float) -> int | None:
    """The process that holds up the others, or None.

    A slow accelerator is none: all processes wait for it alike.
    """
    slow = int(own_seconds.argmax())
    if len(own_seconds) < 2:
        return None
    excess = own_seconds[slow] - SLOW_FACTOR * others_median(own_seconds, slow)
    return slow if excess > SLOW_SHARE * step_seconds else None


def others_median(own_seconds: Float[np.ndarray, " processes"], process: int) -> float:
    return float(np.median(np.delete(own_seconds, process)))


def device_peak() -> float:
    """The most that any device of this process has held, GB; nan where devices cannot say."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [found["peak_bytes_in_use"] for found in stats if "peak_bytes_in_use" in found]
    return max(peaks) / 1e9 if peaks else math.nan


class Heartbeat:
    """workdir/heartbeat/PROCESS.json: when this process last finished a step, and which.

    The training loop itself writes it, so a loop that hangs falls silent.
    """

    def __init__(self, folder: Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{jax.process_index()}.json"
        self._next, self._step = 0.0, step

    def __enter__(self) -> "Heartbeat":
        self._write("compiling")
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self._write("left" if kind is None else f"failed: {kind.__name__}")

    def beat(self, step: int) -> None:
        """Writes the file, unless it was just written."""
        self._step = step
        if time.monotonic() >= self._next:
            self._write("training")

    def _write(self, state: str) -> None:
        self._next = time.monotonic() + BEAT_SECONDS
        facts = {"time": time.time(), "step": self._step, "state": state}
        facts |= {"host": socket.gethostname(), "pid": os.getpid()}
        scratch = self._path.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # a sign of life is not worth a run
            scratch.write_text(json.dumps(facts) + "\n")
            os.replace(scratch, self._path)


class Profile:
    """A trace of some steps in workdir/profile/PROCESS, for TensorBoard or Perfetto."""

    def __init__(self, folder: Path, steps: range | None):
        self._folder = folder / str(jax.process_index())
        self._steps = steps or range(0)
        self._is_on = False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()

    def begin(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Marks what is computed inside as this step. The trace begins with the first of them."""
        if step in self._steps and not self._is_on:
            jax.profiler.start_trace(self._folder)
            self._is_on = True
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def end(self, step: int, results: Any) -> None:
        """The trace ends when the devices are through with the last of them."""
        if self._is_on and step >= self._steps[-1]:
            jax.block_until_ready(results)
            self._stop()

    def _stop(self) -> None:
        if self._is_on:
            self._is_on = False
            jax.profiler.stop_trace()
            if jax.process_index() == 0:
                tell(f"trace of steps {self._steps[0]}:{self._steps[-1]}: {self._folder}")


def parse_steps(text: str | None) -> range | None:
    """First and last step, as in "10:15"; None of None."""
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise InputError(
            f"--profile_steps is {text!r}: give the first and the last step, as in 10:15"
        )
    return range(int(first), int(last) + 1)
