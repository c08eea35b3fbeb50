"""The paper's configuration, every field; an experiment in configs/ changes what it needs."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

# Fields of a model that older saved configs lack, with what held before there were such fields: not
# always what the paper's configuration has.
_BEFORE = {
    "model": {
        "grid_size": 0,
        "light": [],
        "detail_from": 0,
        "emotion_span": 1,
        "tcn": {"dropout": 0.0, "noise": 0.0, "linear": 0},
    }
}


def paper() -> ConfigDict:
    """RETA as published: 256 px, 512-d codes, wav2vec 2.0, all losses (sections 3, C, D)."""
    config = ConfigDict()
    config.name = "paper"
    config.model = _model()
    config.discriminator = ConfigDict({"minibatch_std_group": 4})
    config.loss = ConfigDict(
        {
            "l1": 2.0,  # lambda_L1, D.2
            "perceptual": 1.0,  # lambda_perc; each VGG layer carries LIA's own factor 10 inside
            "motion": 1.0,  # lambda_motion; 0 is "w/o TVM" of Table 4
            "adversarial": 1.0,  # lambda_adv
            # Logits are compared in pairs (Eq. 4) or with the other side's mean: "average", as the
            # paper's text calls it and Jolicoeur-Martineau (2018) has it.
            "relativistic": "pairwise",
            "sync": 1.0,  # lambda_syn; 0 is "w/o L_syn" of Table 9
            "emotion": 2.0,  # lambda_emo, shared by both emotion losses
            "emotion_visual": True,  # False is "w/o L_emo^{v-v}" of Table 9
            "emotion_audio": True,  # False is "w/o L_emo^{v-a}" of Table 9
            # Where no sync expert is at hand; the paper has none of these:
            "mouth": 0.0,  # L1 of the mouth
            "lips": 0.0,  # the shape of the lips, as a landmark network sees it
            "lips_cross": 0.0,  # their opening in one's portrait with another's voice
            "prior": 0.0,  # on the 3DMM's coefficients; the paper has none, small runs gain by it
        }
    )
    # Algorithm 1; the paper gives no constants (decisions: docs/decisions.md).
    config.tvm = ConfigDict(
        {"resolution": 64, "tau_init": 0.2, "kernel": 3, "sigma": 1.5, "tau_final": 0.5}
    )
    config.experts = _experts()
    config.data = ConfigDict(
        {
            "dirs": ("data/hdtf",),  # record folders that data_pipeline.prepare wrote
            "weights": (1.0,),  # share of the samples from each
            # Source frame: of the "clip", of any of its "identity", of the clip in a like "pose".
            "portrait": "clip",
            "steady": False,  # True: frames become the portrait with their faces, held still
            "max_identity_share": 1.0,  # of the samples; 1 draws every clip alike, 0 every identity
            "readers": 0,  # threads of a process that read ahead; 0: one a core, 16 at most
            "pair_for_eds": True,  # other emotions and people side by side where train.eds swaps
            "augment": {  # how far samples are varied, 0 is off: data_pipeline/augment.py
                "brightness": 0.0,  # of full white
                "contrast": 0.0,  # share
                "saturation": 0.0,  # share
                "hue": 0.0,  # degrees
                "crop": 0.0,  # share of the side
                "stretch": 0.0,  # share of one side
                "mirror": 0.0,  # probability
                "gain_db": 0.0,
            },
            # The synthetic world's clips are made at the start if the folder has none; 0: never.
            "synthetic_identities": 0,
            "synthetic_clips_per_identity": 8,
            "synthetic_seconds": 3.0,
        }
    )
    config.train = ConfigDict(
        {
            "batch_size": 32,  # clips a step over all devices
            "accumulate": 1,  # micro-batches that a device computes one after another in a step
            "remat": "none",  # computed again for gradients: "none" | "experts" | "blocks"
            "expected_devices": 0,  # of the whole job; 0: any. Another number stops it at the start
            "frames": 5,  # frames a clip and step; the sync expert needs five
            "steps": 300_000,
            "max_minutes": 0.0,  # stop (and go on next time) after this long; 0 is no limit
            "learning_rate": 1e-3,  # D.2
            "d_learning_rate": 1e-3,
            # Of the optimiser the paper gives no more than the learning rate: the rest is ours.
            "betas": (0.0, 0.99),  # of Adam, as StyleGAN2 has them
            "warmup_steps": 500,
            "decay": False,  # True: cosine to 5 % of the learning rate, over a side's own steps
            "clip_norm": 10.0,
            "ema_decay": 0.999,
            "adversarial_start": 0,  # first step with the discriminator
            "r1_gamma": 0.0,  # R1 on the discriminator, off in the paper
            "r1_every": 16,  # steps
            "size": 0,  # of the frames that are generated and judged, of G's coarser levels; 0: all
            "only": (),  # parts of RETA that are trained, as they are named there; (): all
            "eds": True,  # False is "w/o EDS" of Table 4
            "emotion_frames": 5,  # frames of a clip that the teacher sees, cross-synthesised too
            "perceptual_scales": (1.0, 0.5, 0.25, 0.125),
            "seed": 0,
            "log_every": 100,
            "preview_every": 2_000,
            "save_every": 5_000,
            "keep_checkpoints": 2,
            "keep_every": 50_000,  # checkpoints at multiples of this are never deleted
        }
    )
    config.init_from = ""  # a model's folder, or imported image networks; "": from scratch
    config.init_partial = False  # True: a part is taken, and weights for smaller pictures grow
    return config


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config, as JSON values, with the fields of its model that are younger than it.

    A config of something else than a model stays as it is.
    """
    return _filled(values, _BEFORE) if "model" in values else dict(values)


def _filled(values: Any, before: Any) -> Any:
    """`values`, and what they lack of `before`, section by section."""
    if not (isinstance(values, Mapping) and isinstance(before, Mapping)):
        return values
    return {**before, **{name: _filled(old, before.get(name)) for name, old in values.items()}}


def check_variant(variant: str, *known: str) -> None:
    """Raises ValueError if an experiment is asked for a variant that it does not know."""
    if variant not in known:
        names = ", ".join(name for name in known if name)
        raise ValueError(f"there is no variant {variant!r}: name one of {names}")


def swaps_emotions(config: ConfigDict) -> bool:
    """Whether a step does EDS: it exchanges f_E, and the emotion losses judge what comes of it."""
    return bool(config.train.eds and config.model.emotion and config.loss.emotion)


def uses_discriminator(config: ConfigDict) -> bool:
    """Whether the discriminator learns before the last step."""
    return bool(config.loss.adversarial) and config.train.adversarial_start < config.train.steps


def _model() -> ConfigDict:
    return ConfigDict(
        {
            "size": 256,
            "style_dim": 512,
            "channel_multiplier": 1.0,
            "modulation": "adain",  # Eq. 1; "modconv" is LIA's and EDTalk's arithmetic
            "rgb_from": "warped",  # as published weights; "blended" paints what the mask leaves
            "grid_size": 0,  # finer levels keep the identity grid of this size; 0: as published
            "light": (),  # mean RGB in [0, 1] that portraits' middles are brought to; (): none
            "detail_from": 0,  # levels from here on add fine colours only; 0: as published
            "split_res": 64,  # levels below take f_STY + f_M, from here on f_STY + f_E
            "injection": "hierarchical",  # "concat" is "w/o HI" of Table 4
            # "none" is "w/o GPL" of Table 4; "direct" is "w/o 3DMM", in which D predicts f_M as it
            # did p_exp, over time; "framewise" with "a simple decoder" (appendix H), without time.
            "geometry": "3dmm",
            "emotion": True,  # False is "w/o ERL" of Table 4
            "emotion_span": 25,  # frames whose mean is f_E: syllables are left to f_M
            "use_style": True,  # False is "w/o f_STY" of Table 4
            "p_exp_dim": 64,
            "p_exp_limit": 1.0,  # a full expression is 1; of BFM, in deviations, 3
            "uv_resolution": 64,
            "morphable": "builtin",  # or the folder of an imported 3DMM (reta_jax.pretrained)
            # Dropout and noise, in standard deviations of f_A, in training only; frames that the
            # linear path of reta_jax.linear_path sees, an odd number, or 0 without one.
            "tcn": {
                "features": 512,
                "dilations": (1, 2, 4, 8),
                "dropout": 0.0,
                "noise": 0.0,
                "linear": 0,
            },
            "motion_encoder": {"channels": (32, 64, 128, 256)},
            "window": {"past": 50, "chunk": 10, "look_ahead": 2},  # video frames
            "audio_encoder": {
                "kind": "wav2vec2",  # or "whisper", or "mel", which has no published weights
                "trainable": False,  # True tunes all but wav2vec 2.0's convolutions
                "weights": "facebook/wav2vec2-base-960h",
                "wav2vec2": {
                    "conv_features": (512,) * 7,
                    "width": 768,
                    "layers": 12,
                    "heads": 12,
                    "mlp_dim": 3072,
                    "position_kernel": 128,
                    "position_groups": 16,
                },
                "whisper": {"width": 384, "layers": 3, "heads": 6, "mlp_dim": 1536},
                "mel": {"width": 256, "layers": 4},
            },
            "dtype": "bfloat16",
        }
    )


def _experts() -> ConfigDict:
    """Frozen teachers; `weights` is a folder, a hub id, or "random" (reta_jax/pretrained)."""
    return ConfigDict(
        {
            "teacher": {
                "weights": "trpakov/vit-face-expression",
                "fields": {
                    "size": 224,
                    "patch": 16,
                    "width": 768,
                    "layers": 12,
                    "heads": 12,
                    "mlp_dim": 3072,
                    "classes": 7,
                },
            },
            "sync": {"weights": "weights/sync_expert", "fields": {"channel_multiplier": 1.0}},
            "vgg": {"weights": "weights/vgg19", "fields": {"channel_multiplier": 1.0}},
            "lips": {"weights": "weights/landmark_net", "fields": {"size": 64, "width": 16}},
        }
    )


def small(config: ConfigDict, size: int, channel_multiplier: float, style_dim: int) -> ConfigDict:
    """Shrinks the paper's model: other numbers for the same fields, float32, mel features."""
    config.model.update(
        {
            "size": size,
            "style_dim": style_dim,
            "channel_multiplier": channel_multiplier,
            "split_res": max(8, size // 4),
            "dtype": "float32",
            "tcn": {"features": 2 * style_dim, "dilations": (1, 2, 4)},
            "motion_encoder": {"channels": (8, 16, 32, 32)},
        }
    )
    audio = config.model.audio_encoder
    audio.kind, audio.trainable, audio.weights = "mel", True, "random"
    audio.mel = {"width": style_dim, "layers": 2}
    audio.wav2vec2.update(
        {
            "conv_features": (64,) * 7,
            "width": 128,
            "layers": 2,
            "heads": 4,
            "mlp_dim": 256,
            "position_kernel": 32,
            "position_groups": 4,
        }
    )
    audio.whisper.update({"width": 128, "layers": 2, "heads": 4, "mlp_dim": 256})
    # The paper-scale constants erase a mouth of ten pixels: opening and blur outgrow it.
    config.tvm.update(
        {"resolution": size, "tau_init": 0.04, "kernel": 1, "sigma": 1.0, "tau_final": 0.3}
    )
    return config


def random_teachers(config: ConfigDict) -> ConfigDict:
    """Untrained teachers: for tests and first tries, where no weights are at hand."""
    for expert in config.experts.values():
        expert.weights = "random"
    return config


def smoke(config: ConfigDict) -> ConfigDict:
    """Shrinks any experiment to two steps that touch every loss, on a few synthetic clips."""
    random_teachers(small(config, size=32, channel_multiplier=1 / 16, style_dim=32))
    config.name += "_smoke"
    config.init_from = ""
    config.loss.emotion_visual = config.train.eds = True
    config.experts.teacher.fields.update(
        {"size": 32, "patch": 8, "width": 32, "layers": 1, "heads": 4, "mlp_dim": 32}
    )
    config.experts.sync.fields.channel_multiplier = 1 / 16
    config.experts.vgg.fields.channel_multiplier = 1 / 32
    config.data.update(
        {
            "dirs": ("data/smoke",),
            "weights": (1.0,),
            "synthetic_identities": 4,
            "synthetic_clips_per_identity": 2,
            "synthetic_seconds": 1.0,
        }
    )
    config.train.update(
        {
            "batch_size": 4,
            "steps": 2,
            "warmup_steps": 1,
            "decay": False,
            "adversarial_start": 0,
            "r1_gamma": 1.0,
            "r1_every": 2,
            "perceptual_scales": (1.0, 0.5),
            "log_every": 1,
            "preview_every": 1,
            "save_every": 1,
        }
    )
    return config
