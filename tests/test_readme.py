"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_examples_in_python_run_one_after_another(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    seen = {}
    for block in blocks:
        exec(block, seen)
    frames, frame = seen["frames"], seen["frame"]
    assert frames.shape == (-(-len(seen["voice"]) // 640), 256, 256, 3)
    np.testing.assert_array_equal(seen["chunk"][-1], frames[-1])
    assert frame.end_of_speech
    np.testing.assert_allclose(np.int16(frame.image), frames[-1], atol=1)
    mouths = frames[:, 140:220, 80:176].astype(float).std(0).mean()
    assert mouths > 3, "the mouth does not move with the voice"
