"""What lies below a folder: all of it, in one order on every disk, or a sentence."""

import os

import pytest

from data_pipeline.datasets.raw import files_below
from data_pipeline.errors import InputError


def listing(monkeypatch, change) -> None:
    """Lets folders be listed as `change` says, given what is in them."""
    real = os.scandir

    class Listing:
        def __init__(self, folder):
            with real(folder) as entries:
                self._entries = iter(change(folder, sorted(entries, key=lambda e: e.name)))

        def __enter__(self):
            return self._entries

        def __exit__(self, *_):
            return None

        def __iter__(self):
            return self._entries

        def __next__(self):
            return next(self._entries)

    monkeypatch.setattr(os, "scandir", Listing)


@pytest.mark.parametrize("backwards", [False, True])
def test_of_two_ways_to_a_folder_the_same_one_is_taken(tmp_path, monkeypatch, backwards):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.mp4").touch()
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "b")
    listing(monkeypatch, lambda _, entries: entries[:: -1 if backwards else 1])
    assert files_below(tmp_path) == [tmp_path / "a" / "x.mp4"]


def test_a_folder_that_cannot_be_read_is_told_and_not_left_out(tmp_path, monkeypatch):
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.mp4").touch()

    def refuse(folder, entries):
        if os.path.basename(folder) == "bob":
            raise PermissionError(13, "Permission denied", folder)
        return entries

    listing(monkeypatch, refuse)
    with pytest.raises(InputError, match=f"{tmp_path / 'bob'} cannot be read .Permission denied"):
        files_below(tmp_path)
