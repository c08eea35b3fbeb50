"""How networks judge: in float32, and videos of any length in blocks of one compiled shape."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

BLOCK = 25  # frames in one call


def apply_exactly(network: nn.Module, variables: Any, *arrays: Any, **options: Any) -> Any:
    """`network.apply` with float32 products, which GPUs else round to TF32 and TPUs to bfloat16.

    Called within the function that is compiled: the precision is a part of what was traced, in
    whatever thread it runs.
    """
    with jax.default_matmul_precision("float32"):
        return network.apply(variables, *arrays, **options)


def in_blocks(function: Callable[..., Any], *videos: np.ndarray, block: int = BLOCK) -> np.ndarray:
    """What a compiled function of (block, ...) arrays makes of videos of the same length.

    The last block is filled up with its last frame. All blocks are handed out before the first
    result is waited for.
    """
    blocks = (blocks_of(video, block) for video in videos)
    results = [function(*arrays) for arrays in zip(*blocks, strict=True)]
    return np.concatenate(results)[: len(videos[0])]


def blocks_of(frames: np.ndarray, block: int = BLOCK) -> list[np.ndarray]:
    """Frames in blocks of one length, the last one filled up with its last frame."""
    missing = -len(frames) % block
    filled = np.concatenate([frames, np.repeat(frames[-1:], missing, 0)])
    return list(filled.reshape(-1, block, *frames.shape[1:]))
