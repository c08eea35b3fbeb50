"""A folder of videos of a public-domain face: what is taken, what is refused and why."""

import csv
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from data_pipeline.audio import to_float
from data_pipeline.datasets import folder
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.face import MODEL_VARIABLE
from data_pipeline.prepare import main
from data_pipeline.records import Source, list_clips, open_records
from data_pipeline.video import VideoWriter

REPOSITORY = Path(__file__).parents[2]
MODEL = Path(
    os.environ.get(MODEL_VARIABLE)
    or REPOSITORY.parent / "shared" / "models" / "face_landmarker.task"
)
needs_model = pytest.mark.skipif(not MODEL.is_file(), reason="no face landmarker model")

WOMAN = cv2.resize(skimage.data.astronaut()[:256, 96:352], (192, 192), interpolation=cv2.INTER_AREA)
EMPTY = np.full((192, 192, 3), 90, np.uint8)


def voice(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, count * 640).astype(np.float32)


def save(path: Path, frames, sound="voice") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.stack(frames)
    waveform = voice(len(frames)) if isinstance(sound, str) else sound
    with VideoWriter(path, frames.shape[1:3], waveform) as writer:
        writer.write(frames)
    return path


def swaying(count: int) -> list[np.ndarray]:
    """The face drifts 12 pixels to the right and back over the clip."""
    shifts = 12 * np.sin(np.pi * np.arange(count) / count)
    return [
        cv2.warpAffine(WOMAN, np.float64([[1, 0, s], [0, 1, 0]]), (192, 192), borderMode=1)
        for s in shifts
    ]


def job(path: Path, **fields) -> folder.FolderJob:
    usual = {"clip": "a", "identity": "b", "emotion": -1, "size": 64, "model": str(MODEL)}
    return folder.FolderJob(source=str(path), **usual | fields)


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
    monkeypatch.setattr(folder, "MAX_FRAMES", 12)
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


TWO = [np.concatenate([WOMAN, WOMAN[:, ::-1]], 1)] * 26
OTHER = np.ascontiguousarray(255 - WOMAN[..., ::-1] // 2)
REFUSED = {
    "no face": lambda path: save(path, [EMPTY] * 26),
    "several faces": lambda path: save(path, TWO),
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
    assert [job.identity for job in found] == ["level_3", "ann", "ann"]
    assert len(folder.jobs(tmp_path, 64, "model", limit=2)) == 2


def test_identities_by_prefix_file_or_list(tmp_path):
    (tmp_path / "ann__one.mp4").touch()
    (tmp_path / "bob__two.mp4").touch()
    people = tmp_path / "people.csv"
    people.write_text("id,identity\nann__one,Ann Example\n")

    def identities(**options):
        return [job.identity for job in folder.jobs(tmp_path, 64, "model", **options)]

    assert identities(identity_from="prefix") == ["ann", "bob"]
    assert identities(identity_from="file") == ["ann__one", "bob__two"]
    assert identities(identity_from="prefix", identities=people) == ["Ann Example", "bob"]
    people.write_text("name\nann\n")
    with pytest.raises(InputError, match="columns id and identity"):
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
    split = folder.split_of()
    sources = [Source(f"c{k}", f"person{i}", dict) for i in range(400) for k in range(2)]
    halves = {split(source) for source in sources if source.identity == "person7"}
    assert len(halves) == 1
    assert 0.06 < np.mean([split(source) == "test" for source in sources]) < 0.14
    (tmp_path / "test.txt").write_text("person3\nperson5\n")
    named = folder.split_of(tmp_path / "test.txt")
    assert {s.identity for s in sources if named(s) == "test"} == {"person3", "person5"}
    with pytest.raises(InputError, match="cannot be read"):
        folder.split_of(tmp_path / "missing.txt")


@needs_model
def test_the_command_prepares_what_is_good_and_lists_what_is_not(tmp_path, capsys, good):
    raw, out = tmp_path / "raw", tmp_path / "out"
    (raw / "ann").mkdir(parents=True)
    os.link(good, raw / "ann" / "level_1_sad.mp4")
    text(raw / "ann" / "broken.mp4")
    (tmp_path / "test.txt").write_text("nobody\n")
    command = ["folder", "--raw", str(raw), "--out", str(out), "--size", "64", "--workers", "1"]
    command += ["--face-landmarker", str(MODEL), "--test-identities", str(tmp_path / "test.txt")]
    assert main(command) == 0
    assert "1 clips of 1 sources, 1 refused, 0 failed" in capsys.readouterr().out
    with (out / "manifest.csv").open() as file:
        broken, taken = csv.DictReader(file)
    assert (broken["state"], taken["state"]) == ("refused", "accepted")
    assert "not a media file" in broken["reason"]
    assert taken["emotion"] == "sad" and taken["identity"] == "ann" and taken["seconds"] == "1.2"
    assert len(taken["sha256"]) == 64
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
