"""torchvision's VGG-19 (BSD-3-Clause; ImageNet weights): vgg19-dcbb9e9d.pth."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from reta_jax.experts.vgg19 import VGG19
from reta_jax.pretrained.layers import conv_layer
from reta_jax.pretrained.source import Source, Weights, read_state
from reta_jax.pretrained.table import Params, apply_table

# Positions of the convolutions in torchvision's `features`; nothing after relu5_1 is read.
POSITIONS = {
    "conv1_1": 0,
    "conv1_2": 2,
    "conv2_1": 5,
    "conv2_2": 7,
    "conv3_1": 10,
    "conv3_2": 12,
    "conv3_3": 14,
    "conv3_4": 16,
    "conv4_1": 19,
    "conv4_2": 21,
    "conv4_3": 23,
    "conv4_4": 25,
    "conv5_1": 28,
}
UNUSED = [r"features\.(30|32|34)\..*", r"classifier\..*"]
TABLE = {
    key: entry
    for name, position in POSITIONS.items()
    for key, entry in conv_layer(f"features.{position}", f"params/{name}").items()
}


def convert(state: Mapping[str, np.ndarray]) -> Params:
    """Variables of `VGG19()` from the published tensors.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    like = jax.eval_shape(VGG19().init, jax.random.key(0), images)
    return apply_table(state, TABLE, ignore=UNUSED, like=like)


def read(path: Path) -> Weights:
    return Weights("vgg19", convert(read_state(path, "state_dict")))


SOURCE = Source(
    name="vgg19",
    gives="features of the perceptual loss",
    published=("vgg19-dcbb9e9d.pth",),
    where="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
    licence="BSD-3-Clause (ImageNet weights)",
    is_commercial=True,
    megabytes=575,
    read=read,
)
