"""Batches as a config asks for them."""

import threading
import types

import numpy as np
import pytest

from configs.synthetic import get_config
from data_pipeline import loader
from data_pipeline.records import Source, encode_clip, write_records
from reta_jax.batches import open_batches


def write(folder, people: dict[str, str]) -> str:
    """A clip of each person, for the split that stands beside the name."""

    def load(identity: str):
        clip = types.SimpleNamespace(
            frames=np.full((12, 32, 32, 3), len(identity), np.uint8),
            audio=np.ones(12 * 640, np.int16),
            landmarks=np.full((12, 68, 2), 0.5, np.float32),
            sync_box=np.float32([0, 0, 1, 1]),
            emotion=-1,
            identity=identity,
            clip=identity,
        )
        return encode_clip(clip)

    sources = [Source(name, name, lambda name=name: load(name)) for name in people]
    write_records(sources, folder, lambda source: people[source.identity])
    return str(folder)


def test_people_for_judging_come_from_the_data_sets_that_keep_some(tmp_path):
    """A data set of one person, all of whose clips are for training, stops no preview."""
    several = write(tmp_path / "several", {"anna": "train", "bo": "test"})
    one = write(tmp_path / "one", {"christopher": "train"})
    config = get_config("smoke")
    config.data.dirs, config.data.weights = (several, one), (0.5, 0.5)

    def brightness(split: str) -> set[int]:
        batches = open_batches(config, split, batch_size=2)
        try:
            return {int(x) for _ in range(8) for x in next(batches)["portrait"][:, 0, 0, 0]}
        finally:
            batches.close()

    assert brightness("test") == {len("bo")}
    augmented = config.data.augment.to_dict()
    assert not any(augmented.values()), augmented  # else grey levels say nothing
    assert brightness("train") == {len("anna"), len("christopher")}


@pytest.mark.parametrize(
    ("asked", "cores", "expected"), [(0, 1, 1), (0, 6, 6), (0, 96, 16), (3, 6, 3), (24, 6, 24)]
)
def test_as_many_readers_as_asked_for_or_as_cores(asked, cores, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "usable_cores", lambda: cores)
    config = get_config("smoke")
    config.data.dirs = (write(tmp_path, {"anna": "train"}),)
    config.data.readers = asked
    others = set(threading.enumerate())
    batches = open_batches(config, batch_size=4)
    try:
        assert len(set(threading.enumerate()) - others) == expected
    finally:
        batches.close()
