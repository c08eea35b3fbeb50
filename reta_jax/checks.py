"""Refuses settings that cannot work, before anything is made, loaded or compiled."""

import math
from numbers import Real
from typing import Any, get_args

from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from data_pipeline.files import refuse_address
from data_pipeline.loader import WindowSpec
from reta_jax.config import paper, swaps_emotions, uses_discriminator
from reta_jax.differences import flat_fields
from reta_jax.losses import RELATIVISTIC
from reta_jax.models.reta import RETA, build_reta
from reta_jax.models.stylegan import resolutions
from reta_jax.step import REMAT, SYNC_FRAMES

AT_LEAST = {
    "model.style_dim": 1,
    "model.emotion_span": 1,
    "model.uv_resolution": 1,
    "model.tcn.noise": 0,
    "model.tcn.linear": 0,
    "model.window.past": 0,
    "model.window.look_ahead": 0,
    "discriminator.minibatch_std_group": 1,
    "data.readers": 0,
    "data.synthetic_identities": 0,
    "data.synthetic_clips_per_identity": 1,
    "data.augment.hue": 0,
    "data.augment.gain_db": 0,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "train.frames": 1,
    "train.steps": 1,
    "train.seed": 0,
    "train.max_minutes": 0,
    "train.warmup_steps": 0,
    "train.adversarial_start": 0,
    "train.r1_gamma": 0,
    "train.r1_every": 1,
    "train.emotion_frames": 1,
    "train.log_every": 1,
    "train.preview_every": 1,
    "train.save_every": 1,
    "train.keep_checkpoints": 1,
    "train.keep_every": 1,
} | {
    f"loss.{term}": 0
    for term in ("l1", "perceptual", "motion", "adversarial", "sync", "emotion", "mouth", "lips",
                 "lips_cross", "prior")
}  # fmt: skip
ABOVE_ZERO = (
    "model.channel_multiplier", "model.p_exp_limit", "data.synthetic_seconds",
    "train.learning_rate", "train.d_learning_rate", "train.clip_norm",
)  # fmt: skip
BELOW_ONE = (
    "model.tcn.dropout", "tvm.tau_init", "tvm.tau_final", "data.augment.crop",
    "data.augment.stretch", "train.ema_decay",
)  # fmt: skip
UP_TO_ONE = (
    "data.max_identity_share", "data.augment.brightness", "data.augment.contrast",
    "data.augment.saturation", "data.augment.mirror",
)  # fmt: skip
LEVELS = {"model.size": 8, "model.split_res": 8, "model.grid_size": 8, "model.detail_from": 16}
MAY_BE_ZERO = ("model.grid_size", "model.detail_from")
# Fields, and sections, whose numbers are above 0.
SIZED = (
    "model.tcn.features", "model.tcn.dilations", "model.motion_encoder.", "model.audio_encoder.",
    "experts.",
)  # fmt: skip
DIVIDE_THE_WIDTH = (".heads", ".position_groups")
MAY_BE_INFINITE = ("train.clip_norm", "train.max_minutes")  # where there is no limit
CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "loss.relativistic": RELATIVISTIC,
    "data.portrait": get_args(WindowSpec.__annotations__["portrait"]),
    "train.remat": REMAT,
}
SMALLEST_PERCEIVED = 16  # pixels of which VGG-19's last tap has one
PARTS = {
    *("image_encoder", "audio_encoder", "generator", "motion_decoder", "motion_encoder"),
    *("emotion_student", "fusion"),
}  # of RETA, for train.only


def check_config(config: ConfigDict, devices: int) -> None:
    """Refuses settings that cannot work, with the numbers.

    Args:
      devices: of the whole job.

    Raises:
      InputError: with what to set instead.
    """
    for dir in config.data.dirs:
        refuse_address(dir)
    _check_fields(config)
    reta = build_reta(config.model)  # refuses what is none of its choices
    _check_shares(config, devices)
    _check_losses(config)
    _check_parts(config, reta)
    _check_clips(config)
    _check_schedule(config)


def _check_fields(config: ConfigDict) -> None:
    """What a field may be whatever the others are."""
    # An experiment that gives a section anew may leave out what stays as the paper's config has it.
    values = flat_fields(paper().to_dict()) | flat_fields(config.to_dict())
    for field, least in AT_LEAST.items():
        if not values[field] >= least:  # nor is nan
            never = " (for never, more than train.steps)" if field.endswith("_every") else ""
            raise InputError(f"{field}={values[field]}: give {least} or more{never}")
    for fields, holds, wanted in (
        (ABOVE_ZERO, lambda x: x > 0, "more than 0"),
        (BELOW_ONE, lambda x: 0 <= x < 1, "0 or more and below 1"),
        (UP_TO_ONE, lambda x: 0 <= x <= 1, "0 to 1"),
    ):
        if wrong := [field for field in fields if not holds(values[field])]:
            raise InputError(f"{wrong[0]}={values[wrong[0]]}: give {wanted}")
    for field, least in LEVELS.items():
        size, may_be_zero = values[field], field in MAY_BE_ZERO
        if (size < least or size & (size - 1)) and not (may_be_zero and size == 0):
            zero = ", or 0" if may_be_zero else ""
            raise InputError(f"{field}={size}: give a power of two, {least} or more{zero}")
    for field, choices in CHOICES.items():
        if values[field] not in choices:
            raise InputError(f"{field} is {values[field]!r}; use {', '.join(map(repr, choices))}")
    for field, value in values.items():
        _check_numbers(field, value)
        section, dot, name = field.rpartition(".")
        width = values.get(f"{section}.width", 0)
        if dot + name in DIVIDE_THE_WIDTH and width % value:
            raise InputError(f"{field}={value} does not divide {section}.width={width}")
    betas, weights = config.train.betas, config.data.weights
    if (linear := values["model.tcn.linear"]) and not linear % 2:
        raise InputError(f"model.tcn.linear={linear}: give an odd number of frames, or 0")
    if len(betas) != 2 or not all(isinstance(beta, Real) and 0 <= beta < 1 for beta in betas):
        raise InputError(f"train.betas={betas}: give two numbers, 0 or more and below 1")
    if not all(isinstance(weight, Real) and weight > 0 for weight in weights):
        raise InputError(f"data.weights={weights}: give a number above 0 for each of data.dirs")


def _check_numbers(field: str, value: Any) -> None:
    """A field's number, or the numbers in it."""
    for number in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(number, Real) or isinstance(number, bool):
            continue
        if not math.isfinite(number) and field not in MAY_BE_INFINITE:
            raise InputError(f"{field}={value}: give a finite number")
        if field.startswith(SIZED) and number <= 0:
            raise InputError(f"{field}={value}: give more than 0")


def _check_shares(config: ConfigDict, devices: int) -> None:
    """How the clips of a step are shared out, and whether a device's are enough."""
    expected, batch, parts = (
        config.train.expected_devices, config.train.batch_size, config.train.accumulate,
    )  # fmt: skip
    if expected and devices != expected:
        raise InputError(f"train.expected_devices={expected}, but the job has {devices} devices")
    if batch % devices:
        raise InputError(f"train.batch_size={batch} does not divide over {devices} devices")
    if (batch // devices) % parts:
        raise InputError(
            f"train.accumulate={parts} does not divide the {batch // devices} clips of a device "
            f"(train.batch_size={batch} over {devices} devices)"
        )
    clips = batch // devices // parts
    swaps = {
        "train.eds swaps emotions": ("train.eds=False", swaps_emotions(config)),
        "loss.lips_cross swaps voices": ("loss.lips_cross=0", config.loss.lips_cross),
    }
    for what, (without, is_on) in swaps.items():
        if is_on and clips < 2:
            raise InputError(
                f"{what} among the clips that a device computes at once and needs 2 clips on each; "
                f"train.batch_size={batch} gives {clips} ({devices} devices, "
                f"train.accumulate={parts}): set {without} or raise it"
            )


def _check_losses(config: ConfigDict) -> None:
    loss, train = config.loss, config.train
    if loss.sync and train.frames < SYNC_FRAMES:
        raise InputError(f"loss.sync needs train.frames >= {SYNC_FRAMES}, not {train.frames}")
    if loss.motion and train.frames < 2:
        raise InputError(
            "loss.motion is of what moves within train.frames, and in 1 nothing does: give 2 or "
            "more, or set loss.motion=0"
        )
    if loss.lips_cross and not loss.lips:
        raise InputError(
            "loss.lips_cross is measured on the lips that loss.lips finds: give loss.lips a weight "
            "too"
        )
    tvm = config.tvm
    if loss.motion and (tvm.kernel < 1 or not tvm.sigma > 0):
        raise InputError(
            f"tvm.kernel={tvm.kernel} and tvm.sigma={tvm.sigma}: give a square of 1 pixel or more, "
            f"and a blur of more than 0"
        )
    if train.size:
        _check_coarser_levels(config)
    if loss.perceptual:
        _check_pyramid(config)


def _check_coarser_levels(config: ConfigDict) -> None:
    size, whole = config.train.size, config.model.size
    if size not in resolutions(whole):
        raise InputError(
            f"train.size={size} is no level of G: use one of "
            f"{', '.join(map(str, resolutions(whole)))}, or 0 for all"
        )
    if size < whole and (config.loss.motion or config.loss.adversarial):
        raise InputError(
            f"train.size={size}: the motion mask and the discriminator look at whole frames of "
            f"{whole} px; set loss.motion and loss.adversarial to 0"
        )


def _check_pyramid(config: ConfigDict) -> None:
    side, scales = config.train.size or config.model.size, config.train.perceptual_scales
    if not scales:
        raise InputError(
            f"train.perceptual_scales=() leave loss.perceptual={config.loss.perceptual} nothing to "
            f"look at: give (1.0,), or set loss.perceptual=0"
        )
    for scale in scales:
        step = 1 / scale if scale > 0 else 0.5  # of no use, as one below 1 is
        if step < 1 or abs(step - round(step)) > 0.01 or side / step <= SMALLEST_PERCEIVED - 1:
            raise InputError(
                f"train.perceptual_scales={scales}: of {side} px, give 1, 1/2, 1/3 … that leave "
                f"{SMALLEST_PERCEIVED} px or more"
            )


def _check_parts(config: ConfigDict, reta: RETA) -> None:
    """What is trained."""
    train, audio = config.train, config.model.audio_encoder
    parts = {part for part in PARTS if getattr(reta, part) is not None}
    if unknown := set(train.only) - parts:
        raise InputError(
            f"train.only names {', '.join(sorted(unknown))}; parts of this model are "
            f"{', '.join(sorted(parts))}"
        )
    if "audio_encoder" in train.only and not audio.trainable:
        raise InputError(
            "train.only names audio_encoder, which model.audio_encoder.trainable=False freezes"
        )
    if audio.kind == "mel" and not audio.trainable:
        raise InputError(
            "model.audio_encoder.trainable=False keeps published weights as they are, and "
            "kind='mel' has none: set model.audio_encoder.trainable=True (train.only freezes parts)"
        )


def _check_clips(config: ConfigDict) -> None:
    if config.train.frames > config.model.window.chunk:
        raise InputError(
            f"train.frames={config.train.frames} exceeds model.window.chunk="
            f"{config.model.window.chunk}"
        )
    if len(config.data.dirs) != len(config.data.weights):
        raise InputError(
            f"data.dirs names {len(config.data.dirs)} folders, data.weights has "
            f"{len(config.data.weights)} numbers: give one each"
        )


def _check_schedule(config: ConfigDict) -> None:
    train = config.train
    if not train.decay:
        return
    if train.steps <= train.warmup_steps:
        raise InputError(
            f"train.steps={train.steps} ends within train.warmup_steps={train.warmup_steps}: "
            "nothing is left to decay (set train.decay=False)"
        )
    steps = train.steps - train.adversarial_start
    if uses_discriminator(config) and steps <= train.warmup_steps:
        raise InputError(
            f"train.adversarial_start={train.adversarial_start} leaves the discriminator {steps} "
            f"of train.steps={train.steps}, within train.warmup_steps={train.warmup_steps}: "
            "nothing is left to decay (set train.decay=False)"
        )
