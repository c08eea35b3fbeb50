"""One steady face with its voice out of a stretch of video: what is taken, what is refused and why.

The face is a public-domain one.
"""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline import clips
from data_pipeline.audio import to_float
from data_pipeline.clips import Region, VideoJob
from data_pipeline.errors import InputError
from tests.data_pipeline.faces import EMPTY, MODEL, TWO, WOMAN, needs_model, save, swaying, voice


def job(path: Path, **fields) -> VideoJob:
    usual = {"clip": "a", "identity": "b", "size": 64, "model": str(MODEL)}
    return VideoJob(source=str(path), **usual | fields)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("good") / "good.mp4", swaying(30))


@needs_model
def test_a_clip_keeps_picture_sound_and_landmarks_together(good):
    (example,) = job(good, emotion=3).run()
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
    (whole,) = job(good).run()
    monkeypatch.setattr(clips, "MAX_FRAMES", 12)
    pieces = list(job(good).run())
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
    (example,) = job(save(tmp_path / "a.mp4", frames)).run()
    assert example["landmarks"].std(axis=0).max() < 0.03


def truncated(path: Path) -> Path:
    data = save(path, swaying(50)).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def text(path: Path) -> Path:
    path.write_text("no video")
    return path


OTHER = np.ascontiguousarray(255 - WOMAN[..., ::-1] // 2)
REFUSED = {
    "no face": lambda path: save(path, [EMPTY] * 26),
    "several faces": lambda path: save(path, TWO * 26),
    "face lost in": lambda path: save(path, swaying(20) + [EMPTY] * 10),
    "jumping face at 0.60 s": lambda path: save(
        path, [np.roll(f, 60 * (t >= 15), 1) for t, f in enumerate([WOMAN] * 30)]
    ),
    "scene cut or jumping face at 0.52 s": lambda path: save(path, [WOMAN] * 13 + [OTHER] * 13),
    "too short: 0.96 s": lambda path: save(path, swaying(24)),
    "no audio": lambda path: save(path, swaying(26), sound=None),
    "silent audio": lambda path: save(path, swaying(26), sound=voice(26) * 1e-3),
    "truncated": truncated,
    "not a media file": text,
}


@needs_model
@pytest.mark.parametrize("reason", REFUSED)
def test_refusals_say_why(tmp_path, reason):
    path = REFUSED[reason](tmp_path / "a.mp4")
    with pytest.raises(InputError, match=reason):
        list(job(path).run())


@needs_model
def test_a_span_is_what_the_whole_video_has_there(tmp_path):
    frames = swaying(75)
    path = save(tmp_path / "a.mp4", frames)
    (whole,) = job(path).run()
    (part,) = job(path, start=1.2, end=2.4).run()
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
    (example,) = job(path, region=Region(384, 0, 768, 384, height=384)).run()
    assert (example["boxes"][:, 0] > 192).all()
    (example,) = job(path, region=Region(-5, 0, 96, 100, height=96)).run()
    assert (example["boxes"][:, 0] < 192).all()
    with pytest.raises(InputError, match="outside of the 384x192 picture"):
        list(job(path, region=Region(400, 0, 500, 96, height=96)).run())


@needs_model
def test_a_voice_of_another_length_is_another_take_s(tmp_path):
    path = save(tmp_path / "a.mp4", swaying(26), sound=None)
    long = save(tmp_path / "long.mp4", [EMPTY] * 60)
    with pytest.raises(InputError, match="do not belong together"):
        list(job(path, audio=str(long)).run())
