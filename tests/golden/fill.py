"""The reproducible stand-in for trained weights under which the golden outputs were computed.

Every tensor is drawn from a generator seeded by the CRC of its own key, so a network of any
framework can be given the same weights. `keys/keys_NAME.txt` lists key, PyTorch shape and dtype of
each published network.
"""

import functools
import zlib
from ast import literal_eval
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent
# Networks with equalised learning rate keep unit-variance weights; the scale is in the layer.
EQUALISED = ("lia_gen", "edtalk_gen", "edtalk_lip_pose_gen", "edtalk_dis")


def golden(name: str) -> dict[str, np.ndarray]:
    """The stored outputs of one network."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


@functools.cache
def state_dict(name: str) -> dict[str, np.ndarray]:
    """The filled PyTorch state dict of network `name`. Analytic buffers, never read, are zero."""
    lines = (GOLDEN / "keys" / f"keys_{name}.txt").read_text().splitlines()
    entries = (line.split("\t")[:2] for line in lines)
    return {key: _tensor(key, literal_eval(shape), name in EQUALISED) for key, shape in entries}


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """The golden input called `name`, in PyTorch's layout."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return (low + (high - low) * random.rand(*shape)).astype(np.float32)


def _tensor(key: str, shape: tuple[int, ...], equalised: bool) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith(("kernel", "num_batches_tracked")):
        values = np.zeros(shape)
    elif key.endswith("running_var"):
        values = 0.5 + random.rand(*shape)
    elif key.endswith("running_mean"):
        values = 0.1 * random.randn(*shape)
    elif key.endswith("bias"):
        values = 0.1 * random.randn(*shape) + (1.0 if ".modulation." in key else 0.0)
    elif key.endswith("weight_g"):
        values = 1 + 0.1 * np.random.RandomState(1).randn(*shape)
    elif key.endswith("weight") and len(shape) == 1:
        values = 1 + 0.1 * random.randn(*shape)
    else:
        values = random.randn(*shape)
        if not equalised or "fineadainresblock" in key:
            values /= np.sqrt(np.prod(shape[1:]))
    return np.asarray(values, np.float32)
