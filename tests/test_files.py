"""An address is not taken for a folder, wherever something is written."""

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
