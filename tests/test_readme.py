"""The documents' Python runs as it stands there, and their links lead somewhere."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md")]
PAGES += [page for name in ("docs", "launch", "weights") for page in (ROOT / name).rglob("*.md")]


@pytest.fixture
def in_a_copy(tmp_path, monkeypatch):
    """Where the examples find what they read, and leave what they write."""
    for name in ("docs", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)


def run_blocks(page: str) -> dict:
    seen = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
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
