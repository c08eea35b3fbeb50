"""Forms of equal results, chosen by the platform that a program is compiled for.

That need not be the one that traces it: programs are lowered for others, and exported.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jaxtyping import Array

_one_form = contextvars.ContextVar("one_form", default=False)


@contextlib.contextmanager
def one_form() -> Iterator[None]:
    """What is traced inside takes the `simple` forms, for converters that know no choice.

    JAX keeps what it has traced and does not know of this, so it has to forget, twice.
    """
    jax.clear_caches()
    token = _one_form.set(True)
    try:
        yield
    finally:
        _one_form.reset(token)
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
      simple: of plain operations alone, for `one_form`; the default one if None.
      forms: by platform: "cpu", "cuda", "tpu".
    """
    if _one_form.get():
        return (simple or default)(*arrays)
    return jax.lax.platform_dependent(*arrays, default=default, **forms)
