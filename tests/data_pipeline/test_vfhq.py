"""VFHQ's meta files and the videos of YouTube that they name."""

from pathlib import Path

import pytest

from data_pipeline.clips import Region
from data_pipeline.datasets import vfhq
from data_pipeline.errors import InputError
from data_pipeline.prepare import main
from data_pipeline.records import list_clips, open_records
from tests.data_pipeline.faces import MODEL, TWO, manifest_of, needs_model, save

META = """Video https://www.youtube.com/watch?v={video}
H {height}
W 768
FPS {fps}
CROP {crop}

FRAME INDEX X0 Y0 W H [Landmarks (5 Points)]
00000001 0 372.9 57.0 338.4 482.2 474.8 254.4 632.6 253.6 553.4 343.2 487.2 426.5 616.6 425.9
"""


def save_meta(raw: Path, name: str, height=384, fps="29.97", crop="0 0 384 384") -> None:
    folder = raw / "meta_info"
    folder.mkdir(parents=True, exist_ok=True)
    text = META.format(video=name.split("+")[1], height=height, fps=fps, crop=crop)
    (folder / f"{name}.txt").write_text(text)


def test_meta_files_become_spans_and_crops_of_videos_found_by_id(tmp_path, monkeypatch):
    for name in ("-bcDEF_0123", "Abc-EF_0123", "abc-ef_0123", "lonely_one_"):
        save_meta(tmp_path, f"Clip+{name}+P2+C13+F300-450")
    (tmp_path / "videos").mkdir()
    names = ["-bcDEF_0123.mkv", "A talk [Abc-EF_0123].webm", "Old-abc-ef_0123.mp4", "other.mp4"]
    for name in names:
        (tmp_path / "videos" / name).write_text("a video")
    found = {job.clip: job for job in vfhq.jobs(tmp_path, 64, "model")}
    monkeypatch.chdir(tmp_path)
    assert vfhq.jobs(".", 64, "model") == list(found.values())
    assert {clip[:11]: Path(job.source).name for clip, job in found.items()} == {
        "-bcDEF_0123": names[0],
        "Abc-EF_0123": names[1],
        "abc-ef_0123": names[2],
        "lonely_one_": "",
    }
    job = found["-bcDEF_0123_P2_C13_F300-450"]
    assert job.identity == "-bcDEF_0123_P2"
    assert job.start == pytest.approx(301 / 29.97) and job.end == pytest.approx(450 / 29.97)
    assert job.region == Region(0, 0, 384, 384, height=384)
    lonely = found["lonely_one__P2_C13_F300-450"]
    assert lonely.missing.endswith("https://www.youtube.com/watch?v=lonely_one_")
    assert {vfhq.split_of(job) for job in found.values()} <= {"train", "test"}


def test_broken_meta_files_are_refused(tmp_path):
    save_meta(tmp_path, "Clip+aaaaaaaaaaa+P0+C0+F9-9")
    save_meta(tmp_path, "Clip+aaaaaaaaaaa+P0+C1+F0-90", crop="10 20 10")
    save_meta(tmp_path, "Clip+aaaaaaaaaaa+P0+C2+F0-90", crop="20 0 10 20")
    save_meta(tmp_path, "Clip+aaaaaaaaaaa+P0+C3+F0-90", fps="0")
    (tmp_path / "meta_info" / "Clip+aaaaaaaaaaa+P0+C4+F0-90.txt").write_bytes(b"\xff\x00")
    reasons = [job.refused for job in vfhq.jobs(tmp_path, 64, "model")]
    words = ["frames 9-9 are none", "lacks", "broken", "broken", "lacks H, FPS or CROP"]
    assert all(word in reason for word, reason in zip(words, reasons, strict=True)), reasons
    with pytest.raises(InputError, match="has no Clip"):
        (tmp_path / "empty").mkdir()
        vfhq.jobs(tmp_path / "empty", 64, "model")


def test_all_people_of_a_video_are_on_one_side():
    def split(video: int, person: int) -> str:
        identity = f"video_{video:05d}_P{person}"
        return vfhq.split_of(vfhq.VideoJob("", identity, source="", size=1, model=""))

    sides = [{split(video, person) for person in range(3)} for video in range(200)]
    assert all(len(side) == 1 for side in sides)
    assert 8 < sides.count({"test"}) < 32


@needs_model
def test_the_command_takes_sound_from_the_videos_and_refuses_those_without(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    save_meta(raw, "Clip+aaaaaaaaaaa+P0+C0+F14-45")
    save_meta(raw, "Clip+aaaaaaaaaaa+P1+C0+F14-45", crop="384 0 768 384")
    save_meta(raw, "Clip+aaaaaaaaaaa+P1+C1+F500-600", crop="384 0 768 384")
    save_meta(raw, "Clip+mute_mute_m+P0+C0+F14-45")
    save_meta(raw, "Clip+gone_gone_g+P0+C0+F14-45")
    save(raw / "aaaaaaaaaaa.mp4", TWO * 50)
    save(raw / "mute_mute_m.webm", TWO * 50, sound=None)
    command = ["vfhq", "--raw", str(raw), "--out", str(out), "--size", "64", "--workers", "1"]
    command += ["--face-landmarker", str(MODEL)]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "2 clips of 2 sources, 2 refused, 0 failed, 1 missing" in told.out
    rows = manifest_of(out)
    assert rows["mute_mute_m_P0_C0_F14-45"].reason == "no audio stream"
    assert "ends at 2.00 s" in rows["aaaaaaaaaaa_P1_C1_F500-600"].reason
    assert "watch?v=gone_gone_g" in rows["gone_gone_g_P0_C0_F14-45"].reason
    assert "gone_gone_g.%(ext)s" in (out / "missing.sh").read_text()
    split = vfhq.split_of(vfhq.VideoJob("", "aaaaaaaaaaa_P0", source="", size=1, model=""))
    assert [row["identity"] for row in list_clips(out, split)] == [
        "aaaaaaaaaaa_P0",
        "aaaaaaaaaaa_P1",
    ]
    left, right = open_records(out, split)
    assert len(left["frames"]) == 25
    assert (left["boxes"][:, 0] < 192).all() and (right["boxes"][:, 0] > 192).all()
