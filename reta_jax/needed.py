"""Looks for every set of weights that a run needs, before any is loaded and any data are made."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from reta_jax.experts.load import wanted_experts
from reta_jax.initial import find_start
from reta_jax.pretrained.load import BUILTIN, RANDOM, find
from reta_jax.weights import load_config


def check_at_hand(config: ConfigDict, is_start: bool) -> None:
    """Looks for each source that the config names; those on the hub are fetched into its cache.

    Args:
      is_start: from the first step, for which alone `init_from` and the published audio encoder
        are read.

    Raises:
      InputError: the sentence names all that are missing, and where each is published.
    """
    missing: list[str] = []

    def look(finds: Callable[..., Any], *what: Any) -> Any:
        try:
            return finds(*what)
        except InputError as error:
            missing.append(str(error))

    for name, (kind, is_needed) in wanted_experts(config).items():
        weights = config.experts[name].weights
        if is_needed and weights != RANDOM:
            look(find, kind, weights)
    if config.model.morphable != BUILTIN:
        look(find, "morphable", config.model.morphable)
    if is_start:
        start = look(_start, config) if config.init_from else None
        audio = config.model.audio_encoder
        if audio.kind not in ("mel", _heard_by(start)) and audio.weights != RANDOM:
            look(find, audio.kind, audio.weights)
    if len(missing) > 1:
        listed = "; ".join(f"({number}) {one}" for number, one in enumerate(missing, start=1))
        raise InputError(f"{len(missing)} sets of weights are missing: {listed}")
    if missing:
        raise InputError(missing[0])


def _start(config: ConfigDict) -> dict[str, Any]:
    """The config of the weights that `init_from` names."""
    return load_config(find_start(config))


def _heard_by(start: dict[str, Any] | None) -> str | None:
    """Kind of the audio encoder that comes with these weights; None if none does."""
    model = (start or {}).get("model")
    return model["audio_encoder"]["kind"] if model else None
