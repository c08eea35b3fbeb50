"""What the commands have in common: checked numbers, sentences for what goes wrong, signals."""

import argparse
import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from data_pipeline.errors import InputError, TransientError

EXIT_USAGE, EXIT_SIGINT = 2, 130
EXIT_TRANSIENT = 74  # EX_IOERR. Not 75, which says that all is saved, and may be tried for ever.


def usable_cores() -> int:
    """Cores that this process may run on: of a batch system's large machine perhaps few."""
    return len(os.sched_getaffinity(0))


def exit_code(work: Callable[[], int], interrupted: str = "") -> int:
    """Does a command's work and returns its exit code.

    InputError gives 2 with its sentence, TransientError 74, and Ctrl-C 130 with what `interrupted`
    says to it.
    """
    try:
        return work()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_TRANSIENT if isinstance(error, TransientError) else EXIT_USAGE
    except KeyboardInterrupt:
        if interrupted:
            print(f"interrupted: {interrupted}", file=sys.stderr)
        return EXIT_SIGINT


@contextlib.contextmanager
def terminable(end: Callable[[int, Any], Any] = signal.default_int_handler) -> Iterator[None]:
    """Inside, a batch system's SIGTERM and a lost terminal's SIGHUP raise, by default as Ctrl-C.

    Each does once, for a terminal and its shell both send SIGHUP. What is ignored, as nohup has it,
    or handled already stays so; and only the main thread hears signals.
    """

    def end_once(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        end(number, frame)

    is_main = threading.current_thread() is threading.main_thread()
    both = (signal.SIGTERM, signal.SIGHUP)
    free = [number for number in both if is_main and signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in free:
            signal.signal(number, end_once)
        yield
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


def at_least_1(text: str) -> int:
    """Reads a number from 1 on; for argparse."""
    return _whole(text, 1)


def at_least_0(text: str) -> int:
    """Reads a number from 0 on; for argparse."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} on")
    return int(text)


def above_0(text: str) -> float:
    """Reads a number above 0, of seconds or the like; for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
