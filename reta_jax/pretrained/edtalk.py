"""EDTalk (Tan et al., ECCV 2024): RETA's start for E_I, G and the discriminator.

`EDTalk.pt["gen"]` or, fitting more exactly, `EDTalk_lip_pose.pt["gen"]`, which was trained without
the emotion module that RETA lacks; the latter file may hold `["dis"]`. Published at
https://github.com/tanshuai0219/EDTalk under Apache-2.0, but derived from LIA (CC BY-NC 4.0).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reta_jax.pretrained.lia import UNUSED, convert_image_networks, trunk_table
from reta_jax.pretrained.source import Source, Weights, read_state
from reta_jax.pretrained.table import Entry, Params, apply_table, conv, linear, vector

# The motion banks, whose place f_M and f_E take, and the emotion enhancement module.
IGNORE = (
    *UNUSED,
    r"dec\.fineadainresblock\..*",
    r"(lip_|pose_|exp_)?fc\..*",
    r"direction_.*\.weight",
)


def read(path: Path) -> Weights:
    """E_I and G, and the discriminator if the file has one."""
    state = read_state(path)
    rooms = {room: _room(state, room) for room in ("gen", "dis")}
    params = convert(rooms["gen"] or state)
    if rooms["dis"]:
        params["discriminator"] = convert_discriminator(rooms["dis"])
    return Weights("image_networks", params)


def _room(state: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}


def convert(state: Mapping[str, np.ndarray]) -> Params:
    """{"image_encoder", "generator"} from either file's `["gen"]`; otherwise as `lia.convert`."""
    return convert_image_networks(state, IGNORE)


def convert_discriminator(state: Mapping[str, np.ndarray]) -> Params:
    """The discriminator's parameters from `["dis"]`. Raises InputError as `convert` does."""
    table = {
        **trunk_table("convs", "trunk"),
        # One channel more for the spread within the batch.
        "final_conv.0.weight": Entry("conv/kernel", (512, 513, 3, 3), conv),
        "final_conv.1.bias": Entry("conv/bias", (1, 512, 1, 1), vector),
        "final_linear.0.weight": Entry("dense/kernel", (512, 512 * 4 * 4), _flattened),
        "final_linear.0.bias": Entry("dense/bias", (512,)),
        "final_linear.1.weight": Entry("logit/kernel", (1, 512), linear),
        "final_linear.1.bias": Entry("logit/bias", (1,)),
    }
    return apply_table(state, table, (r".*\.kernel",))


def _flattened(weight: np.ndarray) -> np.ndarray:
    """(O, C * 16), columns in channel-height-width order, to (16 * C, O), rows in h-w-c order."""
    features = weight.shape[0]
    return weight.reshape(features, -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, features)


SOURCE = Source(
    name="edtalk",
    gives="image encoder E_I, generator G, discriminator",
    published=("EDTalk_lip_pose.pt", "EDTalk.pt"),
    where="https://github.com/tanshuai0219/EDTalk",
    licence="Apache-2.0, derived from LIA (CC BY-NC 4.0)",
    is_commercial=False,
    megabytes=260,
    read=read,
)
