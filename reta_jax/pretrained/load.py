"""Weights by the name that a config gives them, whatever the layout of the folder."""

from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from reta_jax.models.morphable import MorphableModel, build_morphable, builtin_morphable
from reta_jax.pretrained import emotion_vit, wav2vec2, whisper
from reta_jax.pretrained.hub import model_file, resolve
from reta_jax.pretrained.sources import SOURCES, read_source
from reta_jax.weights import PARAMS_FILE, as_float32, load_weights

RANDOM, BUILTIN = "random", "builtin"
FULL_EXPRESSION = 1.0  # coefficient of a full expression, where a 3DMM does not say another
# Kinds of network that the hub publishes in transformers' layout.
HUB_SOURCES = {
    source.name: source for source in (wav2vec2.SOURCE, whisper.SOURCE, emotion_vit.SOURCE)
}


class Loaded(NamedTuple):
    """A network's weights, how to build it, and the records of where they come from."""

    variables: Any
    config: dict[str, Any]
    provenance: list[dict[str, Any]]


def load(kind: str, weights: str) -> Loaded:
    """Reads the weights of a network of one kind.

    Args:
      kind: what config.json must call it ("emotion_vit", "wav2vec2", "image_networks", ...).
      weights: a folder of ours, a hub id, or a folder in the hub's layout.

    Raises:
      InputError: nothing there, another kind of network, or files that do not fit it.
    """
    folder = find(kind, weights)
    if kind in HUB_SOURCES and not (folder / PARAMS_FILE).is_file():
        file = model_file(folder)
        if file is None:
            raise InputError(f"no weights for {kind} in {weights}: it holds no model file")
        found, record = read_source(kind, file)
        config = {"kind": kind, "fields": found.fields, "labels": list(found.labels)}
        return Loaded(as_float32(found.variables), config, [record])
    variables, config = load_weights(folder)
    if config.get("kind") != kind:
        raise InputError(f"{weights} holds {config.get('kind')!r} weights, {kind} was asked for")
    return Loaded(variables, config, config.get("provenance", []))


def find(kind: str, weights: str) -> Path:
    """The folder of weights that `load` reads; raises InputError where there is none."""
    return resolve(weights, kind, kind in HUB_SOURCES, _how_to_get(kind))


def load_morphable(model: ConfigDict) -> tuple[MorphableModel, list[dict[str, Any]]]:
    """The 3DMM that the config's `model` section names: "builtin", or an imported folder.

    Raises:
      InputError: no such folder, or it has another number of modes than `model.p_exp_dim`.
    """
    records = []
    if model.morphable == BUILTIN:
        morphable = builtin_morphable(model.uv_resolution)
    else:
        found = load("morphable", model.morphable)
        fields = found.config["fields"]
        names = tuple(fields["names"])
        morphable = build_morphable(**found.variables, names=names, resolution=model.uv_resolution)
        records = found.provenance
        _check_limit(model, fields.get("limit", FULL_EXPRESSION))
    modes = morphable.expression.shape[-1]
    if model.geometry == "3dmm" and modes != model.p_exp_dim:
        raise InputError(
            f"the 3DMM {model.morphable} has {modes} expressions; set model.p_exp_dim={modes}, "
            f"not {model.p_exp_dim}"
        )
    return morphable, records


def _check_limit(model: ConfigDict, limit: float) -> None:
    """Warns of coefficients that cannot come to where the 3DMM's expressions are full."""
    if model.geometry == "3dmm" and model.p_exp_limit < limit:
        logging.warning(
            "model.p_exp_limit=%g holds the expressions of %s below full ones: set it to %g",
            *(model.p_exp_limit, model.morphable, limit),
        )


def _how_to_get(kind: str) -> str:
    """What to do about missing weights of a kind."""
    names = {"image_networks": "edtalk", "morphable": "bfm"}
    source = SOURCES.get(names.get(kind, kind))
    if source is None:
        return "; train it (python -m reta_jax.train_expert), or give another folder"
    return (
        f"; import the published file ({source.where}) with python -m reta_jax.pretrained import "
        f'{source.name} FILE, train your own, or say "random"'
    )
