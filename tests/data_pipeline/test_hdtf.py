"""HDTF's annotation with the quirks of the published one, and a few videos of those it names."""

from pathlib import Path

import pytest

from data_pipeline.clips import Region
from data_pipeline.datasets import hdtf, splits
from data_pipeline.errors import InputError
from data_pipeline.prepare import main
from data_pipeline.records import list_clips, open_records
from tests.data_pipeline.faces import MODEL, TWO, manifest_of, needs_model, save

URL = "https://www.youtube.com/watch?v="
ANNOTATION = {
    "WDA_video_url.txt": f"""\ufeffAnnOne0 {URL}aaaaaaaaaaa
AnnOne1 {URL}bbbbbbbbbbb&t=6s
BobTwo1 {URL}ccccccccccc
WhipBobTwo {URL}ccccccccccc&t=5s
NoTime.mp4 {URL}ddddddddddd
Empty {URL}eeeeeeeeeee
""",
    "WDA_annotion_time.txt": """AnnOne0.mp4 00:00-00:01 00:01-00:02 00:05-00:03 00:00-00:01 0-1-2

AnnOne1.mp4 00:00-00:01\r
BobTwo1.mp4 01:00:05-01:00:07 \nWhipBobTwo.mp4 00:00-00:02
NoUrl.mp4 00:00-00:02
Empty.mp4 00:00-00:02""",
    "WDA_crop_wh.txt": """AnnOne0_0.mp4 0 384 0 384
AnnOne0_1.mp4 384 384 0 384
AnnOne0_2.mp4 384 384 0 384
AnnOne0_4.mp4 384 384 0 384
AnnOne1_0.mp4 0 0 0 0
BobTwo1_0.mp4 44 1074 0 1074
WhipBobTwo_0.mp4 44 100 0 100
WhipBobTwo_3.mp4 44 100 0 100
NoUrl_0.mp4 10 600 0 600
Empty_0.mp4 10 600 0 600
""",
    "WDA_resolution.txt": "AnnOne0.mp4 384\nBobTwo1.mp4 1080\nNoUrl.mp4 0\nEmpty.mp4 720\n",
    "RD_video_url.txt": "Radio34 https://youtu.be/fffffffffff\n",
    "RD_annotion_time.txt": "Radio34.mp4 00:00-00:01\n",
    "RD_crop_wh.txt": "Radio34_0.mp4 178 872 0 872\n",
    "RD_resolution.txt": "Radio34.mp4 720\n",
}


@pytest.fixture
def raw(tmp_path) -> Path:
    folder = tmp_path / "raw" / "HDTF_dataset"
    folder.mkdir(parents=True)
    for name, text in ANNOTATION.items():
        (folder / name).write_text(text, newline="")
    return tmp_path / "raw"


def jobs_of(raw: Path) -> dict[str, hdtf.VideoJob]:
    return {job.clip: job for job in hdtf.jobs(raw, 64, "model")}


def test_every_name_of_every_file_is_a_clip_or_a_reason(raw, monkeypatch):
    (raw / "a b").mkdir()
    (raw / "a b" / "annone0.MKV").write_text("video")
    (raw / "a b" / "annone0.mp4").write_text("cut")
    (raw / "a b" / "WDA_AnnOne1.webm").write_text("video")
    (raw / "loop").symlink_to(raw)
    (raw / "nothing.mp4").symlink_to(raw / "gone.mp4")
    found = jobs_of(raw)
    monkeypatch.chdir(raw)
    assert jobs_of(Path(".")) == found
    first, second = found["WDA_AnnOne0_000"], found["WDA_AnnOne0_001"]
    assert Path(first.source).name == "annone0.MKV"  # The larger one.
    assert (first.start, first.end, second.start, second.end) == (0, 1, 1, 2)
    assert second.region == Region(384, 0, 768, 384, height=384)
    assert not first.refused + first.missing + second.refused + second.missing
    assert {clip: job.refused for clip, job in found.items() if job.refused} == {
        "WDA_AnnOne0_002": "the published time 00:05-00:03 is broken",
        "WDA_AnnOne0_003": "no crop is published for it",
        "WDA_AnnOne0_004": "the published time 0-1-2 is broken",
        "WDA_AnnOne1_000": "the published crop 0 0 0 0 is broken",
        "WDA_NoTime": "no time and no crop are published for it",
        "WDA_WhipBobTwo_003": "no time is published for it",
    }
    missing = {clip: job.missing for clip, job in found.items() if job.missing}
    assert missing == {
        "RD_Radio34_000": "its video is not there: https://youtu.be/fffffffffff",
        "WDA_BobTwo1_000": f"its video is not there: {URL}ccccccccccc",
        "WDA_Empty_000": f"its video is not there: {URL}eeeeeeeeeee",
        "WDA_NoUrl_000": "its video is not there: no address is published for it",
        "WDA_WhipBobTwo_000": f"its video is not there: {URL}ccccccccccc&t=5s",
    }
    assert found["WDA_BobTwo1_000"].start == 3605


def test_people_are_named_without_numbers_and_by_one_of_two_names(raw):
    people = {clip: job.identity for clip, job in jobs_of(raw).items()}
    assert people["WDA_AnnOne0_000"] == people["WDA_AnnOne1_000"] == "AnnOne"
    assert people["WDA_BobTwo1_000"] == people["WDA_WhipBobTwo_000"] == "BobTwo"
    assert people["RD_Radio34_000"] == "Radio34"


@pytest.mark.parametrize(
    ("crop", "listed", "height"),
    [
        ("412 465 0 465", "0", 720),  # Of all that are listed so.
        ("433 407 0 407", "714", 714),
        ("1213 1455 0 1455", "2160", 2160),
        ("178 872 0 872", "720", 1080),
        ("83 1134 0 1134", "720", 1080),
        ("44 1074 0 1074", "1080", 1080),
        ("199 240 24 240", "", 720),
        ("9 2500 0 2500", "1080", 2500),
    ],
)
def test_crops_refer_to_a_picture_that_they_fit_into(raw, crop, listed, height):
    (raw / "HDTF_dataset" / "RD_crop_wh.txt").write_text(f"Radio34_0.mp4 {crop}\n")
    (raw / "HDTF_dataset" / "RD_resolution.txt").write_text(f"Radio34.mp4 {listed}\n")
    region = jobs_of(raw)["RD_Radio34_000"].region
    x, side, y, _ = map(float, crop.split())
    assert region == Region(x, y, x + side, y + side, height)


def test_clips_that_others_have_cut_are_taken_whole(raw):
    (raw / "RD_Radio34_000.mp4").write_text("cut")
    (raw / "AnnOne0_3.mp4").write_text("cut")
    found = jobs_of(raw)
    for clip in ("RD_Radio34_000", "WDA_AnnOne0_003"):
        job = found[clip]
        assert job.source and not job.missing and not job.refused
        assert (job.start, job.end, job.region) == (0, None, None)


def test_an_annotation_that_is_not_whole_is_a_sentence(raw):
    (raw / "HDTF_dataset" / "WDA_crop_wh.txt").unlink()
    with pytest.raises(InputError, match="lacks WDA_crop_wh.txt"):
        hdtf.jobs(raw, 64, "model")
    with pytest.raises(InputError, match="has no annotation of HDTF"):
        (raw / "empty").mkdir()
        hdtf.jobs(raw / "empty", 64, "model")


def test_edtalk_s_split_is_by_name_and_leaves_the_others_out(raw):
    published = splits.published("hdtf", "edtalk")
    assert sorted(map(list(published.values()).count, ("train", "test"))) == [77, 308]
    split = hdtf.split_of("edtalk")
    (job, *_) = hdtf.jobs(raw, 64, "model")

    def of(clip: str) -> str:
        return split(hdtf.VideoJob(clip=clip, identity="", source="", size=1, model=""))

    assert of("WDA_BarackObama_000") == "train" and of("WDA_BarackObama_001#007") == "test"
    assert of("WDA_AmyKlobuchar1_000") == ""
    (left_out,) = splits.leave_out([job], lambda source: "", "edtalk")
    assert left_out.refused == "not in the split edtalk: --split identity takes it"
    assert splits.leave_out([job], lambda source: "train", "edtalk") == [job]


def test_a_dry_run_counts_and_makes_nothing(raw, tmp_path, capsys):
    (raw / "annone0.mp4").write_text("video")
    out = tmp_path / "out"
    command = ["hdtf", "--raw", str(raw), "--out", str(out), "--workers", "2", "--dry-run"]
    assert main([*command, "--split", "identity"]) == 0
    told = capsys.readouterr().out
    assert "2 to prepare, 0 done, 6 refused beforehand, 5 missing" in told
    assert "0.00 hours" in told and "0.00 gigabytes" in told and "minutes with 2 process" in told
    assert "4 videos" in told
    assert main(command) == 0  # EDTalk has none of these people, but there is a Radio34_000.
    assert "0 to prepare, 0 done, 12 refused beforehand, 1 missing" in capsys.readouterr().out
    assert not out.exists()


@needs_model
def test_the_command_takes_each_span_and_face_and_says_what_to_fetch(raw, tmp_path, capsys):
    save(raw / "videos" / "annone0.mkv", TWO * 51)  # Half as tall as the crops say.
    (raw / "videos" / "Empty.mp4").touch()
    out = tmp_path / "out"
    command = ["hdtf", "--raw", str(raw), "--out", str(out), "--size", "64", "--workers", "1"]
    command += ["--split", "identity", "--face-landmarker", str(MODEL)]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "2 clips of 2 sources, 7 refused, 0 failed, 4 missing" in told.out
    assert "missing.sh` fetches them with yt-dlp" in told.err
    rows = manifest_of(out)
    assert "is empty" in rows["WDA_Empty_000"].reason
    assert f"{URL}ccccccccccc" in rows["WDA_BobTwo1_000"].reason
    assert rows["WDA_BobTwo1_000"].state == "missing"
    records = [r for s in ("train", "test") for r in _records(out, s)]
    left, right = sorted(records, key=lambda record: record["clip"])
    assert (left["boxes"][:, 0] < 192).all() and (right["boxes"][:, 0] > 192).all()
    assert len(left["frames"]) == len(right["frames"]) == 25
    script = (out / "missing.sh").read_text()
    assert script.count("\nyt-dlp ") == 3 and f"{raw}/RD_Radio34.%(ext)s" in script
    assert f"'{URL}ccccccccccc&t=5s'" in script and "aaaaaaaaaaa" not in script
    # One of them has come; the others are not decoded again.
    save(raw / "RD_Radio34.webm", TWO * 26)
    assert main(command) == 0
    assert "3 missing" in capsys.readouterr().out
    assert manifest_of(out)["RD_Radio34_000"].state == "accepted"
    assert (out / "missing.sh").read_text().count("\nyt-dlp ") == 2


def _records(out: Path, split: str) -> list[dict]:
    try:
        list_clips(out, split)
    except InputError:
        return []
    return [
        {"clip": record["clip"].decode(), **{k: record[k] for k in ("boxes", "frames")}}
        for record in open_records(out, split)
    ]
