"""A whole model of 32 px with random weights, as a folder that the commands load."""

import types
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from configs.synthetic import get_config
from reta_jax.models.morphable import builtin_morphable
from reta_jax.models.reta import build_reta
from reta_jax.pretrained.reta import save_reta
from reta_jax.weights import config_to_dict
from tests.weights import random_variables


def tiny_model_config():
    config = get_config("smoke")
    config.model.light, config.model.tcn.linear = (0.6, 0.5, 0.4), 3  # as the shipped weights have
    config.model.emotion_span = 3  # as the paper's config has, but shorter
    return config


RESEARCH_ONLY = {"source": "somebody", "licence": "research only", "commercial_use": False}
TOLD = "weights of somebody: research only; not for commercial use"  # where it is loaded


def aged(values: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON values, as it was before models had their youngest fields."""
    young = ("light", "grid_size", "detail_from", "emotion_span")
    model = {name: value for name, value in values["model"].items() if name not in young}
    tcn = {name: model["tcn"][name] for name in ("features", "dilations")}
    return values | {"model": model | {"tcn": tcn}}


def save_tiny_model(folder: Path, provenance=(), **fields) -> Path:
    """fields: of the config's `model` section, in place of the tiny one's."""
    config = tiny_model_config()
    config.model.update(fields)
    reta = build_reta(config.model)
    morphable = builtin_morphable(config.model.uv_resolution)

    def init(key, portrait, audio):
        return reta.init(key, portrait, audio, jnp.zeros(1, int), 1, morphable)

    size = config.model.size
    portrait, audio = jnp.zeros((1, size, size, 3)), jnp.zeros((1, reta.window.samples))
    variables = random_variables(types.SimpleNamespace(init=init), portrait, audio)
    save_reta(folder, variables["params"], config_to_dict(config), list(provenance))
    return folder
