"""Videos of anybody against the real ones, with a landmarker that reads faces off their pixels."""

import json

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.face import FaceLandmarker
from data_pipeline.video import VideoWriter
from reta_jax import evaluate as judging
from reta_jax.metrics.judges import Judge, Judges
from reta_jax.metrics.mouth import correlation
from reta_jax.metrics.sync import Sync
from reta_jax.metrics.videos import Face, compare_faces, find_pairs

FRAMES, SIDE = 30, 256


class GreyFace(FaceLandmarker):
    """The opening of the mouth is the frame's grey level; a black frame shows no face."""

    def __init__(self, *_):
        pass

    def detect(self, image):
        level = float(image.mean())
        return [face(level)] if level > 8 else []


def face(opening: float) -> np.ndarray:
    points = np.random.default_rng(0).uniform(0, 256, (68, 2)).astype(np.float32)
    points[36], points[45] = (0, 100), (100, 100)
    points[62], points[66] = (50, 0), (50, opening)
    return points


def openings(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(40, 200, FRAMES)


def track(levels: np.ndarray) -> np.ndarray:
    return np.stack([face(level) for level in levels]).astype(np.float64)


def save(path, levels, side: int = SIDE, sound: int | None = None):
    """A video of grey frames, silent or as loud as the mouth of `openings(sound)` is open."""
    frames = np.repeat(levels.astype(np.uint8), side * side * 3).reshape(-1, side, side, 3)
    voice = np.zeros(FRAMES * 640, np.float32)
    if sound is not None:
        tone = np.sin(np.arange(640) * 2 * np.pi * 10 / 640)
        voice = np.outer(openings(sound) / 400, tone).ravel().astype(np.float32)
    path.parent.mkdir(exist_ok=True)
    with VideoWriter(path, side, voice) as video:
        video.write(frames)


def test_a_face_compared_with_itself_is_perfect_wherever_it_is():
    points, blank = track(openings()), np.zeros((FRAMES, 8, 8, 3), np.uint8)
    figures = compare_faces(Face(blank, points + 30), Face(blank, points), None)
    np.testing.assert_allclose(figures["mouth_correlation"], 1)
    for name in ("mouth_opening_error", "mouth_landmark_distance", "face_landmark_distance"):
        np.testing.assert_allclose(figures[name], 0, atol=1e-12)
    assert "voice_correlation" not in figures


def test_distances_are_in_eye_distances():
    """One of twenty mouth points moves by a tenth of the 100 pixels between the eyes."""
    points, blank = track(np.full(FRAMES, 80.0)), np.zeros((FRAMES, 8, 8, 3), np.uint8)
    moved = points.copy()
    moved[:, 66, 1] += 10
    figures = compare_faces(Face(blank, moved), Face(blank, points), None)
    np.testing.assert_allclose(figures["mouth_opening_error"], 0.1)
    mean = (0.95 * 10 + 19 * 0.05 * 10) / 20 / 100  # about the points' own mean
    np.testing.assert_allclose(figures["mouth_landmark_distance"], mean)


def test_frames_without_a_face_are_left_out():
    points, blank = track(openings()), np.zeros((FRAMES, 8, 8, 3), np.uint8)
    half = points.copy()
    half[::2] = np.nan
    figures = compare_faces(Face(blank, half), Face(blank, points), np.zeros(FRAMES * 640))
    assert figures["faces_seen"] == 0.5 and figures["voice_correlation"] == 0
    np.testing.assert_allclose(figures["mouth_correlation"], 1)
    nothing = np.full_like(points, np.nan)
    assert compare_faces(Face(blank, nothing), Face(blank, points), None) == {"faces_seen": 0.0}


def test_the_command_judges_videos_of_another_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(judging, "FaceLandmarker", GreyFace)
    save(tmp_path / "real" / "a.mp4", openings())
    save(tmp_path / "made" / "a.mp4", 0.8 * openings(), side=128)
    out = tmp_path / "out"
    judging.main(
        [f"--videos={tmp_path / 'made'}", f"--reference={tmp_path / 'real'}", f"--out={out}"]
    )
    report = json.loads((out / "report.json").read_text())
    rows = report["rows"]
    assert set(rows) == {
        "generated", "still portrait", "truth, 3 frames late", "truth, 3 frames early",
        "truth, blurred", "truth",
    }  # fmt: skip
    assert (
        rows["generated"]["mouth_correlation"]
        > 0.95
        > rows["truth, 3 frames late"]["mouth_correlation"]
    )
    assert rows["truth"]["psnr"] == 100 > rows["generated"]["psnr"]
    assert rows["still portrait"]["mouth_correlation"] == 0
    assert rows["truth"]["face_landmark_distance"] == 0 < rows["generated"]["head_motion"] + 1
    assert set(report["by_clip"]) == {"a"}
    monkeypatch.setattr(judging, "judge_pair", lambda *_: pytest.fail("it judges again"))
    judging.main([f"--protocol={out / 'protocol.yaml'}", f"--out={out}"])
    assert json.loads((out / "report.json").read_text())["rows"] == rows
    assert "mouth correlation" in capsys.readouterr().out


def test_judges_that_are_named_look_at_videos(tmp_path):
    """Another's voice and a shift show to a judge of synchrony that knows the voice."""
    for i, seed in enumerate((1, 2)):
        save(tmp_path / "real" / f"{i}.mp4", openings(seed), sound=seed)
        save(tmp_path / "made" / f"{i}.mp4", 0.8 * openings(seed), sound=seed)

    def sync(frames, audio, box):
        gap = frames.mean((1, 2, 3))
        volume = np.abs(audio).reshape(FRAMES, -1).mean(1)
        fits = [correlation(gap, np.roll(volume, k)) for k in range(-5, 6)]
        return Sync(max(fits), 0.0, int(np.argmax(fits)) - 5, np.zeros(31))

    judges = Judges(
        sync=Judge("known", "", sync),
        inception=Judge("grey", "", lambda x: x.mean((1, 2))),
        identity=Judge("one", "", lambda x: np.ones((len(x), 1), np.float32)),
    )
    report = judging.evaluate_videos(
        tmp_path / "made", tmp_path / "real", GreyFace(), judges=judges
    )
    rows = report["rows"]
    assert rows["truth"]["sync_c"] > 0.9 > rows["truth, another's voice"]["sync_c"]
    assert abs(rows["truth, 3 frames late"]["sync_offset"]) == 3
    assert rows["truth"]["fid"] < 1e-6 < rows["generated"]["fid"]
    assert rows["generated"]["identity_similarity"] == 1
    assert rows["truth"]["voice_correlation"] > 0.8
    assert rows["truth, another's voice"]["voice_correlation"] < 0.6


def test_pairs_have_the_same_name(tmp_path):
    for name in ("made", "real"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="no real video .* goes with the videos in"):
        find_pairs(tmp_path / "made", tmp_path / "real")
    (tmp_path / "made" / "b.mp4").touch()
    with pytest.raises(InputError, match=r"goes with the b\.mp4"):
        find_pairs(tmp_path / "made", tmp_path / "real")
    with pytest.raises(InputError, match="not a directory"):
        find_pairs(tmp_path / "nowhere", tmp_path / "real")


def test_videos_need_their_reference(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        judging.main([f"--videos={tmp_path}"])
    assert caught.value.code == 2 and "--reference" in capsys.readouterr().err
