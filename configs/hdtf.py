"""RETA on HDTF, the paper's recipe (Table 2: PSNR 22.82, SSIM 0.75, FID 14.80, Sync_c 6.21).

256 px, 512-d codes, wav2vec 2.0, E_I and G from EDTalk, learning rate and weights of D.2; 8 A100 in
the paper. What it leaves open (optimiser, batch, steps, clip length, augmentation) is a choice of
reta_jax/config.py and of this file. The paper trains on MEAD, too: configs/mead.py.

    python -m reta_jax.pretrained import edtalk EDTalk_lip_pose.pt
    python -m reta_jax.pretrained import vgg19 vgg19-dcbb9e9d.pth
    python -m reta_jax.pretrained import sync_expert lipsync_expert.pth
    python -m data_pipeline.prepare hdtf --raw hdtf --out data/hdtf
    python -m reta_jax.train --config configs/hdtf.py

`:smoke` runs two steps of the same code, shrunk, with random teachers: on a CPU, in seconds.
"""

from reta_jax.config import check_variant, paper, smoke


def get_config(variant: str = ""):
    check_variant(variant, "", "smoke")
    config = paper()
    config.name = "hdtf"
    config.init_from = "weights/edtalk"
    config.data.dirs = ("data/hdtf",)
    # Portraits come from other cameras and rooms than a few hundred well-lit politicians. The
    # voice's level needs no variation: wav2vec 2.0 hears it normalised.
    # A twentieth of the side is half of what EMOCA's box (1.25 of the face) leaves around a face.
    config.data.augment = {
        "brightness": 0.05, "contrast": 0.1, "saturation": 0.1, "hue": 5.0,
        "crop": 0.05, "mirror": 0.5, "gain_db": 0.0,
    }  # fmt: skip
    return smoke(config) if variant == "smoke" else config
