"""Disturbed portraits and voices: what is done to them, and the table of it."""

import json
import shutil

import numpy as np
import pytest

from data_pipeline.loader import evaluation_clips
from data_pipeline.prepare import prepare_synthetic
from data_pipeline.video import read_video
from reta_jax import robustness
from reta_jax.renderer import Renderer
from tests.metrics.test_videos import GreyFace
from tests.tiny import save_tiny_model

VOICE = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
PORTRAIT = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def power(x):
    return np.mean(x.astype(np.float64) ** 2)


def test_noise_is_ten_decibels_below_the_voice():
    _, noisy = robustness.noisy_voice(PORTRAIT, VOICE)
    assert noisy.dtype == np.float32
    assert 10 * np.log10(power(VOICE) / power(noisy - VOICE)) == pytest.approx(10, abs=0.2)


def test_a_telephone_takes_what_is_above_four_kilohertz():
    high = np.sin(2 * np.pi * 6_000 * np.arange(16_000) / 16_000).astype(np.float32)
    _, heard = robustness.telephone(PORTRAIT, VOICE + high)
    assert heard.shape == VOICE.shape
    assert power(heard - VOICE) < 0.01 * power(VOICE)


def test_portraits_are_disturbed_and_voices_left():
    frames = [robustness.CONDITIONS[name] for name in ("closer", "farther", "off centre", "rolled")]
    for change in (robustness.low_light, robustness.grainy, *frames):
        portrait, voice = change(PORTRAIT, VOICE)
        assert portrait.shape == PORTRAIT.shape and portrait.dtype == np.uint8
        assert voice is VOICE and (portrait != PORTRAIT).mean() > 0.5
    assert robustness.low_light(PORTRAIT, VOICE)[0].mean() == pytest.approx(
        0.35 * PORTRAIT.mean(), abs=1
    )


def test_frames_are_moved_as_they_are_named():
    marked = np.zeros((40, 40, 3), np.uint8)
    marked[:3], marked[20:, 20:] = 255, 255  # a rim that is cut away, and a corner at the middle
    near, far, aside, rolled = (
        robustness.CONDITIONS[name](marked, VOICE)[0]
        for name in ("closer", "farther", "off centre", "rolled")
    )
    assert near[0].max() == 0 and near[25:, 25:].min() > 250
    assert far[:5].min() > 250 and far[8:18].max() == 0  # the rim goes on beyond the frame
    assert aside[25:, 25:].min() > 250 and aside[10:23, :23].max() == 0
    assert rolled[18, 37:].min() > 250 > 5 > near[18, 37:].max()  # right goes up


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(folder, identities=3, clips_per_identity=2, seconds=1, size=64, workers=1)
    return folder


def test_the_table_has_every_condition(data, tmp_path, monkeypatch, capsys):
    """A face whose opening is the picture's grey, so that any change of light is a movement."""
    weights = save_tiny_model(tmp_path / "tiny")
    monkeypatch.setattr(robustness, "FaceLandmarker", GreyFace)
    model = tmp_path / "face_landmarker.task"
    model.write_bytes(b"grey")
    monkeypatch.setenv("RETA_FACE_LANDMARKER", str(model))
    out = tmp_path / "out"
    command = [f"--data={data}", f"--checkpoint={weights}", f"--out={out}", "--split=train"]
    robustness.main(command)
    report = json.loads((out / robustness.REPORT).read_text())
    clips = list(evaluation_clips(data, "train", 32))
    assert set(report["rows"]) == {
        *robustness.CONDITIONS, robustness.OTHER_VOICE, robustness.STILL,
    }  # fmt: skip
    assert set(report["by_identity"]) == {clip.identity for clip in clips}
    assert report["rows"][robustness.STILL]["mouth_correlation"] == 0
    assert 0 <= report["own_voice_wins"] <= 1 and report["own_voice_clips"] == len(clips)
    dark = report["rows"]["low light"]["psnr"]
    assert dark < report["rows"][robustness.AS_FILMED]["psnr"]
    text = (out / robustness.TABLE).read_text()
    assert text in capsys.readouterr().out
    first = min((out / robustness.REAL).iterdir())
    for folder in (robustness.REAL, "low_light"):  # left by a set of more clips
        shutil.copy(first, out / folder / "left.mp4")
    monkeypatch.setattr(Renderer, "render", lambda *_: pytest.fail("it renders again"))
    robustness.main(command)
    assert json.loads((out / robustness.REPORT).read_text()) == report


def test_only_the_same_video_is_not_made_again(tmp_path):
    frames = {level: np.full((5, 32, 32, 3), level, np.uint8) for level in (50, 200)}
    voice, path = np.zeros(5 * 640, np.float32), tmp_path / "dark" / "a.mp4"

    def add(level, made_of):
        robustness.Videos(tmp_path).add("dark/a.mp4", made_of, lambda: frames[level], voice)
        return round(float(read_video(path).frames.mean()), -1)

    assert add(50, "one model") == 50 == add(200, "one model")
    assert add(200, "another") == 200
    path.unlink()
    manifest = tmp_path / robustness.MANIFEST
    before = manifest.read_bytes()
    assert add(50, "another") == 50
    assert manifest.read_bytes().startswith(before), "it grows by lines and is not written anew"
    with manifest.open("ab") as file:
        file.write(b'["dark/a.mp4", "one mo')  # a word that was cut off is none
    assert add(200, "another") == 50 and add(200, "one model") == 200
    manifest.write_text("cut o")
    assert add(50, "one model") == 50


class Faceless(GreyFace):
    def detect(self, image):
        return []


def test_videos_that_show_no_face_are_refused_by_a_sentence(data, tmp_path):
    renderer = Renderer.from_pretrained(save_tiny_model(tmp_path / "tiny"))
    with pytest.raises(robustness.InputError, match="no face is seen in any video"):
        robustness.measure(renderer, data, Faceless(), tmp_path / "out", "train")


def test_one_clip_has_no_other_voice(data, tmp_path, monkeypatch):
    clips = list(evaluation_clips(data, "train", 32))[:1]
    monkeypatch.setattr(robustness, "evaluation_clips", lambda *_: iter(clips))
    renderer = Renderer.from_pretrained(save_tiny_model(tmp_path / "tiny"))
    with pytest.raises(robustness.InputError, match="1 clips in its split test: two are needed"):
        robustness.measure(renderer, data, GreyFace(), tmp_path)
