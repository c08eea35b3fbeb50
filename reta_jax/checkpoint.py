"""Checkpoints of a training run (Orbax): state, data position and resolved config."""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from data_pipeline.errors import InputError
from reta_jax.state import TrainState
from reta_jax.weights import config_to_dict


class Checkpoints:
    """State, data position and resolved config of a run, saved while training goes on."""

    def __init__(self, workdir: Path, config: ConfigDict):
        policies = ocp.training
        self._config = config_to_dict(config)
        self._checkpointer = policies.Checkpointer(
            workdir.absolute() / "checkpoints",
            save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.preservation_policies.AnyPreservationPolicy(
                [
                    policies.preservation_policies.LatestN(config.train.keep_checkpoints),
                    policies.preservation_policies.EveryNSteps(config.train.keep_every),
                ]
            ),
        )

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Starts an asynchronous save of this step; nothing happens if it is saved already."""
        step = int(state.step)
        if self.latest_step == step:
            return
        try:
            self._checkpointer.save_checkpointables_async(
                step, {"state": state, "data": data_state, "config": self._config}
            )
        except OSError as error:
            raise InputError(f"cannot write a checkpoint of step {step}: {error}") from error

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest checkpoint, placed as `abstract` says (any number of devices)."""
        loaded = self._checkpointer.load_checkpointables(None, {"state": abstract, "data": None})
        return loaded["state"], loaded["data"]

    def close(self) -> None:
        """Waits for saves under way."""
        self._checkpointer.close()


def latest_ema(workdir: Path) -> tuple[Any, dict[str, Any]]:
    """EMA parameters and config of a run's latest checkpoint, as NumPy arrays."""
    with ocp.training.Checkpointer(workdir.absolute() / "checkpoints") as checkpointer:
        if checkpointer.latest is None:
            raise InputError(f"no finished checkpoint in {workdir}: train first, or name another")
        with warnings.catch_warnings():  # of the file's sharding: everything comes to the host here
            warnings.filterwarnings("ignore", "Sharding info not provided", UserWarning)
            loaded = checkpointer.load_checkpointables(None, {"state": None, "config": None})
    return jax.tree.map(np.asarray, loaded["state"]["ema"]), loaded["config"]
