"""Compares micro-batches and recomputation with the plain step: python micro_worker.py FILE.json.

A process of its own for the reason of worker.py, whose model and batch it shares.
"""

import json
import re
import sys

import jax
import numpy as np

from reta_jax import state, step
from tests.multidevice import worker

# devices, train.accumulate, train.remat; the first is what the others must equal.
VARIANTS = {
    "whole": (1, 1, "none"),
    "accumulated": (2, 2, "none"),
    "computed_again": (1, 1, "blocks"),
}
STEPS = 2


def run(devices, accumulate, remat):
    config = worker.tiny_config(eds=False)
    config.loss.motion = 0.0  # it would compile the image encoder once more
    config.train.update({"accumulate": accumulate, "remat": remat})
    return worker.run(config, worker.build(config), devices, True, STEPS)


def all_reduces_of_loops(program):
    """How many all-reduces stand in bodies of loops."""
    bodies = re.findall(r"body=%?([\w.\-]+)", program)
    computations = re.split(r"\n\n", program)
    return sum(
        text.count("all-reduce(")
        for text in computations
        if any(text.lstrip().startswith(f"%{body} ") for body in bodies)
    )


def gradient_norms_differ(after, metrics):
    gradient = after.opt_state[0].trace
    expected = [np.linalg.norm(leaf) for leaf in jax.tree.leaves(gradient)]
    found = metrics[step.GRADIENT_NORMS]["params"]
    return float(np.abs(found / np.array(expected) - 1).max())


def main(path):
    state.optimizers = step.optimizers = worker.gradient_descent
    results = {name: run(*variant) for name, variant in VARIANTS.items()}
    whole, whole_program = results["whole"]
    found = {"whole_convolutions": whole_program.count(" convolution(")}
    found["terms"] = sorted(whole[0][1])
    found["moved"] = worker.difference(whole[1][0].params, whole[0][0].params)
    for name in list(VARIANTS)[1:]:
        history, program = results[name]
        found[name] = worker.distances(history, whole)
        found[f"{name}_loops"] = program.count(" while(")
        found[f"{name}_all_reduces"] = program.count("all-reduce(")
        found[f"{name}_all_reduces_of_loops"] = all_reduces_of_loops(program)
        found[f"{name}_convolutions"] = program.count(" convolution(")
        found[f"{name}_norms"] = gradient_norms_differ(*history[0])
    with open(path, "w") as file:
        json.dump(found, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1])
