"""FID Inception (Apache-2.0): pt_inception-2015-12-05-6726825d.pth, a release of pytorch-fid."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reta_jax.pretrained.layers import NOT_WEIGHTS, batch_norm, conv_layer
from reta_jax.pretrained.source import Source, Weights, read_state
from reta_jax.pretrained.table import Params, Table, apply_table

Kernels = dict[str, tuple[int, ...]]  # (O, I), or (O, I, H, W) where the window is not 1x1

STEM = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
}


def _double_3x3(inputs: int) -> Kernels:
    shapes = (64, inputs), (96, 64, 3, 3), (96, 96, 3, 3)
    return {f"branch3x3dbl_{i}": shape for i, shape in enumerate(shapes, 1)}


def _block_a(inputs: int, pooled: int) -> Kernels:
    return {
        "branch1x1": (64, inputs),
        "branch5x5_1": (48, inputs),
        "branch5x5_2": (64, 48, 5, 5),
        **_double_3x3(inputs),
        "branch_pool": (pooled, inputs),
    }


def _block_c(c: int) -> Kernels:
    row, column = (1, 7), (7, 1)
    return {
        "branch1x1": (192, 768),
        "branch7x7_1": (c, 768),
        "branch7x7_2": (c, c, *row),
        "branch7x7_3": (192, c, *column),
        "branch7x7dbl_1": (c, 768),
        "branch7x7dbl_2": (c, c, *column),
        "branch7x7dbl_3": (c, c, *row),
        "branch7x7dbl_4": (c, c, *column),
        "branch7x7dbl_5": (192, c, *row),
        "branch_pool": (192, 768),
    }


def _block_e(inputs: int) -> Kernels:
    return {
        "branch1x1": (320, inputs),
        "branch3x3_1": (384, inputs),
        "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1),
        "branch3x3dbl_1": (448, inputs),
        "branch3x3dbl_2": (384, 448, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3),
        "branch3x3dbl_3b": (384, 384, 3, 1),
        "branch_pool": (192, inputs),
    }


BLOCKS = {
    "5b": _block_a(192, 32),
    "5c": _block_a(256, 64),
    "5d": _block_a(288, 64),
    "6a": {"branch3x3": (384, 288, 3, 3), **_double_3x3(288)},
    "6b": _block_c(128),
    "6c": _block_c(160),
    "6d": _block_c(160),
    "6e": _block_c(192),
    "7a": {
        "branch3x3_1": (192, 768),
        "branch3x3_2": (320, 192, 3, 3),
        "branch7x7x3_1": (192, 768),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    },
    "7b": _block_e(1280),
    "7c": _block_e(2048),
}


def _table() -> Table:
    layers = {name: (name.split("_")[1], shape) for name, shape in STEM.items()}
    for block, kernels in BLOCKS.items():
        for branch, shape in kernels.items():
            layers[f"Mixed_{block}.{branch}"] = f"{block}_{branch}", shape
    entries = {}
    for key, (path, (out, inputs, *window)) in layers.items():
        shape = (out, inputs, *(window or (1, 1)))
        entries |= conv_layer(f"{key}.conv", f"params/{path}/conv", shape, bias=False)
        entries |= batch_norm(f"{key}.bn", f"{path}/norm", out)
    return entries


TABLE = _table()


def convert(state: Mapping[str, np.ndarray]) -> Params:
    """Variables of `FIDInception()` from the published tensors; its classifier is left out.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    return apply_table(state, TABLE, ignore=[NOT_WEIGHTS, r"fc\..*"])


def read(path: Path) -> Weights:
    return Weights("fid_inception", convert(read_state(path, "state_dict")))


SOURCE = Source(
    name="fid_inception",
    gives="features of the FID",
    published=("pt_inception-2015-12-05-6726825d.pth",),
    where="https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
    licence="Apache-2.0",
    is_commercial=True,
    megabytes=95,
    read=read,
)
