"""Emotion-FAN (MIT): `state_dict` of a checkpoint of Open-Debin/Emotion-FAN or a fine-tune of it.

Classes as published for AFEW: happy, angry, disgust, fear, sad, neutral, surprise; a MEAD fine-tune
adds contempt. Faces are dlib's chips (reta_jax.metrics.chips).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipeline.errors import InputError
from reta_jax.pretrained.layers import NOT_WEIGHTS, batch_norm, conv_layer, linear_layer
from reta_jax.pretrained.source import Source, Weights, read_state
from reta_jax.pretrained.table import Params, Table, apply_table

LABELS = ("happy", "angry", "disgusted", "fear", "sad", "neutral", "surprised", "contempt")
WIDTHS = (64, 128, 256, 512)  # of the four stages


def convert(state: Mapping[str, np.ndarray], classes: int = 7) -> Params:
    """Variables of an `EmotionFAN` from the published tensors.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    state = {key.removeprefix("module."): weight for key, weight in state.items()}
    return apply_table(state, table(classes), ignore=[NOT_WEIGHTS])


def read(path: Path) -> Weights:
    """Weights of 7 or 8 classes, whichever the file holds."""
    state = read_state(path, "state_dict")
    heads = [len(weight) for key, weight in state.items() if key.endswith("pred_fc2.bias")]
    if heads not in ([7], [8]):
        first = ", ".join(list(state)[:5])
        raise InputError(
            f"{path} is no Emotion-FAN: expected pred_fc2.bias of 7 or 8 classes, its first keys "
            f"are {first}"
        )
    [classes] = heads
    return Weights("emotion_fan", convert(state, classes), {"classes": classes}, LABELS[:classes])


def table(classes: int) -> Table:
    """ResNet-18 and the four layers of the two attentions."""
    width = WIDTHS[-1]
    entries = {
        **linear_layer("alpha.0", "params/alpha", (1, width)),
        **linear_layer("beta.0", "params/beta", (1, 2 * width)),
        **linear_layer("pred_fc1", "params/attention_head", (classes, width)),
        **linear_layer("pred_fc2", "params/relation_head", (classes, 2 * width)),
        **_conv_norm("conv1", "bn1", "stem", "stem_norm", (WIDTHS[0], 3, 7, 7)),
    }
    before = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        for block in range(2):
            key, path = f"layer{stage + 1}.{block}", f"block_{stage}_{block}"
            for i, inputs in ((1, before), (2, width)):
                names = f"{key}.conv{i}", f"{key}.bn{i}", f"{path}/conv_{i}", f"{path}/norm_{i}"
                entries |= _conv_norm(*names, (width, inputs, 3, 3))
            if before != width:
                entries |= _conv_norm(
                    f"{key}.downsample.0",
                    f"{key}.downsample.1",
                    f"{path}/conv_shortcut",
                    f"{path}/norm_shortcut",
                    (width, before, 1, 1),
                )
            before = width
    return entries


def _conv_norm(
    conv_key: str, norm_key: str, conv_path: str, norm_path: str, shape: tuple[int, ...]
) -> Table:
    convolution = conv_layer(conv_key, f"params/{conv_path}", shape, bias=False)
    return convolution | batch_norm(norm_key, norm_path, shape[0])


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
