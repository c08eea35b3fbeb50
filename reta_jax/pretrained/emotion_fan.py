"""Emotion-FAN (MIT): `state_dict` of a checkpoint of Open-Debin/Emotion-FAN or a fine-tune of it.

Classes as published for AFEW: happy, angry, disgust, fear, sad, neutral, surprise; a MEAD fine-tune
adds contempt.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.errors import InputError
from reta_jax.experts.emotion_fan import EmotionFAN
from reta_jax.pretrained.layers import NOT_WEIGHTS, batch_norm, conv_layer, linear_layer
from reta_jax.pretrained.source import Source, Weights, read_state
from reta_jax.pretrained.table import Params, Table, apply_table

LABELS = ("happy", "angry", "disgusted", "fear", "sad", "neutral", "surprised", "contempt")
HEADS = {
    "alpha.0": "alpha",
    "beta.0": "beta",
    "pred_fc1": "attention_head",
    "pred_fc2": "relation_head",
}


def convert(state: Mapping[str, np.ndarray], network: EmotionFAN = EmotionFAN()) -> Params:
    """Variables of `network` from the published tensors.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    state = {key.removeprefix("module."): weight for key, weight in state.items()}
    frames = jax.ShapeDtypeStruct((1, 2, 224, 224, 3), jnp.float32)
    like = jax.eval_shape(network.init, jax.random.key(0), frames)
    return apply_table(state, TABLE, ignore=[NOT_WEIGHTS], like=like)


def read(path: Path) -> Weights:
    """Weights of 7 or 8 classes, whichever the file holds."""
    state = read_state(path, "state_dict")
    heads = [len(weight) for key, weight in state.items() if key.endswith("pred_fc2.bias")]
    if heads not in ([7], [8]):
        raise InputError(f"{path} is no Emotion-FAN: expected pred_fc2.bias of 7 or 8 classes")
    fields = {"classes": heads[0]}
    return Weights("emotion_fan", convert(state, EmotionFAN(**fields)), fields, LABELS[: heads[0]])


def _table() -> Table:
    entries = {}
    for key, path in HEADS.items():
        entries |= linear_layer(key, f"params/{path}")
    entries |= _conv_norm("conv1", "bn1", "stem", "stem_norm")
    for stage in range(4):
        for block in range(2):
            key, path = f"layer{stage + 1}.{block}", f"block_{stage}_{block}"
            for i in (1, 2):
                entries |= _conv_norm(
                    f"{key}.conv{i}", f"{key}.bn{i}", f"{path}/conv_{i}", f"{path}/norm_{i}"
                )
            if stage > 0 and block == 0:
                entries |= _conv_norm(
                    f"{key}.downsample.0",
                    f"{key}.downsample.1",
                    f"{path}/conv_shortcut",
                    f"{path}/norm_shortcut",
                )
    return entries


def _conv_norm(conv_key: str, norm_key: str, conv_path: str, norm_path: str) -> Table:
    convolution = conv_layer(conv_key, f"params/{conv_path}", bias=False)
    return convolution | batch_norm(norm_key, norm_path)


TABLE = _table()
SOURCE = Source(
    name="emotion_fan",
    gives="emotion judge (ACC_e)",
    published=("self_relation-attention_61_84.3655",),
    where="https://github.com/Open-Debin/Emotion-FAN; 8 classes: the evaluation files of EAT",
    licence="MIT",
    is_commercial=True,
    megabytes=45,
    read=read,
)
