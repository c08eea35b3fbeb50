"""Faces as the published Emotion-FAN is shown them."""

import urllib.error
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.errors import InputError
from reta_jax import evaluate as evaluating
from reta_jax.experts.emotion_fan import EmotionFAN
from reta_jax.metrics import judges
from reta_jax.metrics.chips import MEAN_FACE, PADDING, POINTS, face_chip
from reta_jax.metrics.protocol import Protocol
from reta_jax.weights import save_weights
from tests.tiny import RESEARCH_ONLY
from tests.weights import random_variables

SIDE = 32
FIELDS = {"width": 2, "classes": 8}


def face(turn, width, left, top):
    """Points of a face that is turned by so many radians, in a picture's pixels."""
    points = np.zeros((68, 2))
    turned = MEAN_FACE @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    points[POINTS] = turned * width + (left, top)
    return points


def test_eyes_and_nose_come_to_lie_where_dlib_has_them():
    """In a picture whose red is the column and whose green is the row."""
    rows, columns = np.mgrid[:200, :200]
    frame = np.stack([columns, rows, rows], -1).astype(np.uint8)
    points = face(0.3, 90, 60, 40)
    chip = face_chip(frame, points, 224)
    places = (PADDING + MEAN_FACE) / (1 + 2 * PADDING) * 224
    np.testing.assert_allclose(places[2], (55.3, 69.2), atol=0.1)  # the left eye's outer corner
    for (x, y), point in zip(places, points[POINTS], strict=True):
        assert np.abs(chip[int(y), int(x), :2] - (point - 0.5)).max() <= 1


@pytest.fixture
def judge_of(tmp_path, monkeypatch):
    """An emotion judge, published or ours, and the pictures that are cut out for it."""
    cut, points = [], np.stack([face(0.1 * i, 20, 5, 5) for i in range(3)])
    points[1] = np.nan  # of three frames the second one shows no face

    def find_points(frames, landmarker):
        return points[frames[:, 0, 0, 0]]

    def chip(*frame_and_points):
        cut.append(frame_and_points)
        return face_chip(*frame_and_points)

    model = tmp_path / "face_landmarker.task"
    model.write_bytes(b"landmarks")
    monkeypatch.setenv("RETA_FACE_LANDMARKER", str(model))
    monkeypatch.setattr(judges, "FaceLandmarker", lambda model: None)
    monkeypatch.setattr(judges, "find_points", find_points)
    monkeypatch.setattr(judges, "face_chip", chip)
    variables = random_variables(EmotionFAN(**FIELDS), jnp.zeros((1, 2, SIDE, SIDE, 3)))

    def build(**more):
        config = {"kind": "emotion_fan", "fields": FIELDS, "image_size": SIDE} | more
        save_weights(tmp_path / "weights", variables, config)
        return judges._emotion(tmp_path / "weights", None), cut, points, model

    return build


def test_a_published_judge_is_shown_aligned_faces(judge_of):
    judge, cut, points, model = judge_of(provenance=[RESEARCH_ONLY])
    frames = np.tile(np.arange(3, dtype=np.uint8)[:, None, None, None], (1, SIDE, SIDE, 3))
    assert judge.look(frames) in range(8)
    assert {int(frame[0, 0, 0]) for frame, *_ in cut} == {0, 2}
    for frame, found, size in cut:
        np.testing.assert_allclose(found[POINTS], points[frame[0, 0, 0]][POINTS])
        assert size == 224
    cut.clear()
    assert judge.look(frames[1:2]) in range(8) and not cut  # no face at all: as it is
    model.write_bytes(b"another")  # its figures are another's
    assert judge_of(provenance=[RESEARCH_ONLY])[0].sha256 != judge.sha256


def test_ours_is_shown_the_crops_that_it_learned_from(judge_of):
    judge, cut, *_ = judge_of()
    assert judge.look(np.zeros((3, SIDE, SIDE, 3), np.uint8)) in range(8) and not cut


def test_a_published_judge_needs_a_landmarker(judge_of, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.delenv("RETA_FACE_LANDMARKER")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(InputError, match="published Emotion-FAN, for which faces are aligned"):
        judge_of(provenance=[RESEARCH_ONLY])


def test_the_landmarker_that_is_named_for_videos_aligns_for_their_judge(monkeypatch):
    """It is no judge of mouths and faces there: their landmarks are found once for all figures."""
    asked, judge = {}, judges.Judge("", "", None)

    def load_judges(folder, **named):
        asked.update(named)
        return judges.Judges(mouth=judge, emotion=judge, face=judge)

    monkeypatch.setattr(evaluating, "_find_landmarker", lambda named: (None, ""))
    monkeypatch.setattr(evaluating, "load_judges", load_judges)
    monkeypatch.setattr(evaluating, "evaluate_videos", lambda *_, judges, **__: {"judges": judges})
    places = {"videos": "made", "reference": "real", "face_landmarker": "model.task"}
    report = evaluating._judge_places(places, Protocol(), {}, None)
    assert asked["face_landmarker"] == Path("model.task")
    assert report == {"judges": judges.Judges(emotion=judge)}
