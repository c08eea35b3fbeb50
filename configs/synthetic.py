"""RETA on the synthetic world: the embedded default, trained on a laptop's CPU.

Nothing is downloaded: the clips are made at the first start. The model is the paper's with other
numbers: 64 px, an eighth of the channels, 128-d codes, a log-mel audio encoder. Its teachers were
trained on the same world (configs/judges/synthetic.py).

    python -m reta_jax.train --config configs/synthetic.py

`:warmup` trains without the emotion teacher: the first stage of the shipped weights. `:smoke` runs
two steps of the same code, shrunk, with random teachers: in seconds.
"""

from reta_jax.config import check_variant, paper, small, smoke

WEIGHTS = "weights/synthetic"


def get_config(variant: str = ""):
    check_variant(variant, "", "warmup", "smoke")
    config = small(paper(), size=64, channel_multiplier=1 / 8, style_dim=128)
    config.name = "synthetic"
    config.model.split_res, config.model.rgb_from = 32, "blended"
    config.model.emotion_span = 1  # as the shipped weights were trained
    config.data.dirs = ("data/synthetic",)
    config.data.synthetic_identities, config.data.synthetic_clips_per_identity = 160, 6
    config.data.synthetic_seconds = 2.0
    config.data.portrait = "identity"  # the portrait may feel otherwise than the clip

    experts = config.experts
    experts.teacher.weights = f"{WEIGHTS}/emotion_vit"
    experts.teacher.fields = {
        "size": 64, "patch": 8, "width": 96, "layers": 4, "heads": 4, "mlp_dim": 192, "classes": 8,
    }  # fmt: skip
    experts.sync.weights = f"{WEIGHTS}/sync_expert"  # train it first (configs/judges/synthetic.py)
    experts.sync.fields = {"channel_multiplier": 0.25}
    experts.vgg.weights = "random"  # features of an untrained VGG of an eighth of the width
    experts.vgg.fields = {"channel_multiplier": 1 / 8}

    train = config.train
    train.batch_size, train.frames, train.steps = 8, 2, 6_000
    train.learning_rate, train.d_learning_rate, train.betas = 2e-3, 5e-4, (0.5, 0.99)
    train.warmup_steps, train.decay, train.clip_norm = 100, True, 1.0
    train.adversarial_start = 1_000_000  # decided in docs/decisions.md
    train.emotion_frames = 1
    train.perceptual_scales = (1.0, 0.5)
    train.log_every, train.preview_every, train.save_every = 50, 500, 1_000
    config.loss.perceptual = 0.05  # ten taps times the factor 10, on features of random scale
    config.loss.sync = 0.0  # no sync expert of this world is shipped; with one: 0.1, frames = 5
    # The teacher is too small to be obeyed in pixels (docs/decisions.md): it teaches f_E alone.
    config.loss.emotion, config.loss.emotion_visual, train.eds = 0.1, False, False
    config.loss.prior = 0.002
    config.loss.motion = 20.0  # the mouth is a few of 4,096 pixels, and the run is short

    if variant == "warmup":
        config.loss.emotion = 0.0
    return smoke(config) if variant == "smoke" else config
