"""What the commands have in common: numbers that are checked, and sentences for what goes wrong."""

import argparse
import math
import os
import sys
from collections.abc import Callable

from data_pipeline.errors import InputError

EXIT_USAGE, EXIT_SIGINT = 2, 130


def usable_cores() -> int:
    """Cores that this process may run on: of a batch system's large machine perhaps few."""
    return len(os.sched_getaffinity(0))


def exit_code(work: Callable[[], int], interrupted: str = "") -> int:
    """Does a command's work and returns its exit code.

    InputError gives 2 with its sentence, and Ctrl-C 130 with what `interrupted` says to it.
    """
    try:
        return work()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        if interrupted:
            print(f"interrupted: {interrupted}", file=sys.stderr)
        return EXIT_SIGINT


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
