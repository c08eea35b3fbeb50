"""Every set of published weights that can be read, and how one becomes a folder of ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import InputError
from reta_jax.pretrained import (
    bfm,
    edtalk,
    emotion_fan,
    emotion_vit,
    ict_facekit,
    inception,
    lia,
    syncnet,
    vgg19,
    wav2vec2,
    whisper,
)
from reta_jax.pretrained.hub import is_hub_id, model_file
from reta_jax.pretrained.source import Source, Weights, file_facts
from reta_jax.pretrained.table import Params, first_of
from reta_jax.weights import check_outside, check_target, flatten, save_weights

SOURCES = {
    source.name: source
    for source in (
        edtalk.SOURCE,
        lia.SOURCE,
        wav2vec2.SOURCE,
        whisper.SOURCE,
        emotion_vit.SOURCE,
        emotion_fan.SOURCE,
        syncnet.EXPERT,
        syncnet.V2,
        vgg19.SOURCE,
        inception.SOURCE,
        bfm.SOURCE,
        ict_facekit.SOURCE,
    )
}

# What comes of names and numbers that files of other networks, or damaged ones, have in them.
UNFIT = (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError)


def read_source(
    name: str,
    path: Path,
    modulation: str = "modconv",
    portraits: Sequence[np.ndarray] | None = None,
) -> tuple[Weights, dict[str, Any]]:
    """The weights of a published file, and the record of where they come from.

    Args:
      name: a key of SOURCES.
      path: the published file, or the folder that the source consists of.
      modulation: of the image networks (LIA, EDTalk): "modconv" is the published arithmetic,
        "adain" (Eq. 1) is measured on `portraits`.
      portraits: faces uint8 (256, 256, 3); None takes people of the synthetic world.

    Leaves are views of the mapped file where they can be, of the type that is in it.

    Raises:
      InputError: the file cannot be read, or is not what this source publishes; the sentence names
        the file and the first keys that differ, or whose numbers are not finite.
    """
    if name not in SOURCES:
        raise InputError(f"{name!r} is no known source; take one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    if not path.exists():
        fetch = f": hf download {source.where} --local-dir DIR" if is_hub_id(source.where) else ""
        raise InputError(
            f"{path} does not exist; {source.name} is published as "
            f"{' or '.join(source.published)} at {source.where}{fetch}"
        )
    if path.is_dir() and is_hub_id(source.where):
        path = model_file(path) or path
    try:
        weights = source.read(path)
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path} as {source.name}: {error}") from error
    except UNFIT as error:
        raise InputError(
            f"{path}, or the config.json beside it, is not as {source.name} is published "
            f"({type(error).__name__}: {error})"
        ) from error
    _check_finite(weights.variables, path)
    if weights.kind == "image_networks":
        weights = _modulate(weights, modulation, portraits)
    return weights, provenance(source, path)


def _check_finite(variables: Params, path: Path) -> None:
    """Raises InputError with the names of arrays that hold NaN or infinite numbers."""
    broken = [name for name, x in flatten(variables).items() if not np.isfinite(x).all()]
    if broken:
        raise InputError(
            f"{path} has numbers that are not finite in {first_of(broken)}: fetch it "
            "again, or save it before its training diverged"
        )


def import_source(name: str, path: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Writes a folder of weights, complete or not at all; returns its config. As `read_source`."""
    check_target(out)
    check_outside(path, out)
    weights, record = read_source(name, path, **options)
    check_target(out, weights.kind)
    config = {"kind": weights.kind, "fields": weights.fields, "provenance": [record]}
    if weights.labels:
        config["labels"] = list(weights.labels)
    save_weights(out, weights.variables, config)
    return config


def provenance(source: Source, path: Path) -> dict[str, Any]:
    """Where weights come from and what their licence allows, as JSON values."""
    is_hidden = lambda file: any(p.startswith(".") for p in file.relative_to(path).parts)
    files = [file for file in sorted(path.rglob("*")) if not is_hidden(file)] or [path]
    return {
        "source": source.name,
        "published_at": source.where,
        "licence": source.licence,
        "commercial_use": source.is_commercial,
        "files": [file_facts(file) for file in files if file.is_file()],
    }


def _modulate(weights: Weights, modulation: str, portraits: Sequence[np.ndarray] | None) -> Weights:
    variables = weights.variables
    if modulation == "adain":
        from reta_jax.pretrained.adain import calibrate  # Not above: all else needs no JAX.

        variables = calibrate(variables, portraits)
    return weights._replace(variables=variables, fields={"modulation": modulation})
