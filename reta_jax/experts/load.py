"""Frozen experts by config: from published or own weights, or random where the config says so."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from reta_jax.experts.emotion_fan import EmotionFAN
from reta_jax.experts.emotion_vit import EmotionViT
from reta_jax.experts.identity_net import IdentityNet
from reta_jax.experts.landmark_net import LandmarkNet
from reta_jax.experts.syncnet import SyncNetExpert, SyncNetV2
from reta_jax.experts.teachers import Experts
from reta_jax.experts.vgg19 import VGG19
from reta_jax.models.prepare import prepare_network
from reta_jax.pretrained.load import RANDOM, Loaded, load
from reta_jax.pretrained.source import file_facts
from reta_jax.weights import PARAMS_FILE, check_params

KINDS = {
    "emotion_vit": EmotionViT,
    "emotion_fan": EmotionFAN,
    "sync_expert": SyncNetExpert,
    "syncnet_v2": SyncNetV2,
    "vgg19": VGG19,
    "landmark_net": LandmarkNet,
    "identity_net": IdentityNet,
}


def example_inputs(kind: str, size: int = 64) -> tuple[jax.Array, ...]:
    """Zeros of the shape that the expert reads, to initialise it with."""
    if kind == "sync_expert":
        return jnp.zeros((1, 48, 96, 15)), jnp.zeros((1, 80, 16))
    if kind == "syncnet_v2":
        return jnp.zeros((1, 5, 224, 224, 3)), jnp.zeros((1, 13, 20))
    if kind == "emotion_fan":
        return (jnp.zeros((1, 2, size, size, 3)),)
    return (jnp.zeros((1, size, size, 3)),)


def draw_variables(kind: str, network: nn.Module, seed: int) -> Any:
    """What an expert's training starts with; the same for the same seed on the same platform.

    In one program, and by XLA's own generator: array by array and by threefry, those of a narrow
    VGG-19 take 25 s to compile.
    """
    init = jax.jit(lambda key: network.init(key, *example_inputs(kind)))
    return init(jax.random.key(seed, impl="rbg"))


def load_expert(
    kind: str, weights: str, fields: dict[str, Any], dtype: DTypeLike = jnp.float32
) -> tuple[nn.Module, Loaded]:
    """A frozen expert, and its variables with what is known of them.

    Args:
      kind: a key of KINDS.
      weights: a folder with params.safetensors and config.json (whose fields then hold), a hub id,
        or "random" for an untrained network of the given fields.
      dtype: of its arithmetic; the variables stay float32.

    Raises:
      InputError: the weights are missing, or of another kind of network.
    """
    if weights == RANDOM:
        logging.warning("%s has random weights: its loss teaches nothing about faces", kind)
        network = KINDS[kind](**fields, dtype=jnp.dtype(dtype))
        variables = draw_variables(kind, network, seed=0)
        return network, Loaded(variables, {"kind": kind, "fields": fields}, [])
    loaded = load(kind, weights)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in loaded.config["fields"].items()}
    # Its fields are hashed when it is part of a compiled program.
    network = KINDS[kind](**fields, dtype=jnp.dtype(dtype))
    expected = jax.eval_shape(network.init, jax.random.key(0), *example_inputs(kind))
    check_params(loaded.variables, expected, weights)
    return network, loaded._replace(variables=jax.tree.map(jnp.asarray, loaded.variables))


def wanted_experts(config: ConfigDict) -> dict[str, tuple[str, bool]]:
    """Kind of network of each expert, and whether a loss of the config needs it."""
    loss = config.loss
    return {
        "teacher": ("emotion_vit", bool(loss.emotion and config.model.emotion)),
        "sync": ("sync_expert", bool(loss.sync)),
        "vgg": ("vgg19", bool(loss.perceptual)),
        "lips": ("landmark_net", bool(loss.lips)),
    }


def load_experts(config: ConfigDict) -> tuple[Experts, list[dict[str, Any]]]:
    """The teachers that the config's losses need, and where their weights come from.

    They compute in the model's dtype: they are two fifths of the paper's step.
    """
    found, provenance = {}, []
    for name, (kind, is_needed) in wanted_experts(config).items():
        network = variables = None
        if is_needed:
            expert = config.experts[name]
            network, loaded = load_expert(
                kind, expert.weights, expert.fields.to_dict(), config.model.dtype
            )
            variables = prepare_network(loaded.variables, config.model.dtype)
            own = _own(f"experts.{name}", Path(expert.weights) / PARAMS_FILE)
            provenance += loaded.provenance + own
        found |= {name: network, f"{name}_variables": variables}
    return Experts(**found), provenance


def _own(name: str, params: Path) -> list[dict[str, Any]]:
    """The record of a teacher from a folder, so that it will not pass for a judge."""
    return [{"source": name, "files": [file_facts(params)]}] if params.is_file() else []
