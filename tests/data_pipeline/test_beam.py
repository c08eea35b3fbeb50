"""The same jobs under Apache Beam give the same data set; needs the extra `beam` to run."""

import importlib.util
import sys

import pytest

from data_pipeline import beam, prepare
from data_pipeline.errors import InputError
from data_pipeline.synthetic import synthesize_clip
from tests.data_pipeline.faces import save
from tests.data_pipeline.test_merge import assert_same

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="no Apache Beam"
)


@pytest.fixture
def command(tmp_path) -> list[str]:
    for seed, emotion in enumerate(("happy", "sad")):
        clip = synthesize_clip(seed, emotion, seed, 1.2, size=64)
        save(tmp_path / "raw" / f"person{seed}" / f"{emotion}.mp4", clip.frames)
    (tmp_path / "raw" / "empty.mp4").touch()
    return ["folder", "--raw", str(tmp_path / "raw"), "--crop", "none", "--size", "32"]


@needs_beam
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Beam's own, of its dependencies.
def test_a_pipeline_makes_what_one_machine_makes(tmp_path, command):
    one, many = tmp_path / "one", tmp_path / "many"
    assert prepare.main([*command, "--out", str(one), "--workers", "1"]) == 0
    assert beam.main([*command, "--out", str(many), "--runner", "DirectRunner"]) == 0
    assert_same(one, many)
    assert not (many / ".parts").exists()


def test_what_an_interrupted_pipeline_finished_is_not_run_again(tmp_path, monkeypatch):
    from tests.data_pipeline.test_prepare import RAN, FakeJob

    RAN.clear()
    file = tmp_path / "changing.mp4"
    file.write_text("one")
    jobs = [
        FakeJob("a"),
        FakeJob("b", error=InputError("no")),
        FakeJob("c", error=ValueError()),
        FakeJob("d", source=str(file)),
        FakeJob("e"),
    ]
    for job in jobs:
        beam.run_and_keep(job, tmp_path)
    file.write_text("another")
    (tmp_path / "e.npz").write_bytes(b"")
    waiting = [job.clip for job in beam.list_waiting(jobs, tmp_path)]
    assert waiting == ["c", "d", "e"]  # What failed, changed or was lost is tried again.
    monkeypatch.setattr(beam, "_import_beam", lambda: None)
    assert [rows[0].state for rows in beam.run_all(jobs[:2], tmp_path, [])] == [
        "accepted",
        "refused",
    ]
    assert set(RAN.values()) == {1}


def test_without_beam_a_sentence_says_how_to_get_it(tmp_path, command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert beam.main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "pip install -e '.[beam]'" in capsys.readouterr().err


def test_the_synthetic_world_needs_no_cluster(tmp_path, capsys):
    assert beam.main(["synthetic", "--out", str(tmp_path / "out")]) == 2
    assert "without Beam" in capsys.readouterr().err
