"""Where nothing can be written is told before the work."""

import os
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from reta_jax.files import check_place, make_folder
from reta_jax.weights import check_target, save_weights

WRITERS = {
    "make_folder": make_folder,
    "check_place": check_place,
    "check_target": check_target,
    "save_weights": lambda folder: save_weights(folder, {}, {}),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_an_address_is_refused_and_nothing_made(writer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="gs://bucket/run is an address, not a folder: mount"):
        WRITERS[writer](Path("gs://bucket/run"))
    assert os.listdir() == []


def test_places_that_no_file_can_take(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "astray").symlink_to("missing/file")
    for name, what in {
        "": "is a folder; name a file in it",
        "pipe": "is a device or a pipe; name a file",
        "astray": "missing is no folder",
        "missing/file": "missing is no folder",
        "pipe/file": "pipe is no folder",
        "x" * 256: "File name too long",
    }.items():
        with pytest.raises(InputError, match=f"^cannot write {tmp_path / name}: .*{what}$"):
            check_place(tmp_path / name)
    (tmp_path / "link").symlink_to("file")
    check_place(tmp_path / "link")
