"""Our own models, as folders to share: params.safetensors, config.json, and a model card."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from data_pipeline.errors import InputError
from reta_jax.models.morphable import MorphableModel
from reta_jax.models.reta import RETA, build_reta
from reta_jax.pretrained.hub import resolve
from reta_jax.pretrained.licences import licence_lines
from reta_jax.pretrained.load import BUILTIN, load_morphable
from reta_jax.weights import (
    CARD_FILE,
    PARAMS_FILE,
    check_params,
    config_from_dict,
    config_to_dict,
    load_weights,
    save_weights,
)

KIND = "reta"


class Pretrained(NamedTuple):
    """A model with all that rendering needs."""

    reta: RETA
    params: Any
    morphable: MorphableModel
    config: ConfigDict

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Records of the published weights that it was made with, and of whom it knows."""
        return config_to_dict(self.config).get("provenance", [])


def load_reta(source: str | Path, dtype: str | None = None) -> Pretrained:
    """A model from a folder of weights, a training run's workdir, or a hub repository.

    Args:
      dtype: of the networks' arithmetic, in place of the config's; E_I has float32 in any case.

    Raises:
      InputError: nothing there, or the weights do not fit the model that their config describes;
        the sentence says what differs.
    """
    folder = resolve(str(source), "RETA", on_hub=True)
    if (folder / PARAMS_FILE).is_file():
        params, values = load_weights(folder)
        if values.get("kind") != KIND:
            raise InputError(f"{folder} holds {values.get('kind')!r} weights, not a RETA model")
    elif (folder / "checkpoints").is_dir():
        from reta_jax.checkpoint import latest_ema  # Orbax takes a second to import

        params, values = latest_ema(folder)
    else:
        raise InputError(
            f"no model at {folder}: give a folder with {PARAMS_FILE}, or a training workdir"
        )
    with _told_of(folder):
        config = config_from_dict(values)
        config.model.dtype = dtype or config.model.dtype
        reta = build_reta(config.model)
        # A portrait is seen once: its colours are not worth rounding.
        reta = reta.clone(image_encoder=reta.image_encoder.clone(dtype=jnp.float32))
    morphable, _ = load_morphable(config.model)  # from elsewhere: what is wrong there, it says
    with _told_of(folder):
        expected = expected_params(reta, morphable, config.model.size)
    check_params(params, expected, str(folder))
    return Pretrained(reta, jax.tree.map(jnp.asarray, params), morphable, config)


@contextlib.contextmanager
def _told_of(folder: Path) -> Iterator[None]:
    """Around what a config that is no model's breaks."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"the config at {folder} describes no RETA model: {error}") from error


def save_reta(
    folder: Path,
    params: Any,
    config: dict[str, Any],
    provenance: list[dict[str, Any]],
    dtype: str = "float32",
) -> None:
    """Writes a model to share, complete or not at all.

    Args:
      params: of RETA.
      config: the resolved config of its training, as JSON values.
      provenance: records of the published weights that it was made with.
      dtype: storage type of the parameters.
    """
    config = config | {"kind": KIND, "provenance": provenance}
    card = model_card(folder, config, sum(leaf.size for leaf in jax.tree.leaves(params)))
    save_weights(folder, params, config, dtype, {CARD_FILE: card.encode()})


def expected_params(reta: RETA, morphable: MorphableModel, size: int) -> Any:
    """Shapes of the model's parameters."""
    portrait, audio = jnp.zeros((1, size, size, 3)), jnp.zeros((1, reta.window.samples))
    init = lambda key: reta.init(key, portrait, audio, jnp.zeros(1, int), 1, morphable)
    return jax.eval_shape(init, jax.random.key(0))["params"]


def model_card(folder: Path, config: dict[str, Any], count: int) -> str:
    """README.md of a model: what it is, how to use it, and what its licences ask.

    Args:
      folder: where the model is written, for the example; of an absolute one the last part, since
        cards are passed on.
      config: as `save_reta` writes it.
      count: of parameters.
    """
    model, licences = config["model"], licence_lines(config["provenance"])
    place = folder.name if folder.is_absolute() else folder
    return "\n".join(
        [
            "---",
            "library_name: reta_jax",
            "pipeline_tag: image-to-video",
            "tags: [talking-head, audio-driven, jax, flax]",
            "---",
            f"# RETA: {config['name']}",
            "",
            f"One portrait and a voice to a talking head of {model['size']} px at 25 fps.",
            f"{count:,} parameters, modulation `{model['modulation']}`, audio encoder "
            f"`{model['audio_encoder']['kind']}`.",
            "",
            "```python",
            "from data_pipeline.audio import load_audio",
            "from data_pipeline.face import portrait_crop",
            "from data_pipeline.video import read_image",
            "from reta_jax.render import Renderer",
            "",
            f'renderer = Renderer.from_pretrained("{place}")',
            'portrait, _ = portrait_crop(read_image("docs/grace_hopper.png"), renderer.size)',
            'voice = load_audio("docs/voice.flac")  # 16 kHz mono of any file',
            "frames = renderer.render(portrait, voice)  # uint8 (t, h, w, 3), 25 a second",
            "```",
            "",
            *_morphable_lines(model["morphable"]),
            "Licences of the weights that it was made with:",
            "",
            *(f"- {line}" for line in licences or ["none: trained from scratch"]),
            "",
            "A talking head of a real person needs that person's consent, and should say that it",
            "is synthetic.",
            "",
        ]
    )


def _morphable_lines(morphable: str) -> list[str]:
    """What has to be fetched beside this folder; nothing for the built-in 3DMM."""
    if morphable == BUILTIN:
        return []
    return [
        f"Its 3DMM is not in this folder: it is read from `{morphable}`, as seen from where a",
        f"command is started. `python -m reta_jax.pretrained import SOURCE FILE --out {morphable}`",
        "puts it there (`list` says where it is published).",
        "",
    ]
