"""FID Inception (Apache-2.0): pt_inception-2015-12-05-6726825d.pth, a release of pytorch-fid."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from reta_jax.experts.inception import FIDInception
from reta_jax.pretrained.layers import NOT_WEIGHTS, batch_norm, conv_layer
from reta_jax.pretrained.source import Source, Weights, read_state
from reta_jax.pretrained.table import Params, apply_table

STEM = {
    "Conv2d_1a_3x3": "1a",
    "Conv2d_2a_3x3": "2a",
    "Conv2d_2b_3x3": "2b",
    "Conv2d_3b_1x1": "3b",
    "Conv2d_4a_3x3": "4a",
}
DOUBLE_3X3 = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
BLOCK_A = ("branch1x1", "branch5x5_1", "branch5x5_2", *DOUBLE_3X3, "branch_pool")
BLOCK_B = ("branch3x3", *DOUBLE_3X3)
BLOCK_C = (
    "branch1x1",
    *(f"branch7x7_{i}" for i in (1, 2, 3)),
    *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)),
    "branch_pool",
)
BLOCK_D = ("branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)))
BLOCK_E = (
    "branch1x1",
    *(f"branch3x3_{i}" for i in ("1", "2a", "2b")),
    *(f"branch3x3dbl_{i}" for i in ("1", "2", "3a", "3b")),
    "branch_pool",
)
BLOCKS = {
    **dict.fromkeys(("5b", "5c", "5d"), BLOCK_A),
    "6a": BLOCK_B,
    **dict.fromkeys(("6b", "6c", "6d", "6e"), BLOCK_C),
    "7a": BLOCK_D,
    **dict.fromkeys(("7b", "7c"), BLOCK_E),
}
LAYERS = STEM | {
    f"Mixed_{block}.{branch}": f"{block}_{branch}"
    for block, branches in BLOCKS.items()
    for branch in branches
}
TABLE = {
    key: entry
    for old, path in LAYERS.items()
    for entries in (
        conv_layer(f"{old}.conv", f"params/{path}/conv", bias=False),
        batch_norm(f"{old}.bn", f"{path}/norm"),
    )
    for key, entry in entries.items()
}


def convert(state: Mapping[str, np.ndarray]) -> Params:
    """Variables of `FIDInception()` from the published tensors; its classifier is left out.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    images = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    like = jax.eval_shape(FIDInception().init, jax.random.key(0), images)
    return apply_table(state, TABLE, ignore=[NOT_WEIGHTS, r"fc\..*"], like=like)


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
