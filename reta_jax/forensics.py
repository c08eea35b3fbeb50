"""What is left of a step that broke: workdir/nan_step_N, enough to compute the step again.

    report.json        every loss by name, and the parameters whose gradient is not finite, with the
                       norms of all gradients
    batch_PROCESS.npz  the rows of the batch that this process drew
    weights/           {"params": ..., "d_params": ...} with the resolved config, for
                       reta_jax.weights.load_weights

A step that is not finite changes no parameters (reta_jax.step), but the next one is on its way
before anybody knows: weights are those that broke, unless that next one went well.
"""

import json
import math
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from reta_jax.state import TrainState
from reta_jax.weights import config_to_dict, flatten, save_weights

REPORT_FILE, WEIGHTS_FOLDER = "report.json", "weights"


def dump_step(
    workdir: Path,
    step: int,
    values: dict[str, float],
    gradient_norms: dict[str, jax.Array],
    batch: dict[str, np.ndarray],
    state: TrainState,
    config: ConfigDict,
) -> Path:
    """Writes what is left of a broken step; process 0 the report and the weights.

    Args:
      values: the step's metrics.
      gradient_norms: of the leaves of state.params and state.d_params, by these names.
      batch: what this process drew for the step.
      state: the latest.

    Returns:
      The folder.
    """
    folder = workdir / f"nan_step_{step}"
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / f"batch_{jax.process_index()}.npz", **batch)
    if jax.process_index() == 0:
        weights = jax.device_get({"params": state.params, "d_params": state.d_params})
        norms = {
            name: float(norm)
            for part, found in jax.device_get(gradient_norms).items()
            for name, norm in zip(flatten({part: weights[part]}), found, strict=True)
        }
        report = {
            "step": step,
            "losses": {name: _number(value) for name, value in sorted(values.items())},
            "not_finite": {
                "losses": _broken(values),
                "gradients": _broken(norms),
                "parameters": [
                    name for name, leaf in flatten(weights).items() if not np.isfinite(leaf).all()
                ],
            },
            "weights_after_step": int(state.step),
            "gradient_norms": {name: _number(norm) for name, norm in norms.items()},
        }
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n")
        save_weights(folder / WEIGHTS_FOLDER, weights, config_to_dict(config))
    return folder


def _broken(values: dict[str, float]) -> list[str]:
    return [name for name, value in values.items() if not math.isfinite(value)]


def _number(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return float(value) if math.isfinite(value) else str(float(value))
