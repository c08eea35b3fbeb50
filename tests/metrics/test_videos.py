"""Videos of anybody against the real ones, with a landmarker that reads faces off their pixels."""

import json
import shutil
import urllib.error

import numpy as np
import pytest

from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.face import FaceLandmarker, sync_box
from data_pipeline.video import VideoWriter, read_video
from reta_jax import evaluate as judging
from reta_jax.metrics import videos as video_figures
from reta_jax.metrics.judges import Judge, Judges
from reta_jax.metrics.mouth import correlation
from reta_jax.metrics.pairs import Label, read_labels
from reta_jax.metrics.protocol import Protocol, load_suite
from reta_jax.metrics.summary import TOO_FEW
from reta_jax.metrics.sync import Sync
from reta_jax.metrics.tables import markdown_report
from reta_jax.metrics.videos import (
    NO_CROP,
    NO_LANDMARKS,
    Face,
    compare_mouths,
    face_boxes,
    face_crops,
    judge_reference,
)

FRAMES, SIDE = 24, 256

SILENT = -1  # a video without a sound track


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


def compare_both(video, real, voice=None):
    protocol = Protocol(figures=("mouth", "face"))
    return video_figures.measure(Judges(), protocol, video, real, voice)


def save(
    path, levels, side: int = SIDE, sound: int | None = None, width: int | None = None,
    heard: int = FRAMES,
):  # fmt: skip
    """A video of grey frames, silent or as loud as the mouth of `openings(sound)` is open.

    Its sound is as long as `heard` frames.
    """
    size = side, width or side
    frames = np.broadcast_to(levels.astype(np.uint8)[:, None, None, None], (len(levels), *size, 3))
    voice = np.zeros(FRAMES * 640, np.float32)
    if sound not in (None, SILENT):
        tone = np.sin(np.arange(640) * 2 * np.pi * 10 / 640)
        voice = np.outer(openings(sound) / 400, tone).ravel().astype(np.float32)
    path.parent.mkdir(exist_ok=True, parents=True)
    voice = None if sound == SILENT else voice[: heard * 640]
    with VideoWriter(path, size, voice) as video:
        video.write(frames)


def test_a_face_compared_with_itself_is_perfect_wherever_it_is():
    points, blank = track(openings()), np.zeros((FRAMES, 8, 8, 3), np.uint8)
    figures = compare_both(Face(blank, points + 30), Face(blank, points))
    np.testing.assert_allclose(figures["mouth_correlation"], 1)
    for name in ("mouth_opening_error", "mouth_landmark_distance", "face_landmark_distance"):
        np.testing.assert_allclose(figures[name], 0, atol=1e-12)
    assert "voice_correlation" not in figures


def test_distances_are_in_eye_distances():
    """One of twenty mouth points moves by a tenth of the 100 pixels between the eyes."""
    points, blank = track(np.full(FRAMES, 80.0)), np.zeros((FRAMES, 8, 8, 3), np.uint8)
    moved = points.copy()
    moved[:, 66, 1] += 10
    figures = compare_mouths(Face(blank, moved), Face(blank, points), None)
    np.testing.assert_allclose(figures["mouth_opening_error"], 0.1)
    mean = (0.95 * 10 + 19 * 0.05 * 10) / 20 / 100  # about the points' own mean
    np.testing.assert_allclose(figures["mouth_landmark_distance"], mean)


def test_a_made_heads_own_eyes_are_no_unit():
    """The same mouths in a head that leans away: its eyes come closer by up to a fifth."""
    points, blank = track(openings()), np.zeros((FRAMES, 8, 8, 3), np.uint8)
    leaning = points.copy()
    leaning[:, 45, 0] = np.linspace(100, 80, FRAMES)
    figures = compare_mouths(Face(blank, leaning), Face(blank, points), None)
    np.testing.assert_allclose(figures["mouth_opening_error"], 0, atol=1e-12)
    np.testing.assert_allclose(figures["mouth_correlation"], 1)


def test_frames_without_a_face_are_left_out():
    points, blank = track(openings()), np.zeros((FRAMES, 8, 8, 3), np.uint8)
    half = points.copy()
    half[::2] = np.nan
    figures = compare_both(Face(blank, half), Face(blank, points), np.zeros(FRAMES * 640))
    assert figures["faces_seen"] == 0.5 and figures["voice_correlation"] == 0
    np.testing.assert_allclose(figures["mouth_correlation"], 1)
    nothing = np.full_like(points, np.nan)
    assert compare_both(Face(blank, nothing), Face(blank, points)) == {"faces_seen": 0.0}


def test_a_gap_without_a_face_is_no_jitter():
    points, blank = track(np.full(FRAMES, 80.0)), np.zeros((FRAMES, 8, 8, 3), np.uint8)
    points += np.arange(FRAMES)[:, None, None]  # it moves steadily
    seen = points.copy()
    seen[10:20] = np.nan
    figures = compare_mouths(Face(blank, seen), Face(blank, points), None)
    np.testing.assert_allclose(figures["mouth_jitter"], 0, atol=1e-9)
    seen[::2] = np.nan
    assert "mouth_jitter" not in compare_mouths(Face(blank, seen), Face(blank, points), None)


@pytest.fixture
def landmarker(tmp_path, monkeypatch):
    """The grey face, as of a model's file."""
    model = tmp_path / "face_landmarker.task"
    model.write_bytes(b"grey")
    monkeypatch.setenv("RETA_FACE_LANDMARKER", str(model))
    monkeypatch.setattr(judging, "FaceLandmarker", GreyFace)
    return model


def test_the_command_judges_videos_of_another_size(tmp_path, monkeypatch, capsys, landmarker):
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
    assert not report["counts"] and "n = " not in (out / "report.md").read_text()
    landmarker.write_bytes(b"another")  # what it judged before is another's word
    with pytest.raises(pytest.fail.Exception, match="judges again"):
        judging.main(
            [f"--videos={tmp_path / 'made'}", f"--reference={tmp_path / 'real'}", f"--out={out}"]
        )


PAPER = {"psnr", "psnr_clip", "ssim", "fid", "kid", "emotion_accuracy", "sync_c", "sync_c_whole"}


def test_a_protocol_chooses_the_figures_of_mouths_and_faces(tmp_path):
    for name in ("made", "real"):
        save(tmp_path / name / "a.mp4", openings(1), sound=1)

    def figures(protocol):
        report = judging.evaluate_videos(
            tmp_path / "made", tmp_path / "real", GreyFace(), protocol=protocol
        )
        return set(report["rows"]["generated"])

    mouth, face = (figures(Protocol(figures=(group,))) for group in ("mouth", "face"))
    assert figures(load_suite("paper")) <= PAPER
    assert {"mouth_correlation", "voice_correlation"} <= mouth and not mouth & face
    assert {"faces_seen", "face_landmark_distance", "blinks_per_minute"} <= face
    assert figures(Protocol(figures=("mouth", "face"))) == mouth | face


@pytest.mark.parametrize(
    ("crops", "expected"),
    [
        (("pipeline", "whole"), {"sync_c_whole", "sync_d_whole", "sync_offset_whole"}),
        (("whole", "pipeline"), {"sync_c", "sync_d", "sync_offset"}),
        (("pipeline",), set()),
    ],
)
def test_whole_frames_need_no_face_to_be_heard(tmp_path, crops, expected):
    """The whole frame's figures keep their names where the pipeline's are missing."""
    save(tmp_path / "real" / "a.mp4", openings(1), sound=1)
    save(tmp_path / "made" / "a.mp4", np.zeros(FRAMES), sound=1)

    def sync(frames, audio, boxes):
        assert boxes is None or frames.any()
        return Sync(1.0, 2.0, 3, np.zeros(31))

    protocol = Protocol(figures=("sync",), sync_crops=crops)
    report = judging.evaluate_videos(
        tmp_path / "made",
        tmp_path / "real",
        GreyFace(),
        judges=Judges(sync=Judge("known", "", sync)),
        protocol=protocol,
    )
    assert set(report["rows"].get("generated", {})) == expected
    assert f"1 of 1 clips {NO_CROP}" in report["notes"]


@pytest.fixture
def nothing_at_hand(tmp_path, monkeypatch):
    """No landmarker's model is named or kept, and none can be fetched."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.delenv("RETA_FACE_LANDMARKER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_pictures_are_judged_without_landmarks(tmp_path, nothing_at_hand):
    save(tmp_path / "real" / "a.mp4", openings(), sound=0)
    save(tmp_path / "made" / "a.mp4", 0.8 * openings(), sound=0)
    command = [f"--videos={tmp_path / 'made'}", f"--reference={tmp_path / 'real'}"]
    judging.main([*command, f"--out={tmp_path / 'out'}"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["rows"]["generated"]) == {"psnr", "psnr_clip", "ssim"}
    assert report["rows"]["truth"]["psnr"] == 100
    assert report["notes"].count(NO_LANDMARKS.format("")) == 1
    assert not any("show no face" in note for note in report["notes"])
    assert "face_landmarker" not in report["sha256"]


def test_what_needs_no_landmarks_is_judged_without(tmp_path):
    for name in ("made", "real"):
        save(tmp_path / name / "happy" / "level_3" / "a.mp4", openings(1), sound=1)
    judges = Judges(
        sync=Judge("known", "", lambda *_: Sync(1.0, 1.0, 0, np.zeros(31))),
        inception=Judge("grey", "", lambda x: x.mean((1, 2))),
        identity=Judge("one", "", lambda x: np.ones((len(x), 1), np.float32)),
        emotion=Judge("face", "", lambda _: pytest.fail("it is shown no face")),
    )
    folders = tmp_path / "made", tmp_path / "real"
    report = judging.evaluate_videos(*folders, None, judges=judges, cache=tmp_path / "clips")
    generated = report["rows"]["generated"]
    assert {"sync_c_whole", "fid", "identity_similarity"} <= set(generated)
    assert not {"sync_c", "emotion_accuracy", "faces_seen"} & set(generated)
    assert NO_LANDMARKS.format(", emotions") in report["notes"]
    assert not any(NO_CROP in note for note in report["notes"])
    judges = judges._replace(emotion=None)  # another one's pairs
    report = judging.evaluate_videos(*folders, GreyFace(), judges=judges, cache=tmp_path / "clips")
    assert "sync_c" in report["rows"]["generated"]


@pytest.mark.parametrize("place", ["option", "variable"])
def test_a_landmarker_that_is_named_must_be_there(
    tmp_path, monkeypatch, capsys, nothing_at_hand, place
):
    save(tmp_path / "a.mp4", openings())
    command = [f"--videos={tmp_path}", f"--reference={tmp_path}"]
    if place == "option":
        command.append("--face-landmarker=missing.task")
    else:
        monkeypatch.setenv("RETA_FACE_LANDMARKER", "missing.task")
    with pytest.raises(SystemExit) as caught:
        judging.main(command)
    assert caught.value.code == 2 and "missing.task does not exist" in capsys.readouterr().err


def test_videos_are_named_as_they_are_today(tmp_path):
    """Two pairs of equal files and one that was renamed, all known to the cache."""
    made, real, cache = (tmp_path / name for name in ("made", "real", "clips"))
    for folder in (made, real):
        save(folder / "a.mp4", openings())
        shutil.copy(folder / "a.mp4", folder / "b.mp4")
    judging.evaluate_videos(made, real, GreyFace(), cache=cache)
    report = judging.evaluate_videos(made, real, GreyFace(), cache=cache)
    assert set(report["by_clip"]) == {"a", "b"}
    for folder in (made, real):
        (folder / "b.mp4").rename(folder / "c.mp4")
    report = judging.evaluate_videos(made, real, GreyFace(), cache=cache)
    assert set(report["by_clip"]) == {"a", "c"}


class Looks(GreyFace):
    """Counts the frames that it is shown."""

    def __init__(self):
        self.count = 0

    def detect(self, image):
        self.count += 1
        return super().detect(image)


def test_another_systems_videos_are_judged_beside_the_same_rows(tmp_path, monkeypatch):
    for i, seed in enumerate((1, 2)):
        save(tmp_path / "real" / f"{i}.mp4", openings(seed), sound=seed)
        for name, share in (("one", 0.8), ("other", 0.6)):
            save(tmp_path / name / f"{i}.mp4", share * openings(seed), sound=seed)
    judges = Judges(
        inception=Judge("grey", "", lambda x: x.mean((1, 2))),
        identity=Judge("level", "", lambda x: x[:, 0, 0] / np.float32(100)),
    )

    def evaluate(name, landmarker, cache=tmp_path / "clips"):
        return judging.evaluate_videos(
            tmp_path / name, tmp_path / "real", landmarker, judges=judges, cache=cache
        )

    alone = evaluate("other", GreyFace(), None)
    evaluate("one", GreyFace())
    monkeypatch.setattr(judging, "judge_reference", lambda *_: pytest.fail("they are judged again"))
    looks = Looks()
    other = evaluate("other", looks)
    assert other["rows"] == alone["rows"] and other["intervals"] == alone["intervals"]
    assert looks.count <= 2 * FRAMES  # those that are new
    save(tmp_path / "other" / "0.mp4", openings(1)[:20], sound=1)
    with pytest.raises(pytest.fail.Exception, match="judged again"):  # of fewer frames
        evaluate("other", GreyFace())


def test_figures_are_by_identity_where_it_is_known(tmp_path, feeling):
    """The first folder's name, or what labels say; they need not say what is felt."""
    folders = tmp_path / "made", tmp_path / "real"
    save(tmp_path / "real" / "M009" / "002.mp4", openings())
    save(tmp_path / "made" / "M009" / "002.mp4", 0.8 * openings())
    report = judging.evaluate_videos(*folders, GreyFace())
    assert {who: row["clips"] for who, row in report["by_identity"].items()} == {
        "M003": 3,
        "M009": 1,
    }
    assert report["by_identity"]["M009"]["psnr"] == report["by_clip"]["M009/002"]["psnr"]
    assert report["identities"] == 2
    (tmp_path / "labels.csv").write_text("id,identity\nM003/001,Ann\nM009/002,Ann\n")
    labels = read_labels(tmp_path / "labels.csv")
    report = judging.evaluate_videos(*folders, GreyFace(), judges=feeling, labels=labels)
    assert {who: row["clips"] for who, row in report["by_identity"].items()} == {
        "M003": 2,
        "Ann": 2,
    }
    assert report["counts"]["generated"]["emotion_accuracy"] == 2  # as the paths say
    save(tmp_path / "made" / "003.mp4", openings())
    save(tmp_path / "real" / "003.mp4", openings())
    report = judging.evaluate_videos(*folders, GreyFace())
    assert "identities" not in report and set(report["by_identity"]) == {"M003", "M009"}


def test_what_was_made_equal_and_what_was_not_judged_is_said(tmp_path):
    """Of four pairs one is of another length and shape, one shows no face, one has no sound."""
    made, real = tmp_path / "made", tmp_path / "real"
    for name in ("a", "b", "c", "d", "alone"):
        save(real / f"{name}.mp4", openings(), side=128, sound=SILENT if name == "d" else 1)
    save(made / "a.mp4", openings()[:20], side=128, width=96)
    save(made / "b.mp4", np.zeros(FRAMES), side=128)
    for name in ("c", "d"):
        save(made / f"{name}.mp4", openings(), side=128)
    sync = Judge("known", "", lambda *_: Sync(1.0, 1.0, 0, np.zeros(31)))
    report = judging.evaluate_videos(made, real, GreyFace(), judges=Judges(sync=sync))
    for sentence in (
        "1 of 4 clips are cut",
        "1 of 4 clips are stretched",
        "1 of 4 clips have no sound",
        "1 of 4 clips show no face",
        f"1 of 4 clips {NO_CROP}",
        f"1 videos of {real} have no generated one",
    ):
        assert sum(note.startswith(sentence) for note in report["notes"]) == 1, sentence
    counts = report["counts"]["generated"]
    assert counts["mouth_correlation"] == 3 and counts["sync_c"] == 3 and "psnr" not in counts
    assert "sync_c_whole" in report["by_clip"]["b"] and "sync_c_whole" not in counts
    text = markdown_report(report)
    assert "(n = 3)" in text
    assert report["counts"]["truth"]["sync_c"] == 3  # b's real video shows a face, d's is silent

    report = judging.evaluate_videos(
        made, real, GreyFace(), judges=Judges(sync=sync), protocol=Protocol(frames=2), names={"c"}
    )
    assert "sync_c" not in report["rows"]["truth"] and report["clips"] == 1
    assert any("too short to judge their synchrony" in note for note in report["notes"])
    assert f"1 of 1 clips {TOO_FEW}" in report["notes"]
    assert not any("have no generated one" in note for note in report["notes"])


def test_a_video_is_judged_with_its_own_sound_if_it_has_one(tmp_path):
    """A voice that is another's is the system's fault; one that is missing is taken as the real."""
    for name, sound in (("own", 2), ("none", SILENT)):
        save(tmp_path / "real" / f"{name}.mp4", openings(1), sound=1)
        save(tmp_path / "made" / f"{name}.mp4", openings(1), sound=sound)
    report = judging.evaluate_videos(tmp_path / "made", tmp_path / "real", GreyFace())
    own, none = (report["by_clip"][name]["voice_correlation"] for name in ("own", "none"))
    assert none > 0.9 > 0.5 > own
    assert report["rows"]["truth"]["voice_correlation"] > 0.9
    assert "1 of 2 clips " + video_figures.SILENT[False, True] in report["notes"]


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
    assert rows["truth, 3 frames late"]["sync_offset"] == 3
    assert rows["truth"]["fid"] < 1e-6 < rows["generated"]["fid"]
    assert rows["generated"]["identity_similarity"] == 1
    assert rows["truth"]["voice_correlation"] > 0.8
    assert rows["truth, another's voice"]["voice_correlation"] < 0.6


def test_a_shorter_lender_speaks_again_and_again(tmp_path):
    """Another's voice is heard to the end of the clip, as long as a third of it or not."""
    save(tmp_path / "0.mp4", openings(1), sound=1)
    save(tmp_path / "1.mp4", openings(2)[: FRAMES // 3], sound=2, heard=FRAMES // 3)
    heard = []

    def sync(frames, audio, box):
        heard.append(np.abs(audio).reshape(len(frames), -1).max(1))
        return Sync(0.0, 0.0, 0, np.zeros(31))

    judges = Judges(sync=Judge("known", "", sync))
    real = read_video(tmp_path / "0.mp4")
    protocol = Protocol(figures=("sync",), sync_crops=("whole",))
    judge_reference(judges, protocol, real, tmp_path / "1.mp4", None)
    borrowed = heard[-1]  # the row of another's voice comes last
    assert len(borrowed) == FRAMES and borrowed.min() > 0.05
    assert np.abs(borrowed - heard[0]).max() > 0.1


def test_the_box_goes_with_the_face():
    """A face that moves a tenth of the frame to the right, and is not seen half-way."""
    face = np.random.default_rng(0).uniform(20, 60, (68, 2))
    points = np.stack([face, np.full((68, 2), np.nan), face + (10, 0)])
    boxes = face_boxes(Face(np.zeros((3, 100, 100, 3), np.uint8), points))
    np.testing.assert_allclose(boxes[0], sync_box(np.float32(face[None] / 100)), atol=1e-6)
    np.testing.assert_allclose(boxes[2] - boxes[0], (0, 0.1, 0, 0.1), atol=1e-6)
    np.testing.assert_allclose(boxes[1], (boxes[0] + boxes[2]) / 2, atol=1e-6)
    assert face_boxes(Face(np.zeros((3, 9, 9, 3), np.uint8), np.full((3, 68, 2), np.nan))) is None


@pytest.fixture
def feeling(tmp_path):
    """Three people of whom two paths state what they feel, and a judge who sees it in the grey."""
    for place, level in (
        ("M003/happy/level_3/001", 150), ("M003/sad/level_1/001", 60), ("M003/001", 150)
    ):  # fmt: skip
        save(tmp_path / "real" / f"{place}.mp4", np.full(FRAMES, level))
        save(tmp_path / "made" / f"{place}.mp4", np.full(FRAMES, 150))
    saw = lambda x: EMOTIONS.index("happy" if x.mean() > 100 else "sad")
    return Judges(emotion=Judge("grey", "", lambda x: saw(x) if x.shape[1:3] == (224, 224) else -1))


def test_emotions_are_those_that_paths_or_labels_state(tmp_path, feeling):
    folders = tmp_path / "made", tmp_path / "real"
    report = judging.evaluate_videos(*folders, GreyFace(), judges=feeling)
    rows = report["rows"]
    assert rows["truth"]["emotion_accuracy"] == 1 and rows["generated"]["emotion_accuracy"] == 0.5
    assert report["counts"]["generated"]["emotion_accuracy"] == 2
    assert report["by_emotion"]["happy"]["emotion_accuracy"] == 1
    assert report["by_emotion"]["sad"]["emotion_accuracy"] == 0
    (tmp_path / "labels.csv").write_text("id,emotion\nM003/001,happiness\n")
    labels = read_labels(tmp_path / "labels.csv")
    assert labels == {"M003/001": Label(EMOTIONS.index("happy"))}
    report = judging.evaluate_videos(*folders, GreyFace(), judges=feeling, labels=labels)
    assert report["rows"]["generated"]["emotion_accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="no generated video is called 001"):  # each of them is
        judging.evaluate_videos(*folders, GreyFace(), judges=feeling, labels={"001": Label(0)})


def test_nobody_feels_where_no_face_is_seen(tmp_path, feeling):
    save(tmp_path / "made" / "M003" / "happy" / "level_3" / "001.mp4", np.zeros(FRAMES))
    report = judging.evaluate_videos(
        tmp_path / "made", tmp_path / "real", GreyFace(), judges=feeling
    )
    assert report["counts"]["generated"]["emotion_accuracy"] == 1
    assert report["rows"]["truth"]["emotion_accuracy"] == 1


def test_emotions_that_nobody_states_are_asked_for(tmp_path):
    save(tmp_path / "a.mp4", openings())
    judges = Judges(emotion=Judge("", "", lambda _: 0))
    with pytest.raises(InputError, match="give --labels, a CSV file"):
        judging.evaluate_videos(tmp_path, tmp_path, GreyFace(), judges=judges)


def test_a_face_is_cropped_where_it_is():
    """A white square of which the landmarks know, in a black frame."""
    points = np.random.default_rng(0).uniform(40, 60, (2, 68, 2))
    points[:, :2] = (40, 40), (60, 60)
    frames = np.zeros((2, 200, 200, 3), np.uint8)
    frames[:, 36:64, 36:64] = 255  # EMOCA's square of a face of 20 pixels has 27
    assert face_crops(Face(frames, points)).min() == 255
    assert face_crops(Face(frames, np.full((2, 68, 2), np.nan))) is None


@pytest.mark.parametrize("unused", ["checkpoint", "split", "judges"])
def test_what_is_of_no_use_to_videos_is_refused(tmp_path, capsys, unused):
    with pytest.raises(SystemExit) as caught:
        judging.main([f"--videos={tmp_path}", f"--reference={tmp_path}", f"--{unused}=x"])
    assert caught.value.code == 2 and f"--{unused}: of no use" in capsys.readouterr().err


@pytest.mark.parametrize("unused", ["labels", "reference"])
def test_what_is_for_videos_alone_is_refused(tmp_path, capsys, unused):
    with pytest.raises(SystemExit) as caught:
        judging.main([f"--data={tmp_path}", f"--{unused}=x"])
    assert caught.value.code == 2 and f"--{unused}: of no use without" in capsys.readouterr().err


def test_videos_need_their_reference(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        judging.main([f"--videos={tmp_path}"])
    assert caught.value.code == 2 and "--reference" in capsys.readouterr().err
