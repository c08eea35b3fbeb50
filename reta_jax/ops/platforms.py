"""Forms of equal results, chosen by the platform that a program is for."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import export
from jaxtyping import Array

NAMES = ("cpu", "cuda", "cudnn", "tpu", "simple")
_asked = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def forms_of(*names: str) -> Iterator[None]:
    """What is traced inside is for these platforms, and not for the default device's.

    Any machine can compute the forms of any one of them but "cudnn": those are cuda's and calls of
    its library, which no file may hold. A program for several carries the forms of all, and takes
    its own when it is compiled. "simple" forms, of plain operations alone, are for converters.
    """
    if unknown := set(names) - set(NAMES):
        raise ValueError(f"forms of {', '.join(sorted(unknown))}: they are of {', '.join(NAMES)}")
    with _asked(names):
        yield


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
      forms: by platform: "cpu", "cuda", "tpu"; "cudnn": on a GPU itself, in place of cuda's.
    """
    names = _asked.value or (_here(),)
    of_library = forms.pop("cudnn", forms.get("cuda", default))
    if len(names) > 1:
        return jax.lax.platform_dependent(*arrays, default=default, **forms)
    forms |= {"simple": simple or default, "cudnn": of_library}
    return forms.get(names[0], default)(*arrays)


def _here() -> str:
    platform = export.default_export_platform()
    return "cudnn" if platform == "cuda" else platform
