"""EDTalk (Tan et al., ECCV 2024): RETA's start for E_I, G and the discriminator.

`EDTalk.pt["gen"]` or, fitting more exactly, `EDTalk_lip_pose.pt["gen"]`, which was trained without
the emotion module that RETA lacks; the latter file may hold `["dis"]`. Published at
https://github.com/tanshuai0219/EDTalk under Apache-2.0, but derived from LIA (CC BY-NC 4.0).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from reta_jax.models.discriminator import Discriminator
from reta_jax.models.generator import Modulation
from reta_jax.pretrained.lia import SIZE, UNUSED, convert_image_networks, trunk_table
from reta_jax.pretrained.table import Entry, Params, apply_table, conv, linear, vector

LICENCE = "Apache-2.0; derived from LIA (CC BY-NC 4.0), so treat as non-commercial"
# The motion banks, whose place f_M and f_E take, and the emotion enhancement module.
IGNORE = (
    *UNUSED,
    r"dec\.fineadainresblock\..*",
    r"(lip_|pose_|exp_)?fc\..*",
    r"direction_.*\.weight",
)


def convert(state: Mapping[str, np.ndarray], modulation: Modulation = "adain") -> Params:
    """{"image_encoder", "generator"} from either file's `["gen"]`; otherwise as `lia.convert`."""
    return convert_image_networks(state, IGNORE, modulation)


def convert_discriminator(state: Mapping[str, np.ndarray]) -> Params:
    """The discriminator's parameters from `["dis"]`. Raises InputError as `convert` does."""
    table = {
        **trunk_table("convs", "trunk"),
        "final_conv.0.weight": Entry("conv/kernel", conv),
        "final_conv.1.bias": Entry("conv/bias", vector),
        "final_linear.0.weight": Entry("dense/kernel", _flattened),
        "final_linear.0.bias": Entry("dense/bias"),
        "final_linear.1.weight": Entry("logit/kernel", linear),
        "final_linear.1.bias": Entry("logit/bias"),
    }
    images = jnp.zeros((1, SIZE, SIZE, 3))
    like = jax.eval_shape(Discriminator(SIZE).init, jax.random.key(0), images)["params"]
    return apply_table(state, table, (r".*\.kernel",), like)


def _flattened(weight: np.ndarray) -> np.ndarray:
    """(O, C * 16), columns in channel-height-width order, to (16 * C, O), rows in h-w-c order."""
    features = weight.shape[0]
    return weight.reshape(features, -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, features)
