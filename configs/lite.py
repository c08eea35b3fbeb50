"""The real-time variant: the paper's model at 256 px with an eighth of the channels.

Same code, other numbers: over 60 frames a second from voice to pixels on two CPU cores. It is
trained on the synthetic world, whose clips of 256 px are made at the first start, and grows out of
the shipped model of 64 px (reta_jax/grow.py): what moves is learnt already, and the two new levels
add the portrait's own detail.

    python -m reta_jax.train --config configs/lite.py
"""

from ml_collections import ConfigDict

from configs import synthetic
from reta_jax.config import check_variant, smoke


def get_config(variant: str = "") -> ConfigDict:
    check_variant(variant, "", "smoke")
    config = synthetic.get_config()
    config.name = "lite"
    model, train = config.model, config.train
    model.size, model.grid_size, model.detail_from = 256, 64, 128
    config.init_from, config.init_partial = f"{synthetic.WEIGHTS}/reta", True
    config.data.dirs = ("data/lite",)
    config.data.synthetic_clips_per_identity = 3
    config.loss.motion, config.loss.l1 = 0.0, 10.0
    config.loss.mouth = 10.0
    train.batch_size, train.steps, train.learning_rate = 4, 700, 8e-4
    train.warmup_steps, train.perceptual_scales = 50, (0.5,)
    train.preview_every, train.save_every = 100, 350
    return smoke(config) if variant == "smoke" else config
