"""torchvision's VGG-19 (BSD-3-Clause; ImageNet weights): vgg19-dcbb9e9d.pth."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reta_jax.pretrained.layers import conv_layer
from reta_jax.pretrained.source import Source, Weights, read_state
from reta_jax.pretrained.table import Params, apply_table

# Positions of the convolutions in torchvision's `features`, and their widths; nothing after relu5_1
# is read.
CONVOLUTIONS = {
    "conv1_1": (0, 3, 64),
    "conv1_2": (2, 64, 64),
    "conv2_1": (5, 64, 128),
    "conv2_2": (7, 128, 128),
    "conv3_1": (10, 128, 256),
    "conv3_2": (12, 256, 256),
    "conv3_3": (14, 256, 256),
    "conv3_4": (16, 256, 256),
    "conv4_1": (19, 256, 512),
    "conv4_2": (21, 512, 512),
    "conv4_3": (23, 512, 512),
    "conv4_4": (25, 512, 512),
    "conv5_1": (28, 512, 512),
}
UNUSED = [r"features\.(30|32|34)\..*", r"classifier\..*"]
TABLE = {
    key: entry
    for name, (position, inputs, width) in CONVOLUTIONS.items()
    for key, entry in conv_layer(
        f"features.{position}", f"params/{name}", (width, inputs, 3, 3)
    ).items()
}


def convert(state: Mapping[str, np.ndarray]) -> Params:
    """Variables of `VGG19()` from the published tensors.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    return apply_table(state, TABLE, ignore=UNUSED)


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
