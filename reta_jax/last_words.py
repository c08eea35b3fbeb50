"""How a process of several ends when another dies or never comes: a sentence and an exit code.

JAX ends it by an abort, after a page of C++ that does not say what to do. No callback and no
option of JAX can take the place of that. So a small process of its own, this file, reads what is
written to standard error and passes it on, but for that page; and what exits with its verdict is
a handler of SIGABRT. Whatever else is written or aborts goes its usual way.
"""

import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import time

EXIT_BAD_INPUT = 2
EXIT_RUN_AGAIN = 75  # EX_TEMPFAIL: what is saved is good, and the same command goes on from it
_BEGINNING = re.compile(rb"[EWF]\d{4} .*(?:coordination_service|preemption_sync|client\.h:)")
_END = b"Terminating process because the JAX distributed service detected fatal errors"
_SILENT = re.compile(rb"stopped sending heartbeats\):\s*([\d, \n]*\d)")
_LEADER_LOST = b"Failed to send RPC to coordination service"
_NEVER_CAME = b"CoordinationService/RegisterTask"
_PATIENCE = 5.0  # seconds between the beginning and the end of the page
_LAST_PATIENCE = 30.0  # for the reader, which may have to wait for a busy machine

_held: list = []  # what must live as long as the process


def listen() -> None:
    """From here on the death of another process is told in one sentence."""
    reading, writing = os.pipe()
    reader = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__], stdin=reading, start_new_session=True
    )
    os.close(reading)
    original = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p

    def on_abort(number: int) -> None:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)  # all is written: the reader finds the end
        latest = time.monotonic() + _LAST_PATIENCE
        while (code := reader.poll()) is None and time.monotonic() < latest:
            time.sleep(0.05)
        if code:
            os._exit(code)
        os.dup2(original, 2)  # This abort is of another kind.
        if previous:
            handler_type(previous)(number)  # faulthandler's

    handler_type = ctypes.CFUNCTYPE(None, ctypes.c_int)
    handler = handler_type(on_abort)
    previous = libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    _held.extend([reader, handler])


def verdict(page: bytes) -> tuple[int, str]:
    """The exit code for what JAX's page says, and a sentence for a person."""
    if _NEVER_CAME in page:
        return EXIT_BAD_INPUT, (
            "error: the job's processes did not come together in time: see whether each of them "
            "was started and reaches process 0"
        )
    if silent := _SILENT.search(page):
        numbers = re.findall(r"\d+", silent[1].decode())
        who = f"process {', '.join(numbers)} of the job died or cannot be reached"
    elif _LEADER_LOST in page:
        who = "process 0 of the job ended or cannot be reached"
    else:
        who = "another process of the job died or cannot be reached"
    return EXIT_RUN_AGAIN, (
        f"error: {who}: this one stops too; the same command goes on from the last checkpoint"
    )


def pass_on(source: int, target: int) -> int:
    """Copies until the end, but for JAX's page; returns the exit code."""
    held, since = b"", 0.0
    while True:
        wait = None if not held else max(0.0, since + _PATIENCE - time.monotonic())
        ready = select.select([source], [], [], wait)[0]
        new = os.read(source, 1 << 16) if ready else b""
        is_over = bool(ready) and not new
        if new and not held:
            since = time.monotonic()
        held += new
        beginning = _BEGINNING.search(held)
        is_page = beginning is not None and _END in held
        if is_page and is_over:
            code, sentence = verdict(held)
            before = held[: beginning.start()]
            if before and not before.endswith(b"\n"):  # threads write as they like
                before += b"\n"
            _write(target, before + sentence.encode() + b"\n")
            return code
        if is_page:
            since = time.monotonic()  # nothing but the rest of it comes now
        elif beginning is None or is_over or not ready:
            _write(target, held)
            held = b""
        if is_over:
            return 0


def _write(target: int, text: bytes) -> None:
    while text:
        text = text[os.write(target, text) :]


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when nobody writes any more
    sys.exit(pass_on(0, 2))
