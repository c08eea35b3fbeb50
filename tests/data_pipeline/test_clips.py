"""One steady face with its voice out of a stretch of video: what is taken, what is refused and why.

The face is a public-domain one.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline import clips, quality
from data_pipeline.audio import to_float
from data_pipeline.clips import Region, VideoJob
from data_pipeline.errors import InputError
from data_pipeline.face import TYPICAL_SYNC_BOX
from data_pipeline.records import decode_jpeg
from tests.data_pipeline.faces import EMPTY, MODEL, TWO, WOMAN, needs_model, save, swaying, voice


def job(path: Path, **fields) -> VideoJob:
    usual = {"clip": "a", "identity": "b", "size": 64, "model": str(MODEL)}
    return VideoJob(source=str(path), **usual | fields)


def clips_of(job: VideoJob) -> list[dict]:
    """The examples of a video of which nothing is refused."""
    outcomes = list(job.run())
    assert not any(outcome.reason for outcome in outcomes)
    return [outcome.example for outcome in outcomes]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("good") / "good.mp4", swaying(30))


@needs_model
def test_a_clip_keeps_picture_sound_and_landmarks_together(good):
    (example,) = clips_of(job(good, emotion=3))
    assert len(example["frames"]) == 30 and example["emotion"] == 3
    assert (example["clip"], example["identity"]) == ("a", "b")
    error = to_float(example["audio"]) - voice(30)
    assert np.sqrt(np.mean(error[640:-640] ** 2)) < 0.05
    # The crop follows the face, so that it stays where it is; the boxes say how it moved.
    landmarks, boxes = example["landmarks"], example["boxes"]
    assert landmarks.shape == (30, 68, 2) and boxes.shape == (30, 3)
    assert landmarks.std(axis=0).max() < 0.02
    middle = boxes[13:17, 0].mean() - boxes[[0, -1], 0].mean()
    assert 8 < middle < 12  # Smoothed: a little less than 12.
    np.testing.assert_allclose(landmarks.min(1).mean(0)[0], 0.5 - 0.5 / 1.375, atol=0.08)
    top, left, bottom, right = example["sync_box"]
    mouth = landmarks[:, 48:68].reshape(-1, 2)
    assert left < mouth[:, 0].min() and mouth[:, 0].max() < right
    assert (top + bottom) / 2 < mouth[:, 1].min() and mouth[:, 1].max() < bottom


@needs_model
def test_long_videos_become_several_clips(good, monkeypatch):
    (whole,) = clips_of(job(good))
    monkeypatch.setattr(clips, "MAX_FRAMES", 12)
    pieces = clips_of(job(good))
    assert [piece["clip"] for piece in pieces] == ["a#000", "a#001", "a#002"]
    assert [len(piece["frames"]) for piece in pieces] == [10, 10, 10]
    assert sum((piece["frames"] for piece in pieces), []) == whole["frames"]
    for field in ("audio", "landmarks", "boxes"):
        np.testing.assert_array_equal(
            np.concatenate([piece[field] for piece in pieces]), whole[field]
        )


@needs_model
def test_a_face_lost_for_a_moment_is_bridged(tmp_path):
    frames = swaying(40)
    frames[18:22] = [EMPTY] * 4
    # A flash to grey is a change of the picture, not of the face: it may not look like a cut.
    (example,) = clips_of(job(save(tmp_path / "a.mp4", frames)))
    assert example["landmarks"].std(axis=0).max() < 0.03


def truncated(path: Path) -> Path:
    data = save(path, swaying(50)).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def nothing(path: Path) -> Path:
    path.touch()
    return path


def text(path: Path) -> Path:
    path.write_text("no video")
    return path


OTHER = np.ascontiguousarray(255 - WOMAN[..., ::-1] // 2)
REFUSED_WHOLE = {
    "no audio": lambda path: save(path, swaying(26), sound=None),
    "silent audio": lambda path: save(path, swaying(26), sound=voice(26) * 1e-3),
    "truncated": truncated,
    "not a media file": text,
    "is empty": nothing,
}


@needs_model
@pytest.mark.parametrize("reason", REFUSED_WHOLE)
def test_a_source_that_is_broken_is_refused_as_a_whole(tmp_path, reason):
    path = REFUSED_WHOLE[reason](tmp_path / "a b ü.mp4")
    with pytest.raises(InputError, match=reason):
        list(job(path).run())


REFUSED = {
    "no face": lambda path: save(path, [EMPTY] * 26),
    "several faces in 100% of the frames": lambda path: save(path, TWO * 26),
    "face lost in 33% of the frames": lambda path: save(path, swaying(20) + [EMPTY] * 10),
    "too short: 0.96 s": lambda path: save(path, swaying(24)),
    "blurred": lambda path: save(path, [cv2.GaussianBlur(WOMAN, (0, 0), 3)] * 26),
    "too dark": lambda path: save(path, [WOMAN // 16] * 26),
    "the lips do not move": lambda path: save(path, [WOMAN] * 75),
    "overexposed": lambda path: save(path, [cv2.add(WOMAN, (150,) * 4)] * 26),
}


@needs_model
@pytest.mark.parametrize("reason", REFUSED)
def test_a_stretch_is_refused_with_its_reason_its_place_and_its_scores(tmp_path, reason):
    (outcome,) = job(REFUSED[reason](tmp_path / "a.mp4")).run()
    assert outcome.example is None and outcome.clip == "a"
    assert reason in outcome.reason
    assert outcome.start == 0 and outcome.end >= 0.96
    if reason not in ("no face", "too short: 0.96 s"):
        assert outcome.scores.sharpness is not None


@needs_model
def test_a_clip_in_which_nothing_is_heard_is_refused_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "MAX_FRAMES", 30)
    sound = voice(60)
    sound[29 * 640 :] = 0
    heard, silent = job(save(tmp_path / "a.mp4", swaying(60), sound)).run()
    assert heard.example is not None and silent.example is None
    assert (silent.reason, silent.start, silent.end) == ("silent audio", 1.2, 2.4)


@needs_model
def test_a_span_is_what_the_whole_video_has_there(tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "MIN_MOVEMENT", 0)  # it is a picture that moves
    frames = swaying(75)
    path = save(tmp_path / "a.mp4", frames)
    (whole,) = clips_of(job(path))
    (part,) = clips_of(job(path, start=1.2, end=2.4))
    assert len(part["frames"]) == 30
    np.testing.assert_array_equal(part["audio"][640:-640], whole["audio"][30 * 640 :][640:18560])
    error = part["landmarks"] * part["boxes"][:, None, 2:] + part["boxes"][:, None, :2]
    error -= (whole["landmarks"] * whole["boxes"][:, None, 2:] + whole["boxes"][:, None, :2])[30:60]
    assert np.abs(error - error.mean((0, 1))).max() < 2  # Pixels.
    for start, end, reason in ((2.0, 5.0, "another cut"), (3.5, 5.0, "ends at 3.00 s, before 3.5")):
        with pytest.raises(InputError, match=reason):
            list(job(path, start=start, end=end).run())


@needs_model
def test_only_the_face_in_the_region_counts(tmp_path):
    path = save(tmp_path / "a.mp4", TWO * 26)  # 384 x 192
    (example,) = clips_of(job(path, region=Region(384, 0, 768, 384, height=384)))
    assert (example["boxes"][:, 0] > 192).all()
    (example,) = clips_of(job(path, region=Region(-5, 0, 96, 100, height=96)))
    assert (example["boxes"][:, 0] < 192).all()
    with pytest.raises(InputError, match="outside of the 384x192 picture"):
        list(job(path, region=Region(400, 0, 500, 96, height=96)).run())


@needs_model
def test_a_voice_of_another_length_is_another_take_s(tmp_path):
    path = save(tmp_path / "a.mp4", swaying(26), sound=None)
    long = save(tmp_path / "long.mp4", [EMPTY] * 60)
    with pytest.raises(InputError, match="do not belong together"):
        list(job(path, audio=str(long)).run())


def jumping(count: int) -> list[np.ndarray]:
    """After `count` frames the face is 60 pixels further to the right."""
    return [np.roll(WOMAN, 60 * (t >= count), 1) for t in range(2 * count)]


@needs_model
def test_shots_become_clips_of_their_own_and_rows_leave_no_second_out(tmp_path):
    path = save(tmp_path / "a.mp4", jumping(30) + [EMPTY] * 30)
    first, second, third = job(path).run()
    assert [part.clip for part in (first, second, third)] == ["a#000", "a#001", "a#002"]
    assert [(part.start, part.end) for part in (first, second, third)] == [
        (0, 1.2),
        (1.2, 2.4),
        (2.4, 3.6),
    ]
    assert third.reason == "no face" and third.example is None
    samples = np.concatenate([first.example["audio"], second.example["audio"]])
    error = to_float(samples) - voice(90)[: len(samples)]
    assert np.sqrt(np.mean(error[640:] ** 2)) < 0.05
    moved = second.example["boxes"][:, 0].mean() - first.example["boxes"][:, 0].mean()
    assert 50 < moved < 70
    # A published span is one shot or nothing.
    with pytest.raises(InputError, match="scene cut or jumping face at 1.20 s"):
        list(job(path, start=0.6, end=2.0).run())


@needs_model
def test_fomm_s_crop_is_one_wide_box_in_which_the_head_moves(good, tmp_path):
    (emoca,) = clips_of(job(good))
    (fomm,) = clips_of(job(good, crop="fomm"))
    assert (fomm["boxes"] == fomm["boxes"][0]).all()
    assert fomm["boxes"][0, 2] > emoca["boxes"][:, 2].max()
    assert np.ptp(fomm["landmarks"][:, 30, 0]) > 2 * np.ptp(emoca["landmarks"][:, 30, 0])
    assert fomm["landmarks"].min() > 0 and fomm["landmarks"].max() < 1
    # Not faster than a cut, but 110 pixels in the end.
    wide = [cv2.copyMakeBorder(WOMAN, 0, 0, 3 * t, 120 - 3 * t, 1) for t in range(38)]
    (left,) = job(save(tmp_path / "a.mp4", wide), crop="fomm").run()
    assert left.reason == "the head moves out of a steady crop"


def test_ready_crops_and_boxes_need_no_landmarker(tmp_path):
    wide = [np.hstack([EMPTY, frame, EMPTY]) for frame in swaying(26)]
    path = save(tmp_path / "a.mp4", wide)
    (middle,) = clips_of(job(path, model="", crop="none"))
    (placed,) = clips_of(job(path, model="", box=(288, 96, 192)))
    assert middle["frames"] == placed["frames"] and len(middle["frames"]) == 26
    np.testing.assert_array_equal(middle["boxes"], [[288, 96, 192]] * 26)
    picture = decode_jpeg(middle["frames"][0]).astype(int)
    assert np.abs(picture - cv2.resize(WOMAN, (64, 64), interpolation=cv2.INTER_AREA)).mean() < 5
    assert not middle["landmarks"].any() and middle["audio"].any()
    assert (middle["sync_box"] == TYPICAL_SYNC_BOX).all()
    (outcome,) = job(path, model="", crop="none").run()
    assert outcome.scores.sharpness > 0
    assert outcome.scores.sync is None and outcome.scores.yaw is None
    assert outcome.scores.others is None and outcome.scores.lost is None


@needs_model
def test_boxes_with_a_landmarker_have_landmarks(tmp_path):
    path = save(tmp_path / "a.mp4", swaying(26))
    (plain,) = clips_of(job(path))
    (placed,) = clips_of(job(path, box=(96, 96, 192)))
    np.testing.assert_allclose(
        placed["landmarks"] * 192, into_source(plain["landmarks"], plain["boxes"]), atol=1
    )
    (outcome,) = job(path, box=(96, 96, 192)).run()
    assert outcome.scores.lost == 0 and outcome.scores.others is None


def test_a_landmarker_that_fails_is_no_fault_of_the_video(tmp_path):
    path = save(tmp_path / "a.mp4", swaying(3))
    (tmp_path / "broken.task").write_text("no model")
    with pytest.raises(RuntimeError, match=r"broken\.task is not a face landmarker model"):
        list(job(path, model=str(tmp_path / "broken.task")).run())


def into_source(landmarks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return (landmarks - 0.5) * boxes[:, None, 2:] + boxes[:, None, :2]
