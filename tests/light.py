"""A run that traces and compiles in seconds: L1 alone, on a model of 16 px."""

from pathlib import Path

from ml_collections import ConfigDict

from configs.synthetic import get_config

LIGHT_MODEL = {
    "model.size": 16, "model.split_res": 16, "model.uv_resolution": 16,
    "model.tcn.dilations": (1,), "model.motion_encoder.channels": (4, 8),
    "model.audio_encoder.mel.layers": 1,
}  # fmt: skip
LIGHT = LIGHT_MODEL | {
    "loss.perceptual": 0.0, "loss.motion": 0.0, "loss.adversarial": 0.0, "loss.sync": 0.0,
    "loss.emotion": 0.0, "train.batch_size": 2,
}  # fmt: skip


def light_config(data: Path | str = "data/nowhere", **train) -> ConfigDict:
    """train: of the config's `train` section, in place of the smoke run's."""
    config = get_config("smoke")
    config.data.dirs = (str(data),)
    config.update_from_flattened_dict(LIGHT)
    config.train.update(train)
    return config


def as_flags(settings: dict) -> list[str]:
    """Of a command, for fields of a config by their dotted names."""
    return [f"--config.{name}={value}" for name, value in settings.items()]
