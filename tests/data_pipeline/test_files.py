"""An address is not taken for a folder."""

import os
from pathlib import Path

import pytest

from data_pipeline import prepare
from data_pipeline.errors import InputError
from data_pipeline.files import refuse_address
from data_pipeline.inspect import inspect
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
