"""Shards of an array job, joined, are the data set of one run."""

import numpy as np
import pytest

from data_pipeline import merge as merging
from data_pipeline import prepare
from data_pipeline.errors import InputError
from data_pipeline.lock import alone_in
from data_pipeline.manifest import read_manifest
from data_pipeline.merge import main, merge
from data_pipeline.records import encode_jpeg, list_clips, open_records
from data_pipeline.shards import Shard, find_shards, parse_shard
from tests.data_pipeline.test_prepare import FakeJob

SETTINGS = {"size": 8}
JOBS = [
    FakeJob("a", "ann", pieces=2),
    FakeJob("b", "bob"),
    FakeJob("c", "cat", error=InputError("no face")),
    FakeJob("d", "ann"),
    FakeJob("e", "bob", pieces=3),
]


def split_of(source) -> str:
    return "test" if source.identity == "bob" else "train"


def run(out, jobs=JOBS, settings=SETTINGS, **options) -> prepare.Summary:
    return prepare.prepare(jobs, out, split_of, settings, **options)


def run_shards(out, count: int, skip: tuple[int, ...] = (), **options) -> None:
    for index in range(count):
        if index not in skip:
            shard = Shard(index, count)
            run(shard.dir(out), shard.take(JOBS), may_be_empty=True, **options)


def assert_same(one, other) -> None:
    assert read_manifest(one) == read_manifest(other)
    assert (one / "settings.json").read_text() == (other / "settings.json").read_text()
    for split in ("train", "test"):
        assert list_clips(one, split) == list_clips(other, split)
        for a, b in zip(open_records(one, split), open_records(other, split), strict=True):
            assert a.keys() == b.keys()
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("count", [2, 7])
def test_shards_merged_are_one_run(tmp_path, count):
    one, many = tmp_path / "one", tmp_path / "many"
    run(one)
    run_shards(many, count)
    assert merge(many) == 7
    assert_same(one, many)
    written = (many / "records" / "clips.json").stat().st_mtime_ns
    assert merge(many) == 7
    assert (many / "records" / "clips.json").stat().st_mtime_ns == written
    assert run(many) == run(one)  # Both have nothing left to do.
    assert_same(one, many)


def test_a_shard_that_changed_and_sources_of_no_shard_are_kept(tmp_path):
    out = tmp_path / "out"
    run(out, [FakeJob("z", "zoe")])
    run_shards(out, 2)
    assert merge(out) == 8
    shard = Shard(1, 2)
    run(shard.dir(out), [*shard.take(JOBS), FakeJob("f", "fay")])
    assert merge(out) == 9
    assert [row["clip"] for row in list_clips(out, "train")] == ["a#0", "a#1", "d", "f", "z"]
    assert "f" in {row.clip for row in read_manifest(out)}


def test_a_merge_that_was_killed_is_taken_up_and_no_two_work_at_once(tmp_path):
    run(tmp_path, [FakeJob("z", "zoe")])
    run_shards(tmp_path, 2)
    (tmp_path / "records").rename(tmp_path / ".records.replaced")
    with alone_in(tmp_path), pytest.raises(InputError, match="another run works in"):
        merge(tmp_path)
    assert merge(tmp_path) == 8


def test_clips_that_no_manifest_knows_are_not_dropped(tmp_path):
    run(tmp_path, [FakeJob("z", "zoe")])
    run_shards(tmp_path, 2)
    (tmp_path / "manifest.parquet").unlink()
    with pytest.raises(InputError, match=f"{tmp_path}/manifest.parquet says nothing of 1 clips"):
        merge(tmp_path)
    assert [row["clip"] for row in list_clips(tmp_path, "train")] == ["z"]


def test_a_merge_that_was_killed_before_its_records_were_written_is_gone_on_with(
    tmp_path, monkeypatch
):
    run_shards(tmp_path, 2)
    merge(tmp_path)
    shard = Shard(1, 2)
    run(shard.dir(tmp_path), [*shard.take(JOBS), FakeJob("f", "fay")])

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(merging, "write_records", interrupt)
        merge(tmp_path)
    run(tmp_path)  # Whoever goes on without merging is not refused.
    assert merge(tmp_path) == 8


def test_shards_with_failures_are_named(tmp_path, capsys):
    run(Shard(0, 2).dir(tmp_path), [FakeJob("a", "ann")])
    run(Shard(1, 2).dir(tmp_path), [FakeJob("b", error=ValueError())], may_be_empty=True)
    assert main([str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "1 clips" in told.out and "sources failed in the shards 1/2: " in told.err


def test_missing_and_unfinished_shards_are_named(tmp_path, capsys):
    with pytest.raises(InputError, match="has no shards"):
        merge(tmp_path)
    run_shards(tmp_path, 4, skip=(1, 3))
    with pytest.raises(InputError, match="lacks 2 of 4 shards: run .again. --shard 1/4, 3/4"):
        merge(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(Shard(1, 4).dir(tmp_path), [FakeJob("b", error=KeyboardInterrupt())])
    assert main([str(tmp_path)]) == 2
    assert "--shard 1/4, 3/4" in capsys.readouterr().err
    assert not (tmp_path / "records").exists() and not (tmp_path / "manifest.parquet").exists()


def test_shards_that_do_not_belong_together_are_named(tmp_path):
    run_shards(tmp_path / "a", 3, skip=(2,))
    run(Shard(2, 3).dir(tmp_path / "a"), [JOBS[2]], {"size": 9}, may_be_empty=True)
    with pytest.raises(InputError, match="other settings than 0/3: 2/3"):
        merge(tmp_path / "a")
    run_shards(tmp_path / "b", 2)
    run_shards(tmp_path / "b", 3)
    with pytest.raises(InputError, match="of 2 and of 3"):
        merge(tmp_path / "b")
    run_shards(tmp_path / "c", 2, skip=(1,))
    run(Shard(1, 2).dir(tmp_path / "c"), JOBS)
    with pytest.raises(InputError, match="0/2 and 1/2 both have a"):
        merge(tmp_path / "c")
    run_shards(tmp_path / "d", 1)
    run(tmp_path / "d", settings={"size": 9})
    with pytest.raises(InputError, match="prepared with other settings"):
        merge(tmp_path / "d")


def test_shards_are_counted_from_zero(tmp_path):
    assert parse_shard("3/10") == Shard(3, 10)
    jobs = list("abcdefg")
    assert sorted(sum((Shard(i, 3).take(jobs) for i in range(3)), [])) == jobs
    for wrong in ("3/3", "1/0", "-1/2", "1", "a/b"):
        assert prepare_folder(tmp_path, wrong) == 2
    assert find_shards(tmp_path) == []


def prepare_folder(raw, shard: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["folder", "--raw", str(raw), "--out", str(raw), "--shard", shard])
    return stopped.value.code


def test_the_command_prepares_its_share(tmp_path, monkeypatch):
    seen = {}

    def fake(jobs, out, split_of, settings, workers, may_be_empty, run_all):
        seen[out] = ([job.clip for job in jobs], settings, may_be_empty)
        return prepare.Summary(0, 0, 0, 0)

    monkeypatch.setattr(prepare, "prepare", fake)
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    command = ["folder", "--raw", str(tmp_path), "--out", str(tmp_path / "out"), "--crop", "none"]
    for shard in ("0/2", "1/2"):
        assert prepare.main([*command, "--shard", shard]) == 0
    first, second = (tmp_path / "out" / "shards" / f"{index}-of-2" for index in range(2))
    assert seen[first][0] == ["a", "c"] and seen[second][0] == ["b"]
    assert seen[first][1] == seen[second][1] and seen[first][2]
