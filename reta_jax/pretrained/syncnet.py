"""The two published lip-sync judges.

Wav2Lip expert (non-commercial, LRS2's terms): `state_dict` of lipsync_expert.pth.
SyncNet v2 (MIT): syncnet_v2.model, joonson/syncnet_python.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reta_jax.pretrained.layers import NOT_WEIGHTS, batch_norm, conv_layer, linear_layer
from reta_jax.pretrained.source import Source, Weights, read_state
from reta_jax.pretrained.table import Params, Table, Transform, apply_table, conv

# Inputs and output widths of the expert's blocks, and the kernel of the first ones; the last is 1.
EXPERT_BLOCKS = {
    "face_encoder": (15, [32] + 3 * [64] + 4 * [128] + 3 * [256] + 6 * [512], (7, 5)),
    "audio_encoder": (1, 3 * [32] + 3 * [64] + 3 * [128] + 3 * [256] + 2 * [512], ()),
}
# Kernels by their position in the published sequence; each one's norm is next.
V2_CONVOLUTIONS = {
    "lip": {
        0: (96, 3, 5, 7, 7), 4: (256, 96, 1, 5, 5), 8: (256, 256, 1, 3, 3), 11: (256, 256, 1, 3, 3),
        14: (256, 256, 1, 3, 3), 18: (512, 256, 1, 6, 6),
    },
    "aud": {
        0: (64, 1, 3, 3), 4: (192, 64, 3, 3), 8: (384, 192, 3, 3), 11: (256, 384, 3, 3),
        14: (256, 256, 3, 3), 18: (512, 256, 5, 4),
    },
}  # fmt: skip


def convert_expert(state: Mapping[str, np.ndarray]) -> Params:
    """Variables of `SyncNetExpert()` from the published tensors.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    state = {key.removeprefix("module."): weight for key, weight in state.items()}
    return apply_table(state, EXPERT_TABLE, ignore=[NOT_WEIGHTS])


def convert_v2(state: Mapping[str, np.ndarray]) -> Params:
    """Variables of `SyncNetV2()` from the published tensors.

    Raises InputError that lists every missing, unexpected or mis-shaped key.
    """
    return apply_table(state, V2_TABLE, ignore=[NOT_WEIGHTS])


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
    for encoder, (inputs, widths, kernels) in EXPERT_BLOCKS.items():
        sizes = [*kernels, *(len(widths) - len(kernels) - 1) * [3], 1]
        for i, (width, size) in enumerate(zip(widths, sizes, strict=True)):
            key, path = f"{encoder}.{i}.conv_block", f"{encoder}/block_{i}"
            entries |= conv_layer(f"{key}.0", f"params/{path}/conv", (width, inputs, size, size))
            entries |= batch_norm(f"{key}.1", f"{path}/norm", width)
            inputs = width
    return entries


def _v2_table() -> Table:
    return _v2_stream("lip", "lip", frames_in_channels) | _v2_stream("aud", "audio", conv)


def _v2_stream(key: str, path: str, kernel: Transform) -> Table:
    entries = {}
    for i, (position, shape) in enumerate(V2_CONVOLUTIONS[key].items()):
        name = f"netcnn{key}.{position}"
        entries |= conv_layer(name, f"params/{path}_{i}/conv", shape, kernel=kernel)
        entries |= batch_norm(f"netcnn{key}.{position + 1}", f"{path}_{i}/norm", shape[0])
    entries |= linear_layer(f"netfc{key}.0", f"params/{path}_head/dense_0", (512, 512))
    entries |= batch_norm(f"netfc{key}.1", f"{path}_head/norm", 512)
    return entries | linear_layer(f"netfc{key}.3", f"params/{path}_head/dense_1", (1024, 512))


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
