"""In which fields two configs differ, and how that is told."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from reta_jax.weights import config_to_dict

# Fields that say nothing of the numbers in a training's state: they may change at any time.
# (Frozen weights are told by their SHA-256; where they lie differs from machine to machine.)
FREE_FIELDS = frozenset(
    {"model.audio_encoder.weights"}
    | {f"data.{name}" for name in ("dirs", "weights", "readers", "synthetic_identities",
                                   "synthetic_clips_per_identity", "synthetic_seconds")}
    | {f"train.{name}" for name in ("max_minutes", "log_every", "preview_every", "save_every",
                                    "keep_checkpoints", "keep_every", "expected_devices", "remat")}
    | {"out", "apart_from", "log_every", "judge_batches", "store_dtype"}  # of configs/judges
)  # fmt: skip
# Model fields that act in training only; data fields that define the model's task.
_TRAINING_ALONE = frozenset({"model.dtype", "model.tcn.dropout", "model.tcn.noise"})
_ASKED = frozenset({"data.portrait", "data.steady"})
# Beside its `fields`, what an expert is, and what its weights say of whom it knows.
_OF_EXPERTS = frozenset({"kind", "task", "dirs", "image_size", "frames", "steps", "seed"})


def differences(before: Mapping[str, Any], now: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{field: (was, is)} of the fields that both configs have, by their full names.

    A field that only one of them has is of another version of the project, and stands for what
    there was without it.

    Args:
      before: a config, or some of its sections, as JSON values.
    """
    was, here = flat_fields(before), flat_fields(config_to_dict(now))
    common = sorted(was.keys() & here.keys())
    return {field: (was[field], here[field]) for field in common if was[field] != here[field]}


def told(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """The differences in words."""
    return "; ".join(f"{field} was {was!r} and is {now!r}" for field, (was, now) in changes.items())


def changes_the_model(field: str) -> bool:
    """Whether the same weights would be another model with another value of the field."""
    if field in FREE_FIELDS | _TRAINING_ALONE:
        return False
    return field.startswith(("model.", "fields.")) or field in _ASKED | _OF_EXPERTS


def flat_fields(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a.b.c": value} of nested sections."""
    found = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat_fields(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
