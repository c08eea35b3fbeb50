"""What training from its first step starts with: published or own weights, by the config."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from reta_jax.differences import differences, told
from reta_jax.grow import grow
from reta_jax.pretrained.adain import calibrate
from reta_jax.pretrained.hub import resolve
from reta_jax.pretrained.load import RANDOM, Loaded, load
from reta_jax.pretrained.reta import KIND
from reta_jax.state import TrainState
from reta_jax.weights import check_params, load_weights


class Initial(NamedTuple):
    """Parameters to start from, each a part of its tree or {}; the rest starts random."""

    reta: dict[str, Any]
    discriminator: dict[str, Any]
    provenance: list[dict[str, Any]]
    otherwise: str = ""  # fields of `model` that they were trained with otherwise, one sentence


def initial_weights(config: ConfigDict, abstract: TrainState) -> Initial:
    """The weights that `init_from` and `model.audio_encoder` name.

    Args:
      abstract: the state's shapes.

    Raises:
      InputError: missing weights, or weights that do not fit the model.
    """
    reta, discriminator, provenance, otherwise = {}, {}, [], ""
    if config.init_from:
        reta, discriminator, provenance, otherwise = _from_folder(config, abstract)
    audio = config.model.audio_encoder
    expected = abstract.params["reta"]["audio_encoder"]
    is_there = _shapes(reta.get("audio_encoder")) == _shapes(expected)
    if audio.kind != "mel" and audio.weights != RANDOM and not is_there:
        voice = _speech_network(audio, expected["network"])
        reta = reta | {"audio_encoder": {"network": voice.variables}}
        provenance = provenance + voice.provenance
    return Initial(reta, discriminator, provenance, otherwise)


def _shapes(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape, params)


def _speech_network(audio: ConfigDict, expected: Any) -> Loaded:
    """The published speech network that `model.audio_encoder` names, up to the layers wanted."""
    voice = load(audio.kind, audio.weights)
    wanted = audio[audio.kind].layers
    left = {f"layer_{i}" for i in range(wanted, voice.config["fields"]["layers"])}
    variables = {name: part for name, part in voice.variables.items() if name not in left}
    check_params(variables, expected, audio.weights)
    heads = voice.config["fields"]["heads"]  # which no shape shows
    if heads != audio[audio.kind].heads:
        raise InputError(
            f"{audio.weights} has {heads} attention heads, "
            f"model.audio_encoder.{audio.kind}.heads is {audio[audio.kind].heads}"
        )
    return voice._replace(variables=variables)


def find_start(config: ConfigDict) -> Path:
    """The folder that `init_from` names; raises InputError where there is none."""
    return resolve(config.init_from, "init_from", on_hub=False, help=_HELP)


def _from_folder(config: ConfigDict, abstract: TrainState) -> Initial:
    """A whole model of ours, or the image networks of an import."""
    params, values = load_weights(find_start(config))
    provenance = values.get("provenance", [])
    if values.get("kind") == KIND:
        _check_linear_path(values["model"], config)
        if not config.init_partial:
            check_params(params, abstract.params["reta"], config.init_from)
        for size in _doublings(values["model"], config.model):
            only_detail = 0 < config.model.detail_from <= 2 * size
            params = grow(params, size, config.model.channel_multiplier, only_detail)
        return Initial(params, {}, provenance, _otherwise(values["model"], config))
    if values.get("kind") != "image_networks":
        raise InputError(f"init_from={config.init_from} holds {values.get('kind')!r} weights")
    discriminator = params.pop("discriminator", {})
    modulations = values["fields"]["modulation"], config.model.modulation
    if modulations == ("modconv", "adain"):
        params = calibrate(params)
    elif modulations[0] != modulations[1]:
        raise InputError(
            f"{config.init_from} was imported for modulation {modulations[0]!r}, "
            f"model.modulation is {modulations[1]!r}: import it again with --modulation"
        )
    if not config.init_partial:
        for name, part in params.items():
            check_params(part, abstract.params["reta"][name], f"{name} of {config.init_from}")
        if discriminator:
            source = f"discriminator of {config.init_from}"
            check_params(discriminator, abstract.d_params, source)
    return Initial(params, discriminator, provenance)


def _otherwise(have: dict[str, Any], config: ConfigDict) -> str:
    """What no shape shows, like `emotion_span`, and what grows or starts anew."""
    left = ("model.audio_encoder.", "model.tcn.", "model.dtype")
    found = differences({"model": have}, config)
    changes = {field: found[field] for field in found if not field.startswith(left)}
    return f"{config.init_from} was trained otherwise: {told(changes)}" if changes else ""


def _check_linear_path(have: dict[str, Any], config: ConfigDict) -> None:
    """A regression's path would be lost, or one of zeros be taken for a regression's."""
    there, here = have["tcn"]["linear"], config.model.tcn.linear
    if there != here:
        raise InputError(
            f"init_from={config.init_from} has "
            f"{f'a linear path of {there} frames' if there else 'no linear path'}, "
            f"model.tcn.linear is {here}: set model.tcn.linear={there} (python -m "
            "reta_jax.linear_path adds one to trained weights)"
        )


def _doublings(have: dict[str, Any], want: ConfigDict) -> Iterator[int]:
    """The sizes on the way, if widths are the same: 64 and 128 from a model of 64 px to 256 px."""
    size = have["size"]
    while have["channel_multiplier"] == want.channel_multiplier and size < want.size:
        yield size
        size *= 2


_HELP = (
    "; train a model, or import published image networks with python -m reta_jax.pretrained import "
    "edtalk FILE"
)
