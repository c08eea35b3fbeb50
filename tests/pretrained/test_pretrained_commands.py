"""`python -m reta_jax.pretrained list` and `import`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from reta_jax.pretrained.__main__ import main
from reta_jax.pretrained.licences import licence_lines
from reta_jax.pretrained.sources import SOURCES
from tests.pretrained.states import full_state, prepared_bfm, write_ict
from tests.pretrained.torch_writer import save_legacy, save_zip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def scratch():
    with tempfile.TemporaryDirectory() as folder:  # pytest would keep hundreds of megabytes
        yield Path(folder)


@pytest.fixture
def fails(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["import", *map(str, arguments)])
        captured = capsys.readouterr()
        assert stop.value.code == 2 and captured.out == ""
        return captured.err

    return call


def test_list_tells_all_about_every_source(capsys):
    main(["list"])
    text = capsys.readouterr().out
    for source in SOURCES.values():
        start = text.index(f"{source.name}: ")
        part = text[start : text.index("at hand", start) + 30]
        for fact in (source.gives, source.published[0], source.where, source.licence):
            assert fact in part
        assert f"{source.megabytes} MB" in part and "at hand: no" in part


def test_list_finds_what_is_at_hand(capsys, tmp_path):
    (tmp_path / "weights" / "bfm").mkdir(parents=True)
    repository = tmp_path / "cache" / "models--facebook--wav2vec2-base-960h"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    main(["list"])
    lines = capsys.readouterr().out.split("\n")
    at_hand = lines[3::4]
    found = dict(zip(SOURCES, at_hand, strict=True))
    assert found.pop("bfm") == f"  at hand: {Path('weights/bfm')}"
    assert found.pop("wav2vec2") == "  at hand: in the hub's cache"
    assert set(found.values()) == {"  at hand: no"}


def test_import_writes_the_default_folder_and_says_the_licence(capsys, tmp_path):
    scipy.io.savemat("BFM_model_front.mat", prepared_bfm())
    main(["import", "bfm", "BFM_model_front.mat"])
    captured = capsys.readouterr()
    assert captured.out == f"{Path('weights/bfm')}\n"
    assert captured.err == (
        "weights of bfm: non-commercial (Basel Face Model); not for commercial use\n"
    )
    config = json.loads((tmp_path / "weights" / "bfm" / "config.json").read_text())
    assert config["kind"] == "morphable"


def test_import_again_replaces_the_folder(capsys, tmp_path):
    write_ict(tmp_path / "FaceXModel")
    for _ in range(2):
        main(["import", "ict_facekit", "FaceXModel", "--out", "face"])
    captured = capsys.readouterr()
    assert captured.out == "face\nface\n"
    assert captured.err == 2 * "weights of ict_facekit: MIT\n"
    assert sorted(file.name for file in (tmp_path / "face").iterdir()) == [
        "config.json", "params.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_an_import_needs_little_more_memory_than_the_file(scratch, save):
    """The file's pages and one tensor; in a process of its own, without JAX."""
    path = scratch / "EDTalk_lip_pose.pt"
    save(path, {"gen": full_state("edtalk_lip_pose_gen"), "dis": full_state("edtalk_dis")})
    megabytes = path.stat().st_size / 2**20
    assert 250 < megabytes < 300
    script = """
import re, sys
from reta_jax.pretrained.__main__ import main
main(sys.argv[1:])
status = open("/proc/self/status").read()
print("jax" in sys.modules, re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
"""
    command = [sys.executable, "-c", script, "import", "edtalk", path, "--out", scratch / "out"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    has_jax, kilobytes = done.stdout.split()[-2:]
    print(f"{save.__name__}: {int(kilobytes) / 1024:.0f} MiB for a file of {megabytes:.0f} MiB")
    assert has_jax == "False"
    assert int(kilobytes) / 1024 < 2 * megabytes


@pytest.mark.parametrize("out", ["taken", "taken/below", "other"])
def test_targets_that_cannot_be_written(fails, tmp_path, out):
    scipy.io.savemat("BFM_model_front.mat", prepared_bfm())
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    error = fails("bfm", "BFM_model_front.mat", "--out", out)
    assert out in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_may_not_be_written(fails, tmp_path, monkeypatch):
    scipy.io.savemat("BFM_model_front.mat", prepared_bfm())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    error = fails("bfm", "BFM_model_front.mat", "--out", "locked")
    assert error == "error: cannot write weights to locked: Permission denied\n"
    assert not (tmp_path / "locked").exists()


def test_failures_are_a_sentence_and_exit_code_2(fails, tmp_path):
    save_zip(tmp_path / "vox.pt", {"gen": {"weight": np.zeros(1)}})
    error = fails("syncnet_v2", "vox.pt")
    assert error.startswith("error: vox.pt as syncnet_v2: ") and error.count("\n") == 1
    assert "88 missing: netcnnlip.0.weight" in error
    assert "does not exist" in fails("lia", "nowhere.pt")
    portraits = "--portraits", "faces"
    assert "no pictures in faces" in fails("lia", "vox.pt", "--modulation", "adain", *portraits)
    for modulation in ((), ("--modulation", "modconv")):
        error = fails("lia", "vox.pt", *modulation, *portraits)
        assert error.startswith("error: --portraits are what --modulation adain is measured on")
    for modulation in ("adain", "modconv"):
        error = fails("vgg19", "vox.pt", "--modulation", modulation)
        assert error == "error: --modulation is of edtalk and lia: leave it out for vgg19\n"
    assert "invalid choice: 'flame'" in fails("flame", "vox.pt")
    assert "invalid choice: 'style'" in fails("lia", "vox.pt", "--modulation", "style")
    assert not (tmp_path / "weights").exists()


def test_licences_are_said_once_each():
    record = {"source": "edtalk", "licence": "Apache-2.0, of LIA", "commercial_use": False}
    free = {"source": "vgg19", "licence": "BSD-3-Clause", "commercial_use": True}
    assert licence_lines([record, free, record]) == [
        "weights of edtalk: Apache-2.0, of LIA; not for commercial use",
        "weights of vgg19: BSD-3-Clause",
    ]
