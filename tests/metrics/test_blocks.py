"""Videos in blocks of one shape."""

import numpy as np
import pytest

from reta_jax.metrics.blocks import AHEAD, in_blocks


class Running:
    """A result that is being computed until somebody waits for it."""

    count = most = 0

    def __init__(self, block):
        self.block, self.is_done = block, False
        Running.count += 1
        Running.most = max(Running.most, Running.count)

    def block_until_ready(self):
        Running.count -= not self.is_done
        self.is_done = True

    def __array__(self, dtype=None, copy=None):
        return self.block.sum(1)


def test_few_blocks_of_a_long_video_are_under_way():
    frames = np.arange(46).reshape(23, 2)
    np.testing.assert_array_equal(in_blocks(Running, frames, block=2), frames.sum(1))
    assert Running.most == AHEAD + 1


def test_blocks_are_filled_up_and_none_keeps_the_whole_video():
    frames, blocks = np.arange(10), []
    in_blocks(lambda block: blocks.append(block) or block, frames, block=4)
    np.testing.assert_array_equal(blocks, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]])
    assert not any(np.shares_memory(block, frames) for block in blocks)


def test_videos_of_other_lengths_are_no_pair():
    with pytest.raises(ValueError, match="shorter"):
        in_blocks(np.add, np.zeros(4), np.zeros(2), block=2)
