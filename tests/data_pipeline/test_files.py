"""Where files are written, and where not; an address is not taken for a folder."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import prepare
from data_pipeline.errors import InputError
from data_pipeline.files import cache_folder, refuse_address, write_whole
from data_pipeline.inspect import inspect
from data_pipeline.video import VideoWriter
from tests.data_pipeline.sets import small_set


@pytest.mark.parametrize("place", ["gs://bucket/x", "s3://b/a/b", "hf://datasets/o/n", "S3://b"])
def test_addresses_are_refused_in_both_forms(place):
    for form in (place, Path(place)):
        with pytest.raises(InputError, match=f"^{place} is an address, not a folder: mount the"):
            refuse_address(form)


@pytest.mark.parametrize("place", ["data/hdtf", "/shared/gs:/x", "run:3", "12:30:00/x", "org/name"])
def test_folders_are_not(place):
    refuse_address(place)
    refuse_address(Path(place))


@pytest.mark.parametrize(
    "arguments",
    [
        "synthetic --out gs://bucket/x",
        "folder --raw . --out gs://bucket/x",
        "hdtf --raw gs://bucket/x --out data --dry-run",
    ],
)
def test_preparation_makes_no_folder_of_an_address(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert prepare.main(arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: gs://bucket/x is an address, not a folder: mount the bucket")
    assert os.listdir() == []


@pytest.mark.parametrize(
    "work",
    [
        lambda: prepare.prepare_synthetic("gs://bucket/x", identities=2, workers=1),
        lambda: inspect(small_set(Path("set")), "gs://bucket/x"),
    ],
    ids=["prepare_synthetic", "inspect"],
)
def test_functions_do_not_either(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="gs://bucket/x is an address"):
        work()
    assert not Path("gs:").exists()


def write_text(path):
    write_whole(path, lambda file: file.write(b"new"))


def write_video(path):
    with VideoWriter(path, 16, None) as writer:
        writer.write(np.zeros((1, 16, 16, 3), np.uint8))


writers = pytest.mark.parametrize("write", [write_text, write_video])


@writers
@pytest.mark.parametrize("place", ["pipe", "link"])
def test_what_is_no_file_is_not_replaced(write, place, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(InputError, match=f"cannot write .*{place}: it is a device or a pipe; name"):
        write(tmp_path / place)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


@writers
@pytest.mark.parametrize("before", [b"old", None], ids=["of a file", "of nothing yet"])
def test_a_link_stays_and_its_file_is_written(write, before, tmp_path):
    (tmp_path / "far").mkdir()
    if before:
        (tmp_path / "far" / "file").write_bytes(before)
    (tmp_path / "link").symlink_to("far/file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "far") == ["file"]
    assert (tmp_path / "far" / "file").read_bytes() not in (before, b"")


@writers
def test_a_name_may_be_as_long_as_the_system_allows(write, tmp_path):
    write(tmp_path / ("x" * 255))
    assert os.listdir(tmp_path) == ["x" * 255]
    with pytest.raises(InputError, match=r"cannot write .*x: File name too long"):
        write(tmp_path / ("x" * 256))


@pytest.mark.parametrize(
    ("variables", "cache"),
    [
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "/caches"}, "/caches/reta_jax"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": ""}, "/home/me/.cache/reta_jax"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "caches"}, "/home/me/.cache/reta_jax"),
        ({"HOME": "/home/me"}, "/home/me/.cache/reta_jax"),
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/reta_jax"),
        ({"XDG_CACHE_HOME": ""}, None),
    ],
)
def test_the_cache_is_the_users(variables, cache, monkeypatch):
    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(os, "getuid", lambda: 987_654)  # of whom the system knows no home
    if cache:
        assert cache_folder() == Path(cache)
    else:
        with pytest.raises(InputError, match="no home folder to keep a cache in: set XDG_CACHE"):
            cache_folder()
