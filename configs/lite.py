"""The real-time variant: the paper's model at 256 px with a quarter of the channels.

25 frames a second, voice to pixels, on two CPU cores (README, "How fast"). Same code, other numbers;
trained on the synthetic world, whose clips of 256 px are made at the first start.

    python -m reta_jax.train --config configs/lite.py

`:small` starts from a model of 64 px (weights/synthetic/reta): what fits is taken over.
"""

from ml_collections import ConfigDict

from configs import synthetic
from reta_jax.config import smoke


def get_config(variant: str = "") -> ConfigDict:
    config = synthetic.get_config()
    config.name = "lite"
    model = config.model
    model.size, model.split_res, model.channel_multiplier = 256, 64, 1 / 4
    config.data.dirs = ("data/lite",)
    config.tvm.update({"resolution": 64, "tau_init": 0.04, "kernel": 1, "sigma": 1.0})
    return smoke(config) if variant == "smoke" else config
