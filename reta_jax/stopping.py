"""What asks a training to save and leave, and how it leaves."""

import signal
import sys
from typing import Any

from reta_jax.observe import tell

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: saved, to be run again


def stop_signals() -> list[signal.Signals]:
    """What asks a run to save and leave; not SIGHUP where it is ignored, as nohup has it."""
    is_deaf = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if is_deaf else [signal.SIGHUP])]


class StopRequest:
    """Turns the first of `stop_signals` into a flag; a second one acts at once.

    But for SIGHUP, which a terminal that is lost sends more than once.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._previous = {s: signal.signal(s, self._handle) for s in stop_signals()}
        return self

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _handle(self, number: int, _: Any) -> None:
        self.requested = True
        self._restore()
        tell(f"{signal.Signals(number).name}: saving after this step", sys.stderr)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            is_expected = self.requested and number == signal.SIGHUP
            signal.signal(number, signal.SIG_IGN if is_expected else handler)
