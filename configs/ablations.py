"""Every row of Tables 4, 9 and 10 in the synthetic world, on a model that two cores can train.

The argument names the row, one of ROWS or WEIGHTS. Each is the full model, with every loss of the
paper but L_adv, in which only the named fields differ; python -m reta_jax.ablate trains and judges
them all.

    python -m reta_jax.ablate --rows no_hi

32 px (`:no_hi,64` for 64 px), a sixteenth of the channels, 64-d codes, log-mel voice. Trained first
are the sync expert (configs/judges/synthetic.py:sync_expert) and what all rows start from: the
paper's have E_I and G of EDTalk and wav2vec 2.0, these have E_I and G of `:base`, in which one code
goes to all levels, as in EDTalk (at 64 px those of the shipped weights), and E_A of the shipped
weights.
"""

from ml_collections import ConfigDict

from configs import synthetic
from reta_jax.config import check_variant

SIZE = 32  # pixels

# Fields of each row that differ from the full model's.
ROWS = {
    "full": {},
    # Table 4
    "no_gpl": {"model.geometry": "none"},
    "no_erl": {"model.emotion": False},
    "no_3dmm": {"model.geometry": "direct"},
    "no_3dmm_framewise": {"model.geometry": "framewise"},
    "no_hi": {"model.injection": "concat"},
    "no_style": {"model.use_style": False},
    "no_eds": {"train.eds": False},
    "no_tvm": {"loss.motion": 0.0},
    # Table 9
    "no_sync": {"loss.sync": 0.0},
    "no_emotion_visual": {"loss.emotion_visual": False},
    "no_emotion_audio": {"loss.emotion_audio": False},
}
BASE = {
    "model.injection": "concat",
    "loss.sync": 0.0, "loss.emotion": 0.0, "loss.emotion_visual": False, "train.eds": False,
    "train.frames": 2, "train.steps": 3_000,
    "model.audio_encoder.mel.width": 64,  # its own voice is left behind
}  # fmt: skip
# Table 10: lambda_motion, lambda_L1 and lambda_emo; the full model is 1, 2, 2. A small model needs
# other weights (configs/synthetic.py), so these rows keep the paper's ratios to the full row.
FULL_WEIGHTS = (1, 2, 2)
WEIGHTS = {"weights_1_1_1": (1, 1, 1), "weights_2_2_2": (2, 2, 2), "weights_1_2_1": (1, 2, 1)}


def get_config(row: str = "full") -> ConfigDict:
    row, _, size = row.partition(",")
    check_variant(row, *ROWS, "base", *WEIGHTS)
    config = _full(int(size or SIZE))
    config.name = f"ablation_{row}"
    if row in WEIGHTS:
        for name, weight, full in zip(
            ("motion", "l1", "emotion"), WEIGHTS[row], FULL_WEIGHTS, strict=True
        ):
            config.loss[name] *= weight / full
    else:
        config.update_from_flattened_dict(BASE if row == "base" else ROWS[row])
    return config


def _full(size: int) -> ConfigDict:
    config = synthetic.get_config()
    model, train = config.model, config.train
    model.size, model.split_res = size, size // 2
    model.channel_multiplier, model.style_dim = size / 512, 2 * size
    model.tcn.update({"features": 4 * size, "dilations": (1, 2, 4)})
    model.emotion_span = 25  # as in the paper's config: else f_E speaks, too (docs/ablation.md)
    config.tvm.resolution = size
    config.experts.sync.fields.channel_multiplier = 0.125
    train.frames, train.steps, train.adversarial_start = 5, 300, 1_000_000
    config.loss.adversarial = 0.0  # this budget is too short for a discriminator
    # A portrait of the clip itself tells its emotion: that f_E can give another is EDS's to teach.
    config.data.portrait = "clip"
    # Every loss of the paper but L_adv; L_emo's weight is twice the perceptual loss's, as there.
    config.loss.emotion, config.loss.emotion_visual, train.eds = 0.1, True, True
    config.loss.sync = 0.1
    train.preview_every = train.save_every = 500
    return config
