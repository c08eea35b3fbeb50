"""MEAD's tree of actors, views, emotions and levels, with the voices apart."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data_pipeline.audio import to_float
from data_pipeline.datasets import mead, splits
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.prepare import main
from data_pipeline.records import list_clips, open_records
from data_pipeline.video import VideoWriter
from tests.data_pipeline.faces import MODEL, WOMAN, manifest_of, needs_model, voice

PLACES = [
    "M003/video/front/angry/level_1/001.mp4",
    "M003/audio/angry/level_1/001.m4a",
    "M003/video/left_30/angry/level_1/001.mp4",
    "M003/video/front/Contempt/level_3/004.MP4",
    "M003/audio/contempt/level_3/004.m4a",
    "W011/video/front/neutral/level_1/001.mp4",  # Without voice,
    "W011/audio/sad/level_2/030.m4a",  # without video,
    "W011/video/front/bored/level_1/001.mp4",  # and of no emotion.
    "W011/audio/bored/level_1/001.m4a",
    "W011/readme.txt",
]


@pytest.fixture
def raw(tmp_path) -> Path:
    for place in PLACES:
        path = tmp_path / "raw" / "MEAD" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a file")
    return tmp_path / "raw"


def jobs_of(raw: Path, **options) -> dict[str, mead.VideoJob]:
    return {job.clip: job for job in mead.jobs(raw, 64, "model", **options)}


def test_takes_get_their_voice_emotion_and_level(raw, monkeypatch):
    found = jobs_of(raw)
    monkeypatch.chdir(raw)
    assert jobs_of(Path(".")) == found
    job = found["M003_front_angry_1_001"]
    assert job.source.endswith(PLACES[0]) and job.audio.endswith(PLACES[1])
    assert (job.identity, job.emotion) == ("M003", EMOTIONS.index("angry"))
    assert found["M003_front_contempt_3_004"].audio.endswith(PLACES[4])
    assert {clip: job.missing for clip, job in found.items() if job.missing} == {
        "W011_front_neutral_1_001": "no voice goes with the video: "
        "W011/audio/neutral/level_1/001.m4a is not there",
        "W011_front_sad_2_030": "no video goes with the voice: "
        "W011/video/front/sad/level_2/030.mp4 is not there",
    }
    assert found["W011_front_bored_1_001"].refused == "bored is none of MEAD's emotions"
    assert len(found) == 5


def test_other_views_and_a_single_actor_s_folder(raw, monkeypatch):
    found = jobs_of(raw, views=["left_30"])
    assert not found["M003_left_30_angry_1_001"].missing
    assert found["M003_left_30_contempt_3_004"].missing
    monkeypatch.chdir(raw / "MEAD" / "M003")
    assert set(jobs_of(Path())) == {"M003_front_angry_1_001", "M003_front_contempt_3_004"}
    with pytest.raises(InputError, match="has no videos of MEAD"):
        mead.jobs(raw / "MEAD" / "W011" / "audio", 64, "model")


def test_published_splits_are_by_actor_and_by_clip():
    def of(name: str, clip: str) -> str:
        job = mead.VideoJob(clip=clip, identity=clip[:4], source="", size=1, model="")
        return mead.split_of(name)(job)

    counts = list(splits.published("mead", "edtalk").values())
    assert (counts.count("train"), counts.count("test")) == (39, 4)
    assert of("edtalk", "M005_front_sad_1_001") == "train"
    assert of("edtalk", "W015_front_sad_1_001#002") == "test"
    assert of("edtalk", "M041_front_sad_1_001") == ""
    assert len(splits.published("mead", "eat")) == 100
    assert (
        of("eat", "M003_front_contempt_3_004") == of("eat", "M003_front_angry_3_026#000") == "test"
    )
    assert of("eat", "M003_front_contempt_2_004") == of("eat", "M003_left_30_contempt_3_004") == ""
    assert of("eat", "M005_left_30_contempt_3_004") == "train"


def test_a_clip_s_name_states_its_view():
    assert mead.view_of("M003_left_30_angry_1_001#002") == "left_30"
    assert mead.view_of("two_names_down_neutral_1_001") == "down"
    for other in ("p3_001", "ann_top_hat_1_001", "M003__video__front__angry__level_1__001"):
        assert mead.view_of(other) == ""


def save_voice(path: Path, waveform: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@needs_model
def test_the_command_puts_30_frames_a_second_and_the_voice_on_one_clock(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number, waveform in {"001": voice(30), "002": voice(80)}.items():
        video = raw / f"M003/video/front/happy/level_2/{number}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(video, WOMAN.shape[:2], None, fps=30) as writer:
            # It gets brighter by four levels a frame, which tells the source frame.
            writer.write(np.stack([cv2.add(WOMAN // 3, (4 * t,) * 4) for t in range(36)]))
        save_voice(raw / f"M003/audio/happy/level_2/{number}.m4a", waveform)
    (raw / "M003/audio/happy/level_2/003.m4a").write_bytes(b"")
    (raw / "M003/video/front/happy/level_2/003.mp4").write_bytes(b"")
    command = ["mead", "--raw", str(raw), "--out", str(out), "--size", "64", "--workers", "1"]
    command += ["--face-landmarker", str(MODEL)]
    assert main([*command, "--dry-run"]) == 0
    assert "3 to prepare, 0 done" in capsys.readouterr().out and not out.exists()
    assert main(command) == 0
    rows = manifest_of(out)
    assert "do not belong together" in rows["M003_front_happy_2_002"].reason
    assert "is empty" in rows["M003_front_happy_2_003"].reason
    (row,) = list_clips(out, "test")
    assert (row["clip"], row["identity"], row["frames"]) == ("M003_front_happy_2_001", "M003", 30)
    assert row["emotion"] == EMOTIONS.index("happy")
    (record,) = open_records(out, "test")
    sound = to_float(record["audio"])
    assert len(sound) == 30 * 640
    shift = np.argmax(np.correlate(sound[2000:16000], voice(30)[2100:15900], "valid")) - 100
    assert abs(shift) <= 8  # Half a millisecond.
    pictures = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), 0) for jpeg in record["frames"]]
    rise = np.array([picture.mean() for picture in pictures]) - pictures[0].mean()
    # Each frame is the nearest of the source's, which are 1.2 a frame.
    np.testing.assert_allclose(rise / 4, np.arange(30) * 1.2, atol=0.75)
