"""What follows from control codes alone, before there is a map: computed at once for rendering.

A generator has two or three small products a modulated layer: the code's alpha and beta (AF of
Eq. 1), and the norm of the kernel that alpha scales. One after the other among the maps' operations
they are some fifty calls of a GPU's library for every frame. Here each code has one product for
all its layers, and all norms are another.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reta_jax.models.stylegan import exact_dense, scaled
from reta_jax.ops.adain import demodulation, kernel_energy

TAPS = 9  # of the demodulated kernels, 3x3


class Style(NamedTuple):
    """What a layer takes from its code, one row a frame."""

    alpha: jax.Array  # (n, i)
    beta: jax.Array | None  # (n, i); None: modulation is a scale alone
    norm: jax.Array | None  # (n, o) after the convolution; None: it is not demodulated


class StyledLayer(NamedTuple):
    """A modulated layer: where its parameters are, and which code modulates it."""

    path: tuple[str, ...]
    code: Literal["early", "late"]
    side: int  # of the map that it makes, in pixels
    inputs: int
    outputs: int | None  # None: not demodulated


def at(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """What stands there in a tree of parameters."""
    return functools.reduce(lambda node, name: node[name], path, tree)


def kernel_gain(inputs: int) -> float:
    """By which a 3x3 kernel of unit variance is scaled when it is used."""
    return (TAPS * inputs) ** -0.5


def bring_together(layers: list[StyledLayer], params: dict[str, Any]) -> dict[str, Any]:
    """{"early", "late": linear layer to all alphas and betas, "energy": of all kernels}."""

    def affine(layer: StyledLayer) -> list[dict[str, jax.Array]]:
        style = at(params, layer.path)["style"]
        return [style[name] for name in ("alpha", "beta") if name in style]

    together: dict[str, Any] = {}
    for code, group in _by_code(layers):
        parts = [part for layer in group for part in affine(layer)]
        together[code] = {
            "kernel": scaled(jnp.concatenate([part["kernel"] for part in parts], -1)),
            "bias": jnp.concatenate([part["bias"] for part in parts]),
        }
    together["energy"] = _stack_energies(
        kernel_energy(at(params, layer.path)["kernel"]) for layer in layers if layer.outputs
    )
    return together


def styles_of(
    layers: list[StyledLayer],
    together: dict[str, Any],
    early: Float[Array, "n d"],
    late: Float[Array, "n d"],
) -> dict[tuple[str, ...], Style]:
    """The styles of all layers, by their paths.

    Args:
      together: of `bring_together`.
    """
    affine: dict[tuple[str, ...], list[jax.Array]] = {}
    for code, group in _by_code(layers):
        rows = exact_dense({"early": early, "late": late}[code], **together[code])
        parts = rows.shape[1] // sum(layer.inputs for layer in group)  # alpha, perhaps beta
        widths = [layer.inputs for layer in group for _ in range(parts)]
        columns = jnp.split(rows, list(itertools.accumulate(widths))[:-1], axis=1)
        affine |= {
            layer.path: columns[parts * i : parts * (i + 1)] for i, layer in enumerate(group)
        }
    norms = _norms([layer for layer in layers if layer.outputs], together["energy"], affine)
    return {
        path: Style(columns[0], columns[1] if len(columns) > 1 else None, norms.get(path))
        for path, columns in affine.items()
    }


def _stack_energies(energies: Iterable[Float[Array, "i o"]]) -> Float[Array, "layers i o"]:
    """All in one array, those of fewer channels with zeros: one product instead of one a shape."""
    energies = list(energies)
    inputs, outputs = np.max([energy.shape for energy in energies], axis=0)
    return jnp.stack(
        [jnp.pad(e, [(0, inputs - e.shape[0]), (0, outputs - e.shape[1])]) for e in energies]
    )


def _norms(
    layers: list[StyledLayer], energies: Array, affine: dict[tuple[str, ...], list[jax.Array]]
) -> dict[tuple[str, ...], Float[Array, "n o"]]:
    def widened(style: Array) -> Array:
        return jnp.pad(style, [(0, 0), (0, energies.shape[1] - style.shape[1])])

    styles = [widened(affine[layer.path][0] * kernel_gain(layer.inputs)) for layer in layers]
    norms = jax.vmap(demodulation)(energies, jnp.stack(styles))
    return {
        layer.path: norm[:, : layer.outputs] * kernel_gain(layer.inputs)
        for layer, norm in zip(layers, norms, strict=True)
    }


def _by_code(layers: Iterable[StyledLayer]) -> Iterator[tuple[str, list[StyledLayer]]]:
    for code in ("early", "late"):
        if group := [layer for layer in layers if layer.code == code]:
            yield code, group
