"""RETA on MEAD and HDTF together: the paper's recipe with people who feel.

Table 2, on MEAD: PSNR 22.19, SSIM 0.77, FID 17.09, Sync_c 5.84, ACC_e 62.35; on HDTF as in
configs/hdtf.py, whose model, weights and schedule these are. No label of an emotion is learnt from:
MEAD's only choose which clips exchange emotions (EDS). HDTF has none.

    python -m data_pipeline.prepare mead --raw raw/mead --out data/mead
    python -m data_pipeline.prepare hdtf --raw raw/hdtf --out data/hdtf
    python -m reta_jax.train --config configs/mead.py

after the imports of configs/hdtf.py. How both are mixed is a choice of this file: the paper does
not say. `:smoke` runs two steps of the same code, shrunk: on a CPU, in seconds.
"""

from configs import hdtf
from reta_jax.config import check_variant, smoke


def get_config(variant: str = ""):
    check_variant(variant, "", "smoke")
    config = hdtf.get_config()
    config.name = "mead"
    config.data.dirs, config.data.weights = ("data/mead", "data/hdtf"), (0.5, 0.5)
    return smoke(config) if variant == "smoke" else config
