"""The real-time variant: the paper's model at 256 px with an eighth of the channels.

Same code, other numbers: 25 frames a second from voice to pixels on two CPU cores. It is trained on
the synthetic world, whose clips of 256 px are made at the first start, and begins with what fits
of the shipped model of 64 px: both voice branches and the generator up to 64 px.

    python -m reta_jax.train --config configs/lite.py
"""

from ml_collections import ConfigDict

from configs import synthetic
from reta_jax.config import smoke


def get_config(variant: str = "") -> ConfigDict:
    config = synthetic.get_config()
    config.name = "lite"
    config.model.size = 256
    config.init_from, config.init_partial = f"{synthetic.WEIGHTS}/reta", True
    config.data.dirs = ("data/lite",)
    config.train.batch_size, config.train.learning_rate = 4, 1e-3
    config.tvm.resolution = 64
    return smoke(config) if variant == "smoke" else config
