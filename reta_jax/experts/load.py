"""Frozen experts by config: from a folder of weights, or random where the config says so."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from reta_jax.checkpoint import load_weights
from reta_jax.experts.emotion_fan import EmotionFAN
from reta_jax.experts.emotion_vit import EmotionViT
from reta_jax.experts.judges import Experts
from reta_jax.experts.landmark_net import LandmarkNet
from reta_jax.experts.syncnet import SyncNetExpert
from reta_jax.experts.vgg19 import VGG19

KINDS = {
    "emotion_vit": EmotionViT,
    "emotion_fan": EmotionFAN,
    "sync_expert": SyncNetExpert,
    "vgg19": VGG19,
    "landmark_net": LandmarkNet,
}
RANDOM = "random"


def example_inputs(kind: str, size: int = 64) -> tuple[jax.Array, ...]:
    """Zeros of the shape that the expert reads, to initialise it with."""
    if kind == "sync_expert":
        return jnp.zeros((1, 48, 96, 15)), jnp.zeros((1, 80, 16))
    if kind == "emotion_fan":
        return (jnp.zeros((1, 2, size, size, 3)),)
    return (jnp.zeros((1, size, size, 3)),)


def load_expert(kind: str, weights: str, fields: dict[str, Any]) -> tuple[nn.Module, Any]:
    """A frozen expert and its variables.

    Args:
      kind: a key of KINDS.
      weights: a folder with params.safetensors and config.json (whose fields then hold), or
        "random" for an untrained network of the given fields.

    Raises:
      InputError: the folder is missing, or holds another kind of network.
    """
    if weights == RANDOM:
        logging.warning("%s has random weights: its loss teaches nothing about faces", kind)
        network = KINDS[kind](**fields)
        return network, network.init(jax.random.key(0), *example_inputs(kind))
    folder = Path(weights)
    if not folder.is_dir():
        raise InputError(
            f"no weights for {kind} at {weights}: train it (python -m reta_jax.train_expert), give "
            f'another folder, or say "random"'
        )
    variables, config = load_weights(folder)
    if config.get("kind") != kind:
        raise InputError(f"{weights} holds {config.get('kind')!r} weights, {kind} was asked for")
    return KINDS[kind](**config["fields"]), jax.tree.map(jnp.asarray, variables)


def load_experts(config: ConfigDict) -> Experts:
    """The teachers that the config's losses need."""
    loss, experts = config.loss, config.experts
    teacher = sync = vgg = (None, None)
    if loss.emotion and config.model.emotion:
        teacher = load_expert(
            "emotion_vit", experts.teacher.weights, experts.teacher.fields.to_dict()
        )
    if loss.sync:
        sync = load_expert("sync_expert", experts.sync.weights, experts.sync.fields.to_dict())
    if loss.perceptual:
        vgg = load_expert("vgg19", experts.vgg.weights, experts.vgg.fields.to_dict())
    return Experts(
        teacher=teacher[0],
        teacher_variables=teacher[1],
        sync=sync[0],
        sync_variables=sync[1],
        vgg=vgg[0],
        vgg_variables=vgg[1],
    )
