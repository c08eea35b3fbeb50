"""Forms of equal results, chosen by the platform that a program is compiled for.

That need not be the one that traces it: programs are lowered for others, and exported.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jaxtyping import Array

NAMES = ("cpu", "cuda", "tpu", "simple")
_asked: contextvars.ContextVar[str | None] = contextvars.ContextVar("asked", default=None)


@contextlib.contextmanager
def forms_of(name: str) -> Iterator[None]:
    """What is traced inside takes the forms of this name, whatever it is compiled for.

    That is "cpu", "cuda" or "tpu", whose forms any machine can compute, or "simple", for converters
    that know no choice. JAX's caches do not know of it, so they are emptied before and after.
    """
    if name not in NAMES:
        raise ValueError(f"forms of {name!r}: they are of {', '.join(NAMES)}")
    jax.clear_caches()
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)
        jax.clear_caches()


def by_platform(
    *arrays: Array,
    default: Callable[..., Any],
    simple: Callable[..., Any] | None = None,
    **forms: Callable[..., Any],
) -> Any:
    """Calls the form for the platform with the arrays.

    Args:
      default: for platforms that have none of their own.
      simple: of plain operations alone; the default one if None.
      forms: by platform: "cpu", "cuda", "tpu".
    """
    asked = _asked.get()
    if asked is None:
        return jax.lax.platform_dependent(*arrays, default=default, **forms)
    return (forms | {"simple": simple or default}).get(asked, default)(*arrays)
