"""How the commands fail: one sentence on stderr and exit code 2 for what the user can put right."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags, logging

from data_pipeline.errors import InputError

EXIT_BAD_INPUT = 2
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
EXIT_SIGINT = 130  # what shells say of a command that SIGINT ended


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache, so that the next start is quick.

    JAX's own variable decides where, if it is set.
    """
    import jax  # Not above: importing published weights needs none of it.

    if CACHE_VARIABLE not in os.environ:
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(folder / "reta_jax" / "xla"))


@contextlib.contextmanager
def sentences_for_errors() -> Iterator[None]:
    """Turns InputError and a full disk into one line and exit code 2, Ctrl-C into code 130."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(EXIT_SIGINT)
    except InputError as error:
        _leave(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _leave(f"the disk is full: cannot write {error.filename or 'the output'}")


def run_with_flags(main: Callable[[list[str]], None]) -> None:
    """absl's app.run, with wrong flags and config fields refused by a sentence too."""

    logging.set_verbosity(logging.WARNING)  # Orbax and TFDS tell much at the level of information

    def guarded(argv: list[str]) -> None:
        with sentences_for_errors():
            main(argv)

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:  # a file that cannot be loaded says so when it is first used
            getattr(flags.FLAGS["config"].value, "name", None)
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        _leave(str(error))


def _leave(sentence: str) -> None:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)
