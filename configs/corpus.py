"""RETA on a folder of talking heads, an hour or less of them.

    python -m data_pipeline.prepare folder --raw videos --out data/corpus
    python -m reta_jax.train --config configs/corpus.py --workdir runs/64
    python -m reta_jax.train --config configs/corpus.py:128 --workdir runs/128 \
        --config.init_from=runs/64/weights
    python -m reta_jax.train --config configs/corpus.py:256 --workdir runs/256 \
        --config.init_from=runs/128/weights --config.model.tcn.linear=0
    python -m reta_jax.linear_path --checkpoint runs/256 --data data/corpus --out weights/mine

A mouth is learnt at 64 and 128 px, where a step is cheap; the weights then grow (reta_jax/grow.py).
At 256 px the portrait's own detail comes in; the linear path then adds what a regression hears.
`:256` alone goes on from the shipped weights, which have that path, and so does `:voice`, which
leaves faces as they are and learns from new voices what mouths do.

The small model of configs/synthetic.py, starting from its weights, with three layers of Whisper's
encoder in place of the mel one: so little speech does not teach one to hear (docs/decisions.md).
No sync expert of filmed faces is at hand: the mouth is asked for by L1 inside its crop and by the
shape of the lips, as a landmark network of filmed faces sees it (configs/judges/corpus.py; shipped,
and given by --config.experts.lips.weights). Perceptual features are those of an untrained VGG.
"""

from reta_jax.config import check_variant, paper, small, smoke


def get_config(variant: str = ""):
    check_variant(variant, "", "64", "128", "256", "voice", "smoke")
    size = int(variant) if variant.isdecimal() else 256 if variant == "voice" else 64
    config = small(paper(), size=size, channel_multiplier=1 / 8, style_dim=128)
    config.name = "corpus"
    config.model.split_res, config.model.rgb_from = 32, "blended"
    config.model.grid_size, config.model.detail_from = 64, 256
    config.model.emotion_span = 1  # no teacher of emotions here: f_E serves the mouth, too
    config.model.light = 0.67, 0.46, 0.37  # of these people's noses and cheeks, on average
    config.model.tcn.linear = 5 if size == 256 else 0  # frames; as the weights below have it
    # Of rendered people, all but the voice; of filmed ones, all.
    config.init_from = "weights/corpus/reta" if size == 256 else "weights/synthetic/reta"
    config.init_partial = True
    audio = config.model.audio_encoder
    audio.kind, audio.weights, audio.trainable = "whisper", "openai/whisper-tiny", False
    audio.whisper.update({"width": 384, "layers": 3, "heads": 6, "mlp_dim": 1536})
    config.data.dirs = ("data/corpus",)
    config.data.portrait, config.data.steady = "pose", True  # no voice tells how a head turns
    config.data.max_identity_share = 0.1  # one person may own most of the minutes
    config.data.augment = {  # people are few: each becomes several
        "brightness": 0.1, "contrast": 0.2, "saturation": 0.4, "hue": 8.0,
        "crop": 0.1, "stretch": 0.1, "mirror": 0.5, "gain_db": 6.0,
    }  # fmt: skip
    config.experts.vgg.weights = "random"
    config.experts.vgg.fields = {"channel_multiplier": 1 / 8}
    config.loss.update({"sync": 0.0, "emotion": 0.0, "perceptual": 0.05, "adversarial": 0.0})
    config.loss.l1, config.loss.motion, config.loss.prior = 10.0, 20.0, 0.002
    config.loss.mouth, config.loss.lips = 10.0, 3000.0
    config.experts.lips.weights = "weights/corpus/landmark_net"
    train = config.train
    train.batch_size, train.frames, train.steps = 4, 5, 10_000
    train.learning_rate, train.betas = 8e-4, (0.5, 0.99)
    train.warmup_steps, train.decay, train.clip_norm = 50, True, 1.0
    train.perceptual_scales = (1.0, 0.5)
    train.log_every, train.preview_every, train.save_every = 50, 500, 1_000
    if size == 256:  # four seconds a step become one and a half
        config.loss.motion, train.frames, train.perceptual_scales = 0.0, 2, (0.5,)
    if variant == "voice":
        train.only = ("motion_decoder", "motion_encoder", "emotion_student")
        config.model.tcn.update({"dropout": 0.2, "noise": 0.7})  # voices are few
        train.batch_size, train.frames, train.steps, train.learning_rate = 8, 1, 700, 5e-4
    return smoke(config) if variant == "smoke" else config
