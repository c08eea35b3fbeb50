"""The documents' Python runs as it stands there, and their links lead somewhere."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from reta_jax.pretrained.reta import model_card
from reta_jax.weights import CARD_FILE, CONFIG_FILE

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md")]
PAGES += [page for name in ("docs", "launch", "weights") for page in (ROOT / name).rglob("*.md")]


@pytest.fixture
def in_a_copy(tmp_path, monkeypatch):
    """Where the examples find what they read, and leave what they write."""
    for name in ("docs", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)


def examples(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_blocks(page: str) -> dict:
    seen = {}
    for block in examples((ROOT / page).read_text()):
        exec(block, seen)
    return seen


@pytest.mark.slow
def test_the_readmes_examples_run_one_after_another(in_a_copy):
    seen = run_blocks("README.md")
    frames, frame = seen["frames"], seen["frame"]
    assert frames.shape == (-(-len(seen["voice"]) // 640), 256, 256, 3)
    assert Path("talking.mp4").stat().st_size > 10_000
    np.testing.assert_array_equal(seen["chunk"][-1], frames[-1])
    assert frame.end_of_speech
    np.testing.assert_allclose(np.int16(frame.image), frames[-1], atol=1)
    mouths = frames[:, 140:220, 80:176].astype(float).std(0).mean()
    assert mouths > 3, "the mouth does not move with the voice"


@pytest.mark.slow
def test_the_avatars_example_runs(in_a_copy):
    seen = run_blocks("docs/live.md")
    assert len(seen["shown"]) >= 50  # two seconds
    spoken = np.stack([image for image in seen["shown"] if image is not None])
    assert spoken[:, 140:220, 80:176].astype(float).std(0).mean() > 3


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings: lower case, no punctuation, spaces to hyphens."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            linked = page.parent / file if file else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("name", ["corpus", "synthetic"])
def test_a_shipped_card_has_the_example_that_is_written_today(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = Path("weights") / name / "reta"
    written = model_card(folder, json.loads((folder / CONFIG_FILE).read_text()), 1)
    assert examples((folder / CARD_FILE).read_text()) == examples(written)


@pytest.mark.slow
def test_a_cards_example_runs(in_a_copy):
    seen = run_blocks("weights/synthetic/reta/README.md")
    assert seen["frames"].shape == (-(-len(seen["voice"]) // 640), 64, 64, 3)
