"""A folder of videos: whose they are, what they are called, and what the command makes of them."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import audio
from data_pipeline.clips import Outcome, Region, VideoJob
from data_pipeline.datasets import folder, splits
from data_pipeline.datasets.boxes import in_boxes
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.estimate import estimate
from data_pipeline.manifest import read_manifest
from data_pipeline.merge import merge
from data_pipeline.prepare import main
from data_pipeline.records import Source, list_clips, list_splits, open_records
from data_pipeline.settings import read_settings
from tests.data_pipeline.faces import MODEL, needs_model, save, swaying
from tests.data_pipeline.sets import example


def test_names_identities_and_emotions_come_from_the_paths(tmp_path):
    for name in ("M003/front/happy/level_3/001.mp4", "ann/b c.mp4", "ann/b_c.MOV", "ann/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = folder.jobs(tmp_path, 64, "model")
    assert [Path(job.source).suffix for job in found] == [".mp4", ".mp4", ".MOV"]
    assert found[0].clip == "M003__front__happy__level_3__001"
    assert found[0].emotion == EMOTIONS.index("happy") and found[1].emotion == -1
    assert found[1].clip.startswith("ann__b_c-") and found[2].clip.startswith("ann__b_c-")
    assert found[1].clip != found[2].clip
    assert [job.identity for job in found] == ["front", "ann", "ann"]
    assert len(folder.jobs(tmp_path, 64, "model", limit=2)) == 2


def test_folders_of_one_name_are_not_one_person(tmp_path):
    for name in ("ann/happy/level_1/1.mp4", "bob/happy/level_1/1.mp4", "bob/level_2_sad/2.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "happy_level_1.mp4").touch()
    own = tmp_path.name

    def identities(identity_from):
        return [job.identity for job in folder.jobs(tmp_path, 64, "model", identity_from)]

    assert identities("folder") == identities("top") == ["ann", "bob", "bob", own]
    for name in ("ann/001/3.mp4", "bob/001/3.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="ann/001 and .*bob/001 would be one person, 001: say"):
        identities("folder")
    assert identities("top") == ["ann", "ann", "bob", "bob", "bob", own]


def test_identities_by_prefix_file_or_list(tmp_path):
    (tmp_path / "ann__one.mp4").touch()
    (tmp_path / "bob__two.mp4").touch()
    people = tmp_path / "people.csv"
    people.write_text("id,identity\nann__one,Ann Example\n")

    def identities(**options):
        return [job.identity for job in folder.jobs(tmp_path, 64, "model", **options)]

    assert identities(identity_from="prefix") == ["ann", "bob"]
    (tmp_path / "__one.mp4").touch()
    assert identities(identity_from="prefix")[0] == "__one"
    (tmp_path / "__one.mp4").unlink()
    assert identities(identity_from="file") == ["ann__one", "bob__two"]
    assert identities(identity_from="prefix", identities=people) == ["Ann Example", "bob"]
    people.write_text("id,identity\nann__one, Ann \n", encoding="utf-8-sig")
    assert identities(identities=people)[0] == "Ann"
    people.write_text("identity,id\nAnn,ann__one.mp4\n\nBob,bob__two\n")
    assert identities(identities=people) == ["Ann", "Bob"]
    for text, sentence in (
        ("name\nann\n", "columns id, identity"),
        ("id;identity\n", "columns id, identity"),
        ("id,identity\n", "no line below its head"),
        ('id,identity\nann__one,Ann\n"bob__two,Bob\n', "is not a CSV file"),
        ("id,identity\nann__one,Ann\nann__one,Bob\n", "says of ann__one that it is Ann, and Bob"),
        ("id,identity\nann__ones,Ann\n", "names ann__ones, of which there is no video"),
    ):
        people.write_text(text)
        with pytest.raises(InputError, match=sentence):
            identities(identities=people)


@pytest.mark.parametrize(
    ("path", "emotion"),
    [
        ("M003_level_1_disgusted_015.mp4", "disgusted"),
        ("W009/video/front/sad/level_2/003.mp4", "sad"),
        ("M003#angry#level_1#001.mp4", "angry"),
        ("happy_birthday.mp4", None),
        ("level_3_001.mp4", None),
    ],
)
def test_emotions_are_read_as_mead_writes_them(path, emotion):
    assert folder.emotion_of(Path(path)) == (EMOTIONS.index(emotion) if emotion else -1)


def test_the_split_is_by_identity(tmp_path):
    split = splits.by_identity()
    sources = [Source(f"c{k}", f"person{i}", dict) for i in range(400) for k in range(2)]
    halves = {split(source) for source in sources if source.identity == "person7"}
    assert len(halves) == 1
    assert 0.06 < np.mean([split(source) == "test" for source in sources]) < 0.14
    named = splits.by_identity(["person3", "person5"])
    assert {s.identity for s in sources if named(s) == "test"} == {"person3", "person5"}


def test_names_are_read_as_editors_write_them(tmp_path):
    file = tmp_path / "test.txt"
    file.write_bytes("\ufeffbob \r\n\r\n\tann\r\n".encode())
    assert splits.read_identities(file) == ["ann", "bob"]
    with pytest.raises(InputError, match="cannot be read"):
        splits.read_identities(tmp_path / "missing.txt")
    for content, told in ((b"\xff\xfea\x00", "is no text in UTF-8"), (b" \n", "names nobody")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=told):
            splits.read_identities(file)


class Quick(VideoJob):
    """A job that takes any file for a clip but one that says "a bug"."""

    def run(self):
        if Path(self.source).read_text() == "a bug":
            raise RuntimeError
        yield Outcome(self.clip, example(self.clip, self.identity, count=5), 0.0, 0.2)


@pytest.fixture
def quick(tmp_path, monkeypatch) -> list[str]:
    """The command for a folder with a file of ann, bob, cat and dan, of whom none is for judging
    but by name."""
    monkeypatch.setattr(folder, "VideoJob", Quick)
    for name in ("ann", "bob", "cat", "dan"):
        assert splits.by_hash(name) == "train"
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "one.mp4").write_text("a video")
    command = ["folder", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    return [*command, "--crop", "none", "--workers", "1"]


def held_out(out: Path) -> set[str]:
    rows = list_splits(out).get("test", [])
    return {row["identity"] for row in rows}


def naming(*names: str, file: Path) -> list[str]:
    file.write_text("\n".join(names))
    return ["--test-identities", str(file)]


def test_who_was_held_out_stays_so_until_others_are_named(quick, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "test.txt"
    assert main([*quick, *naming("ann", "bob", file=file)]) == 0
    assert held_out(out) == {"ann", "bob"}
    (tmp_path / "raw" / "ann" / "two.mp4").touch()
    assert main(quick) == 0
    assert held_out(out) == {"ann", "bob"}
    assert len(list_clips(out, "test")) == 3
    made = {row.clip: row for row in read_manifest(out)}
    assert main([*quick, *naming("cat", file=file)]) == 0
    assert held_out(out) == {"cat"}
    assert {row.clip: row for row in read_manifest(out)} == made
    capsys.readouterr()
    assert main([*quick, *naming("cat", "dna", file=file)]) == 2
    assert "names dna, of whom there is no video" in capsys.readouterr().err
    assert main([*quick, *naming("cat", "dna", file=file), "--limit", "3"]) == 0


def test_shards_hold_out_whom_the_first_of_them_named(quick, tmp_path):
    out, file = tmp_path / "out", tmp_path / "test.txt"
    for shard in ("0/2", "1/2"):
        assert main([*quick, "--shard", shard, *naming("dan", file=file)]) == 0
    assert merge(out) == 4 and held_out(out) == {"dan"}
    (tmp_path / "raw" / "dan" / "two.mp4").touch()
    assert main([*quick, "--shard", "0/2"]) == 0
    assert merge(out) == 5 and held_out(out) == {"dan"}
    for shard in ("0/2", "1/2"):
        assert main([*quick, "--shard", shard, *naming("bob", file=file)]) == 0
    assert merge(out) == 5 and held_out(out) == {"bob"}
    assert read_settings(out)["test_identities"] == ["bob"]


def test_nobody_for_judging_is_told_with_what_to_do(quick, tmp_path, capsys):
    assert main(quick) == 0
    assert "no clip of" in (told := capsys.readouterr().err)
    assert "is in its test split: say who is for judging by --test-identities FILE" in told
    assert main([*quick, *naming("ann", file=tmp_path / "test.txt")]) == 0
    assert "split" not in capsys.readouterr().err


def test_failed_sources_leave_with_1_when_the_others_are_written(quick, tmp_path, capsys):
    (tmp_path / "raw" / "ann" / "one.mp4").write_text("a bug")
    assert main(quick) == 1
    assert "1 sources failed" in capsys.readouterr().err
    assert len(list_clips(tmp_path / "out", "train")) == 3


def test_no_file_takes_the_place_of_another(quick, tmp_path, capsys):
    raw = tmp_path / "raw"
    (raw / "ann__one.mp4").touch()
    assert main(quick) == 2
    assert f"{raw}/ann/one.mp4 and {raw}/ann__one.mp4 would both be" in capsys.readouterr().err
    (raw / "ann__one.mp4").unlink()
    assert main(quick) == 0
    other = tmp_path / "other"
    quick[2] = str(other)
    (other / "ann").mkdir(parents=True)
    (other / "ann" / "one.mp4").write_text("another video")
    assert main(quick) == 2
    assert f"would take the place of {raw}/ann/one.mp4" in capsys.readouterr().err
    (other / "ann" / "one.mp4").write_text("a video")  # A copy is no other.
    assert main(quick) == 0
    (other / "ann" / "one.mp4").write_text("another video")
    (raw / "ann" / "one.mp4").unlink()  # It was moved, and then changed.
    assert main(quick) == 0


def test_a_folder_is_known_by_its_own_name_and_from_anywhere(quick, tmp_path, monkeypatch, capsys):
    raw, place = tmp_path / "raw" / "ann", quick.index("--raw") + 1
    for where, name in ((raw, "."), (raw / "..", "ann"), (raw, "../ann")):
        monkeypatch.chdir(where)
        quick[place] = name
        assert main(quick) == 0
        (row,) = read_manifest(tmp_path / "out")
        assert (row.identity, row.source) == ("ann", str(raw / "one.mp4"))
    (tmp_path / "other" / "ann").mkdir(parents=True)
    (tmp_path / "other" / "ann" / "one.mp4").write_text("another video")
    monkeypatch.chdir(tmp_path / "other")
    quick[place] = "ann"
    assert main(quick) == 2
    assert f"take the place of {raw}/one.mp4 as clip one" in capsys.readouterr().err


def test_names_that_are_no_text_are_a_sentence(quick, tmp_path, capsys):
    folder = os.fsencode(tmp_path / "raw")
    (tmp_path / "raw" / os.fsdecode(b"M\xfcller.txt")).touch()  # It is none of ours.
    assert main(quick) == 0
    capsys.readouterr()
    os.mkdir(folder + b"/J\xfcrgen")
    for name in (b"M\xfcller.mp4", b"J\xfcrgen/one.mp4"):
        open(folder + b"/" + name, "w").close()
        assert main(quick) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "Traceback" not in told
        assert f"{ascii(os.fsdecode(name))[1:]} is not in UTF-8: rename" in told
        os.remove(folder + b"/" + name)


def test_long_names_are_cut_and_stay_apart(tmp_path):
    for end in "ab":
        (tmp_path / ("ä" * 100 + end + ".mp4")).touch()
    one, other = (job.clip for job in folder.jobs(tmp_path, 64, "model"))
    assert one != other and one.startswith("ä" * 75 + "-")
    assert len(one.encode()) == len(other.encode()) == 157


def test_a_broken_landmarker_refuses_no_source(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").write_text("a video")
    (tmp_path / "face_landmarker.task").write_text("no model")
    command = ["folder", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert main([*command, "--face-landmarker", str(tmp_path / "face_landmarker.task")]) == 2
    assert "is not a face landmarker model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs_model
def test_the_command_prepares_what_is_good_and_lists_what_is_not(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    good = save(raw / "ann" / "level_1_sad.mp4", swaying(30))
    (raw / "ann" / "broken.mp4").write_text("no video")
    command = ["folder", "--raw", str(raw), "--out", str(out), "--size", "64", "--workers", "1"]
    command += ["--face-landmarker", str(MODEL)]
    assert main([*command, "--dry-run"]) == 0
    assert "2 to prepare, 0 done" in capsys.readouterr().out and not out.exists()
    assert main(command) == 0
    assert "1 clips of 1 sources, 1 refused, 0 failed" in capsys.readouterr().out
    broken, taken = read_manifest(out)
    assert (broken.state, taken.state) == ("refused", "accepted")
    assert "not a media file" in broken.reason
    assert taken.emotion == "sad" and taken.identity == "ann"
    assert (taken.start, taken.end) == (0, 1.2) and len(taken.sha256) == 64
    (row,) = list_clips(out, "train")
    assert row["identity"] == "ann" and row["frames"] == 30
    # Another video next month: the first is not decoded again, and its bytes stay.
    before = open_records(out, "train")[0]["frames"]
    (raw / "bob").mkdir()
    os.link(good, raw / "bob" / "new.mp4")
    assert main(command) == 0
    assert [row["identity"] for row in list_clips(out, "train")] == ["ann", "bob"]
    assert open_records(out, "train")[0]["frames"] == before


def test_a_folder_without_videos_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="is not a directory"):
        folder.jobs(tmp_path / "missing", 64, "model")
    with pytest.raises(InputError, match="has no video files"):
        folder.jobs(tmp_path, 64, "model")


def test_an_estimate_is_of_seconds_pixels_and_workers():
    place = Region(0, 0, 100, 100, height=1080)
    jobs = [
        VideoJob(str(k), "", source="x", size=256, model="", end=360.0, region=place)
        for k in range(20)
    ]
    told = estimate([*jobs, dataclasses.replace(jobs[0], refused="no")], 7, size=256, workers=4)
    assert "20 to prepare, 7 done, 1 refused beforehand, 0 missing" in told
    assert "2.00 hours, about 1440 clips" in told and "3.87 gigabytes" in told
    odd = [dataclasses.replace(job, end=5.04) for job in jobs]
    assert "0.03 hours, about 40 clips" in (short := estimate(odd, 0, size=256, workers=4))
    assert "about 1 minutes" in short
    # 180,000 frames of 17 + 60 ms by four processes.
    assert "about 58 minutes with 4 processes" in told


def test_a_long_video_is_prepared_in_parts_that_join(tmp_path, monkeypatch):
    """The header says 3.04 s: three parts of a second, of which the last one is open."""
    seconds = np.arange(76 * 640) / 16_000
    chirp = 0.3 * np.sin(
        2 * np.pi * (200 + 150 * seconds) * seconds
    )  # no noise, which AAC makes up
    path = save(tmp_path / "ann" / "a.mp4", swaying(76), chirp.astype(np.float32))
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("clip,x,y,side\nann__a,96,96,96\n")
    (whole,) = in_boxes(folder.jobs(tmp_path, 32, ""), boxes)
    monkeypatch.setattr(folder, "PART_SECONDS", 1)
    monkeypatch.setattr(folder, "_LONG_BYTES", 0)
    with monkeypatch.context() as patched:  # The header says how long it is.
        patched.setattr(audio, "decode_frames", lambda *_: pytest.fail("a frame was decoded"))
        parts = in_boxes(folder.jobs(tmp_path, 32, ""), boxes)
    assert [(job.start, job.end) for job in parts] == [(0, 1), (1, 2), (2, None)]
    assert [job.extent()[0] for job in parts] == pytest.approx([1, 1, 1.04], abs=0.01)
    assert {job.extent()[1] for job in parts} == {192 * 192}
    examples = [outcome.example for job in parts for outcome in job.run()]
    (expected,) = [outcome.example for outcome in whole.run()]
    assert [example["clip"] for example in examples] == [job.clip for job in parts]
    assert sum((example["frames"] for example in examples), []) == expected["frames"]
    sound = np.concatenate([example["audio"] for example in examples]).astype(int)
    # A part begins within half a sample of its place, in which 1,100 Hz change so much.
    differing = np.abs(sound - expected["audio"])[:-640]  # what AAC makes of the end
    assert differing.max() < 0.3 * np.pi * 1100 / 16_000 * 2**15
    path.write_bytes(path.read_bytes()[:999])  # No header: as one, which says what is wrong.
    assert [job.clip for job in folder.jobs(tmp_path, 32, "")] == [whole.clip]


def test_opening_many_files_shows_progress(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.mp4").touch()
    folder.jobs(tmp_path, 32, "")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(folder, "_MANY", 1)
    folder.jobs(tmp_path, 32, "")
    assert "looking for long videos" in capsys.readouterr().err


def test_links_in_circles_and_to_nothing_are_passed_by(tmp_path):
    (tmp_path / "ä b").mkdir()
    (tmp_path / "ä b" / "one two.mp4").touch()
    (tmp_path / "ä b" / "loop").symlink_to(tmp_path)
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    (found,) = folder.jobs(tmp_path, 64, "model")
    assert Path(found.source).name == "one two.mp4" and " " not in found.clip


def test_the_command_crops_in_given_boxes_without_a_landmarker(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RETA_FACE_LANDMARKER", str(tmp_path / "none"))
    raw, out, boxes = tmp_path / "raw", tmp_path / "out", tmp_path / "boxes.csv"
    save(raw / "ann" / "one.mp4", swaying(26))
    save(raw / "ann" / "two.mp4", swaying(26))
    boxes.write_text("clip,x,y,side\nann__one,90,96.5,100\n")
    command = ["folder", "--raw", str(raw), "--out", str(out), "--size", "64", "--workers", "1"]
    assert main([*command, "--boxes", str(boxes)]) == 0
    assert "1 clips of 1 sources, 1 refused" in capsys.readouterr().out
    one, two = read_manifest(out)
    assert one.state == "accepted" and one.scores.sync is None
    assert two.reason == f"no box for it in {boxes}"
    split = splits.by_identity()(Source("", "ann", dict))
    (record,) = open_records(out, split)
    np.testing.assert_array_equal(record["boxes"], [[90, 96.5, 100]] * 26)
    boxes.write_text("clip,x,y,side\nann__one,80,96.5,100\n")
    assert main([*command, "--boxes", str(boxes)]) == 0
    (record,) = open_records(out, split)
    np.testing.assert_array_equal(record["boxes"], [[80, 96.5, 100]] * 26)
    assert main([*command, "--crop", "none"]) == 2
    assert "prepared with other settings" in capsys.readouterr().err
    for text in ("clip,x\na,1", "clip,x,y,side\na,1,2,0", "clip,x,y,side\na,b,2,3", "clip,x\na"):
        boxes.write_text(text)
        assert main([*command, "--boxes", str(boxes)]) == 2
        assert "columns clip, x, y, side" in capsys.readouterr().err
    assert main([*command, "--boxes", str(tmp_path / "missing.csv")]) == 2
    assert "cannot read" in capsys.readouterr().err
