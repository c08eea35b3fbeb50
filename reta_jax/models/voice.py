"""Parameters of the networks that hear, in the form in which they are used."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from reta_jax.models.attention import PROJECTIONS, join_projections
from reta_jax.models.wav2vec2 import normed_kernel

FLOAT32 = ("head", "linear")  # the last layers, of codes and coefficients


def prepare_voice(params: dict[str, Any], dtype: DTypeLike) -> dict[str, Any]:
    """Casts parameters to `dtype` once instead of at every call; results are equal.

    Beside, projections of an attention are one product, and a weight norm is a kernel.
    """
    if set(PROJECTIONS) <= params.keys():
        params = join_projections(params)
    if "v" in params:
        kernel = normed_kernel(params["v"], params["g"])
        params = {"kernel": kernel, "bias": params["bias"]}
    if "kernel" in params:
        return {name: jnp.asarray(leaf).astype(dtype) for name, leaf in params.items()}
    return {
        name: prepare_voice(child, dtype) if _is_layer(name, child) else child
        for name, child in params.items()
    }


def _is_layer(name: str, child: Any) -> bool:
    return isinstance(child, dict) and name not in FLOAT32
