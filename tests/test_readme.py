"""The Python of the README and of the model cards runs as it stands there."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from reta_jax.pretrained.reta import model_card
from reta_jax.weights import CARD_FILE, CONFIG_FILE

ROOT = Path(__file__).parents[1]


def examples(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
def test_the_examples_in_python_run_one_after_another(monkeypatch):
    monkeypatch.chdir(ROOT)
    seen = {}
    for block in examples(Path("README.md").read_text()):
        exec(block, seen)
    frames, frame = seen["frames"], seen["frame"]
    assert frames.shape == (-(-len(seen["voice"]) // 640), 256, 256, 3)
    np.testing.assert_array_equal(seen["chunk"][-1], frames[-1])
    assert frame.end_of_speech
    np.testing.assert_allclose(np.int16(frame.image), frames[-1], atol=1)
    mouths = frames[:, 140:220, 80:176].astype(float).std(0).mean()
    assert mouths > 3, "the mouth does not move with the voice"


@pytest.mark.parametrize("name", ["corpus", "synthetic"])
def test_a_shipped_card_has_the_example_that_is_written_today(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = Path("weights") / name / "reta"
    written = model_card(folder, json.loads((folder / CONFIG_FILE).read_text()), 1)
    assert examples((folder / CARD_FILE).read_text()) == examples(written)


@pytest.mark.slow
def test_a_cards_example_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    seen = {}
    exec(*examples(Path("weights/synthetic/reta", CARD_FILE).read_text()), seen)
    assert seen["frames"].shape == (-(-len(seen["voice"]) // 640), 64, 64, 3)
