"""RETA on HDTF, the paper's recipe (Table 2: PSNR 22.82, SSIM 0.75, FID 14.80, Sync_c 6.21).

256 px, 512-d codes, wav2vec 2.0, E_I and G from EDTalk; 8 A100 in the paper, Adam 1e-3, weights of
D.2. What the paper leaves open (batch, steps, clip length) is a choice of this file.

    python -m reta_jax.pretrained import edtalk EDTalk_lip_pose.pt
    python -m reta_jax.pretrained import vgg19 vgg19-dcbb9e9d.pth
    python -m reta_jax.pretrained import sync_expert lipsync_expert.pth
    python -m data_pipeline.prepare hdtf --raw hdtf --out data/hdtf
    python -m reta_jax.train --config configs/hdtf.py

`:smoke` runs two steps of the same code, shrunk, with random teachers: on a CPU, in seconds.
"""

from reta_jax.config import paper, smoke


def get_config(variant: str = ""):
    config = paper()
    config.name = "hdtf"
    config.init_from = "weights/edtalk"
    config.data.dirs = ("data/hdtf",)
    return smoke(config) if variant == "smoke" else config
