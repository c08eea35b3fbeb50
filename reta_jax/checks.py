"""Refuses settings that cannot work, before anything is made, loaded or compiled."""

from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from reta_jax.config import swaps_emotions
from reta_jax.losses import RELATIVISTIC
from reta_jax.models.stylegan import resolutions
from reta_jax.step import REMAT, SYNC_FRAMES

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
    _check_shares(config, devices)
    _check_losses(config)
    _check_parts(config)
    _check_clips(config)
    _check_schedule(config)


def _check_shares(config: ConfigDict, devices: int) -> None:
    """How the clips of a step are shared out, and whether a device's are enough."""
    expected, batch, parts = (
        config.train.expected_devices, config.train.batch_size, config.train.accumulate,
    )  # fmt: skip
    if expected and devices != expected:
        raise InputError(f"train.expected_devices={expected}, but the job has {devices} devices")
    if batch % devices:
        raise InputError(f"train.batch_size={batch} does not divide over {devices} devices")
    if parts < 1 or (batch // devices) % parts:
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
    if loss.relativistic not in RELATIVISTIC:
        raise InputError(
            f"loss.relativistic is {loss.relativistic!r}; use {_choices(RELATIVISTIC)}"
        )
    if loss.sync and train.frames < SYNC_FRAMES:
        raise InputError(f"loss.sync needs train.frames >= {SYNC_FRAMES}, not {train.frames}")
    if loss.lips_cross and not loss.lips:
        raise InputError(
            "loss.lips_cross is measured on the lips that loss.lips finds: give loss.lips a weight "
            "too"
        )
    if train.size:
        _check_coarser_levels(config)


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


def _check_parts(config: ConfigDict) -> None:
    """What is trained, and what is computed again for it."""
    train, audio = config.train, config.model.audio_encoder
    if train.remat not in REMAT:
        raise InputError(f"train.remat is {train.remat!r}; use {_choices(REMAT)}")
    if unknown := set(train.only) - PARTS:
        raise InputError(
            f"train.only names {', '.join(sorted(unknown))}; parts are {', '.join(sorted(PARTS))}"
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
    if config.train.decay and config.train.steps <= config.train.warmup_steps:
        raise InputError(
            f"train.steps={config.train.steps} ends within train.warmup_steps="
            f"{config.train.warmup_steps}: nothing is left to decay (set train.decay=False)"
        )


def _choices(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))
