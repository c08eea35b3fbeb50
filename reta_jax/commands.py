"""How the commands start, and how they fail.

XLA keeps its programs and its memory; what the user can put right is one sentence on stderr and
exit code 2, what may pass by itself one and exit code 74, training that diverged one and 70.
"""

import contextlib
import ctypes
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from logging import LogRecord
from typing import Any, NoReturn

from absl import app, flags, logging

from data_pipeline.commands import EXIT_TRANSIENT, terminable
from data_pipeline.errors import InputError, TransientError
from data_pipeline.files import cache_folder

EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 70  # EX_SOFTWARE: the same command would diverge again
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
# Else the cache's own path is a part of its keys, and a folder that was moved is never found again.
PORTABLE_CACHE = {"jax_persistent_cache_enable_xla_caches": "none"}
# Of malloc.h: M_ARENA_MAX (no arenas of threads, which hold little), M_MMAP_MAX, M_TRIM_THRESHOLD.
KEEP_FREED_MEMORY = ((-8, 1), (-4, 0), (-1, 2**31 - 1))
EXIT_SIGINT = 130  # what shells say of a command that SIGINT ended


class DivergenceError(RuntimeError):
    """A loss is no longer a number."""


def set_up_xla() -> None:
    """Compiled programs and freed memory are kept, for the next start and for the next call."""
    _keep_compiled_programs()
    keep_freed_memory()


def _keep_compiled_programs() -> None:
    """In the user's cache, so that the next start is quick; JAX's own variable goes before."""
    import jax  # Not above: importing published weights needs none of it.

    for name, value in PORTABLE_CACHE.items():
        jax.config.update(name, value)
    if CACHE_VARIABLE not in os.environ:
        with contextlib.suppress(InputError):  # Without one every start compiles.
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))


def keep_freed_memory() -> None:
    """This process keeps what it frees.

    XLA's CPU programs ask for all their memory at every call. glibc gives large buffers back to the
    kernel, which clears their pages before it lends them again: a fifth of a frame's time
    (docs/decisions.md). Does nothing where the C library has no `mallopt`.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in KEEP_FREED_MEMORY:
            libc.mallopt(option, value)


def check_device() -> None:
    """Raises InputError where the device that JAX is asked to run on is not there."""
    import jax  # as above

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX lacks its plugin
        raise InputError(
            f"there is no {jax.config.jax_platforms} device here, or no JAX for it: choose another "
            "(JAX_PLATFORMS=cpu)"
        ) from error


@contextlib.contextmanager
def sentences_for_errors(is_terminable: bool = True) -> Iterator[None]:
    """Turns what a user can put right into one line and an exit code.

    InputError gives 2, TransientError and a full disk 74, DivergenceError 70. Without a line Ctrl-C
    gives 130 and, if it `is_terminable`, SIGTERM 143 and SIGHUP 129: so none of them leaves
    anything half written.
    """
    try:
        with terminable(_leave_by_signal) if is_terminable else contextlib.nullcontext():
            yield
    except KeyboardInterrupt:
        sys.exit(EXIT_SIGINT)
    except TransientError as error:
        _leave(str(error), EXIT_TRANSIENT)
    except InputError as error:
        _leave(str(error))
    except DivergenceError as error:
        _leave(str(error), EXIT_DIVERGED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sentence = f"the disk is full: cannot write {error.filename or 'the output'}"
        _leave(sentence, EXIT_TRANSIENT)


def run_with_flags(main: Callable[[list[str]], None]) -> None:
    """absl's app.run, with wrong flags and config fields refused by a sentence too.

    SIGTERM ends what is between training's own handlers at once, even in a wait for other hosts.
    """
    logging.set_verbosity(logging.WARNING)  # Orbax and TFDS tell much at the level of information
    logging.get_absl_logger().addFilter(_is_told_once)

    def guarded(argv: list[str]) -> None:
        with sentences_for_errors(is_terminable=False):
            main(argv)

    app.run(guarded, flags_parser=_parse_flags)


def _is_told_once(record: LogRecord) -> bool:
    """False for what Orbax's threads raise: it is raised again where they are waited for."""
    return "_SignalingThread.run()" not in str(record.msg)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:  # a file that cannot be loaded says so when it is first used
            getattr(flags.FLAGS["config"].value, "name", None)
        return rest
    except SystemExit:  # of --help, which absl ends as a failure
        sys.exit(0)
    except (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        _leave(_wrong_field(error, argv) or _wrong_file(str(error)) or _wrong_flag(str(error)))


def _wrong_field(error: Exception, argv: list[str]) -> str | None:
    """Of a field that is not there ml_collections tells the last part alone, as a repr of one."""
    found = re.match(r"\W*(\w+)\W+nDid you mean \"(\w+)\"", str(error))
    missing = found[1] if found else str(error).strip("\"'\\")
    path = re.compile(rf"--?(config\.(?:\w+\.)*?{re.escape(missing)})[.=\[]")
    field = next(filter(None, map(path.match, argv)), None)
    if field is None or not isinstance(error, AttributeError | KeyError):
        return None
    return f"there is no field {field[1]}" + (f": did you mean {found[2]!r}?" if found else "")


def _wrong_file(told: str) -> str | None:
    """Of a config file that cannot be read ml_collections tells all the ways that it tried."""
    _, mark, reason = told.partition("an earlier failure to load: ")
    return f"cannot load --config: {reason.rpartition('] ')[2]}" if mark else None


def _wrong_flag(told: str) -> str:
    """Of a config file that fails ml_collections tells the whole traceback: what, is its end."""
    flag, mark, trace = told.partition("Error whilst parsing config file:")
    return flag + trace.rstrip().splitlines()[-1].removeprefix("ValueError: ") if mark else told


def _leave_by_signal(number: int, _: Any) -> NoReturn:
    sys.exit(128 + number)  # what shells say of it


def _leave(sentence: str, code: int = EXIT_BAD_INPUT) -> None:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(code)
