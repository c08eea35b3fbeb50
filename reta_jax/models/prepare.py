"""Parameters in the form that renders fastest: what follows from them alone is computed once."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from reta_jax.models.attention import join_projections
from reta_jax.models.generator import STYLES, Generator
from reta_jax.models.styles import StyledLayer, at, bring_together
from reta_jax.models.wav2vec2 import normed_kernel
from reta_jax.ops.conv import kernel_phases, transposed_kernel
from reta_jax.ops.winograd import LARGE, WIDE, winograd_kernel

FLOAT32 = ("head", "linear", "classifier")  # the last layers, of codes and coefficients


def prepare_generator(
    generator: Generator, params: dict[str, Any], platform: str | None = None
) -> dict[str, Any]:
    """A generator's parameters with what follows from them alone computed once.

    At batch 1 every frame would compute it anew. What is prepared stays so.

    Args:
      platform: whose forms kernels take: "cpu" (large convolutions in float32 are Winograd's),
        "cuda" (as cuDNN wants them, so that none is turned at every call), "tpu"; None: those that
        every platform can take.
    """
    if STYLES in params:
        return params
    layers = generator.styled_layers()
    prepared = params | {STYLES: bring_together(layers, params)}
    for layer in layers:
        part = _prepare_layer(layer, at(params, layer.path), generator.dtype, platform)
        prepared = _with(prepared, layer.path, part)
    return prepared


def _prepare_layer(
    layer: StyledLayer, part: dict[str, Any], dtype: DTypeLike, platform: str | None
) -> dict[str, Any]:
    """Without its style's layers, which are brought together, and with its kernel's form."""
    own = {name: leaf for name, leaf in part.items() if name != "style"}
    if "spread" in part["style"]:
        own["style"] = {"spread": part["style"]["spread"]}
    if layer.outputs is None:
        return own
    kernel = jnp.asarray(own.pop("kernel")).astype(dtype)
    is_up = layer.path[-1] == "up"
    pays = kernel.dtype == jnp.float32 and layer.inputs >= WIDE and layer.side >= LARGE
    if platform == "cuda":
        name = "transposed" if is_up else "outputs_first"
        return own | {name: transposed_kernel(kernel) if is_up else kernel.transpose(3, 0, 1, 2)}
    if is_up:
        return own | {"phases": kernel_phases(kernel)._asdict()}
    if platform == "cpu" and pays:
        return own | {"winograd": winograd_kernel(kernel)}
    return own | {"kernel": kernel}


def _with(tree: dict[str, Any], path: tuple[str, ...], leaf: Any) -> dict[str, Any]:
    if not path:
        return leaf
    return tree | {path[0]: _with(tree[path[0]], path[1:], leaf)}


def prepare_network(params: dict[str, Any], dtype: DTypeLike) -> dict[str, Any]:
    """Parameters of a network that is not trained: E_A, D, E_M, S when rendering, a teacher.

    They are cast to `dtype`, the network's own, once instead of at every call; results are equal.
    Beside, projections of an attention are one product, and a weight norm is a kernel.
    """
    return _prepare_layers(join_projections(params), dtype)


def _prepare_layers(params: dict[str, Any], dtype: DTypeLike) -> dict[str, Any]:
    if "v" in params:
        kernel = normed_kernel(params["v"], params["g"])
        params = {"kernel": kernel, "bias": params["bias"]}
    if "kernel" in params:
        return {name: jnp.asarray(leaf).astype(dtype) for name, leaf in params.items()}
    return {
        name: _prepare_layers(child, dtype) if _is_layer(name, child) else child
        for name, child in params.items()
    }


def _is_layer(name: str, child: Any) -> bool:
    return isinstance(child, dict) and name not in FLOAT32
