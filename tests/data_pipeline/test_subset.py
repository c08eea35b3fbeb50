"""A part of a data set: whom it holds, how large it is, and that it can be trained on."""

import json

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.loader import WindowSpec, training_batches
from data_pipeline.manifest import read_manifest
from data_pipeline.prepare import prepare_synthetic
from data_pipeline.records import Source, decode_jpeg, list_clips, open_records
from data_pipeline.subset import draw_in_rounds, write_subset
from data_pipeline.verify import verify


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(folder, identities=4, clips_per_identity=3, seconds=0.4, size=96, workers=1)
    return folder


def clips(folder, split):
    return [row["clip"] for row in list_clips(folder, split)]


def identities(folder, split):
    return [row["identity"] for row in list_clips(folder, split)]


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_rounds_give_everyone_a_clip_before_anyone_has_a_second():
    counts = {"a": 1, "b": 4, "c": 2}
    given = [Source(f"{who}{i}", who, dict) for who, count in counts.items() for i in range(count)]
    drawn = draw_in_rounds(given, seed=3)
    assert sorted(drawn) == sorted(given)
    assert [sorted(clip.identity for clip in part) for part in (drawn[:3], drawn[3:5])] == [
        ["a", "b", "c"], ["b", "c"],
    ]  # fmt: skip
    orders = {tuple(clip.clip for clip in draw_in_rounds(given, seed)) for seed in range(8)}
    assert len(orders) > 4 and draw_in_rounds(given, 3) == drawn


def test_a_part_is_within_its_size_and_another_seed_holds_others(data, tmp_path):
    whole = size_of(data)
    limit = 0.9 * whole / 1e6
    taken = write_subset(data, tmp_path / "a", limit, seed=0)
    again = write_subset(data, tmp_path / "again", limit, seed=0)
    write_subset(data, tmp_path / "b", limit, seed=1)
    assert taken.clips == again.clips < 12
    assert taken.bytes == size_of(tmp_path / "a") <= limit * 1e6
    assert taken.bytes > 0.4 * limit * 1e6
    a, b = clips(tmp_path / "a", "train"), clips(tmp_path / "b", "train")
    assert a == clips(tmp_path / "again", "train") and set(a) != set(b)
    _, counts = np.unique(identities(tmp_path / "a", "train"), return_counts=True)
    assert len(counts) == len(set(identities(data, "train"))) and np.ptp(counts) <= 1
    assert clips(tmp_path / "a", "test") == clips(tmp_path / "b", "test")
    assert set(clips(tmp_path / "a", "test")) <= set(clips(data, "test"))
    assert taken.clips == len(a) + len(clips(tmp_path / "a", "test"))


def test_a_part_is_a_prepared_data_set(data, tmp_path):
    write_subset(data, tmp_path / "part", 0.9 * size_of(data) / 1e6)
    rows = {row.clip for row in read_manifest(tmp_path / "part")}
    assert rows == {*clips(tmp_path / "part", "train"), *clips(tmp_path / "part", "test")}
    report = verify(tmp_path / "part", workers=1)
    assert report.faults == [], json.dumps(report.faults)
    window = WindowSpec(frames=2, size=32)
    batches = training_batches({tmp_path / "part": 1.0}, "train", 2, window, threads=0)
    assert next(batches)["frames"].shape == (2, 2, 32, 32, 3)


def test_pictures_can_be_reduced_and_the_rest_is_as_it_was(data, tmp_path):
    large = write_subset(data, tmp_path / "large", 5.0)
    small = write_subset(data, tmp_path / "small", 5.0, size=24)
    assert small.clips == large.clips == 12 and small.bytes < large.bytes
    (before, *_), (after, *_) = (open_records(tmp_path / x, "train") for x in ("large", "small"))
    assert decode_jpeg(after["frames"][0]).shape == (24, 24, 3)
    shrunk = decode_jpeg(before["frames"][0], 24).astype(int)
    assert np.abs(decode_jpeg(after["frames"][0]) - shrunk).mean() < 3
    for name in ("audio", "landmarks", "clip", "emotion"):
        np.testing.assert_array_equal(before[name], after[name])


def test_what_cannot_be_is_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"0.06 MB do not hold a test clip of .* give more"):
        write_subset(data, tmp_path / "part", 0.06)
    with pytest.raises(InputError, match="there is no data folder"):
        write_subset(tmp_path / "nowhere", tmp_path / "part", 1.0)
    with pytest.raises(InputError, match="is the data set to draw from"):
        write_subset(data, data, 1.0)
    assert not (tmp_path / "part").exists()
