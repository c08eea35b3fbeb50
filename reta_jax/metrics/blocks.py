"""How networks judge: in float32, and videos of any length in blocks of one compiled shape."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np

BLOCK = 25  # frames in one call
AHEAD = 2  # blocks that are handed out beyond the one that is waited for


def apply_exactly(network: nn.Module, variables: Any, *arrays: Any, **options: Any) -> Any:
    """`network.apply` with float32 products, which GPUs else round to TF32 and TPUs to bfloat16.

    Called within the function that is compiled: the precision is a part of what was traced, in
    whatever thread it runs.
    """
    with jax.default_matmul_precision("float32"):
        return network.apply(variables, *arrays, **options)


def in_blocks(function: Callable[..., Any], *videos: np.ndarray, block: int = BLOCK) -> np.ndarray:
    """What a compiled function of (block, ...) arrays makes of videos of the same length.

    The last block is filled up with its last frame. A few blocks are handed out before a result is
    waited for, never all of a long video.
    """
    results = []
    for arrays in zip(*(_blocks_of(video, block) for video in videos), strict=True):
        results.append(function(*arrays))
        if len(results) > AHEAD:
            jax.block_until_ready(results[-1 - AHEAD])
    return np.concatenate(results)[: len(videos[0])]


def _blocks_of(frames: np.ndarray, block: int) -> Iterator[np.ndarray]:
    """Frames in blocks of one length, the last one filled up with its last frame.

    They are copies: JAX lets go of what it was given at its next call, of a part with its whole.
    """
    for start in range(0, len(frames), block):
        part = frames[start : start + block]
        yield np.concatenate([part, np.repeat(part[-1:], block - len(part), 0)])
