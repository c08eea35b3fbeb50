"""How exactly a program multiplies: float32 is TF32 on GPUs and bfloat16 on TPUs unless asked."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params


def products_of(function: Callable, *arrays: Any) -> list[Any]:
    """Equations of its matrix products and convolutions, those within its calls, too.

    Args:
      arrays: or their shapes.
    """
    return list(_products_in(jax.make_jaxpr(function)(*arrays).jaxpr))


def _products_in(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _products_in(inner)


def is_exact(product: Any) -> bool:
    return product.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
