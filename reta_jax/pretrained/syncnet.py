"""The two published lip-sync judges.

Wav2Lip expert (non-commercial, LRS2's terms): `state_dict` of lipsync_expert.pth.
SyncNet v2 (MIT): syncnet_v2.model, joonson/syncnet_python.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from reta_jax.experts.syncnet import SyncNetExpert, SyncNetV2
from reta_jax.pretrained.layers import NOT_WEIGHTS, batch_norm, conv_layer, linear_layer
from reta_jax.pretrained.source import Source, Weights, read_state
from reta_jax.pretrained.table import Params, Table, Transform, apply_table, conv

EXPERT_BLOCKS = {"face_encoder": 17, "audio_encoder": 14}
V2_CONVOLUTIONS = (0, 4, 8, 11, 14, 18)  # positions in the published sequence; the norm is next


def convert_expert(state: Mapping[str, np.ndarray]) -> Params:
    """Variables of `SyncNetExpert()` from the published tensors.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    state = {key.removeprefix("module."): weight for key, weight in state.items()}
    like = _shapes(SyncNetExpert(), (1, 48, 96, 15), (1, 80, 16))
    return apply_table(state, EXPERT_TABLE, ignore=[NOT_WEIGHTS], like=like)


def convert_v2(state: Mapping[str, np.ndarray]) -> Params:
    """Variables of `SyncNetV2()` from the published tensors.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    like = _shapes(SyncNetV2(), (1, 5, 224, 224, 3), (1, 13, 20))
    return apply_table(state, V2_TABLE, ignore=[NOT_WEIGHTS], like=like)


def read_expert(path: Path) -> Weights:
    return Weights("sync_expert", convert_expert(read_state(path, "state_dict")))


def read_v2(path: Path) -> Weights:
    return Weights("syncnet_v2", convert_v2(read_state(path, "state_dict")))


def frames_in_channels(weight: np.ndarray) -> np.ndarray:
    """A 3D kernel (O, I, T, H, W) over all frames at once to a 2D one (H, W, T * I, O)."""
    out, channels, time, height, width = weight.shape
    return weight.transpose(3, 4, 2, 1, 0).reshape(height, width, time * channels, out)


def _expert_table() -> Table:
    entries = {}
    for encoder, blocks in EXPERT_BLOCKS.items():
        for i in range(blocks):
            key = f"{encoder}.{i}.conv_block"
            entries |= conv_layer(f"{key}.0", f"params/{encoder}/block_{i}/conv")
            entries |= batch_norm(f"{key}.1", f"{encoder}/block_{i}/norm")
    return entries


def _v2_table() -> Table:
    return _v2_stream("lip", frames_in_channels) | _v2_stream("aud", conv)


def _v2_stream(key: str, kernel: Transform) -> Table:
    path = {"lip": "lip", "aud": "audio"}[key]
    entries = {}
    for i, position in enumerate(V2_CONVOLUTIONS):
        entries |= conv_layer(f"netcnn{key}.{position}", f"params/{path}_{i}/conv", kernel=kernel)
        entries |= batch_norm(f"netcnn{key}.{position + 1}", f"{path}_{i}/norm")
    entries |= linear_layer(f"netfc{key}.0", f"params/{path}_head/dense_0")
    entries |= batch_norm(f"netfc{key}.1", f"{path}_head/norm")
    return entries | linear_layer(f"netfc{key}.3", f"params/{path}_head/dense_1")


def _shapes(network: SyncNetExpert | SyncNetV2, *inputs: tuple[int, ...]) -> Params:
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs]
    return jax.eval_shape(network.init, jax.random.key(0), *arrays)


EXPERT_TABLE = _expert_table()
V2_TABLE = _v2_table()
EXPERT = Source(
    name="sync_expert",
    gives="sync expert of L_syn",
    published=("lipsync_expert.pth",),
    where="https://github.com/Rudrabha/Wav2Lip",
    licence="non-commercial (LRS2 dataset terms)",
    is_commercial=False,
    megabytes=198,
    read=read_expert,
)
V2 = Source(
    name="syncnet_v2",
    gives="sync judge (Sync_c, Sync_d)",
    published=("syncnet_v2.model",),
    where="http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
    licence="MIT",
    is_commercial=True,
    megabytes=55,
    read=read_v2,
)
