"""The measures of a face against pictures and heads of which they are known."""

import numpy as np
import pytest

from data_pipeline import quality
from data_pipeline.manifest import Scores
from data_pipeline.quality import Look, look_at, measure, refusal, yaw

BOX = np.array([100.0, 100.0, 110.0])


def head(degrees: float, roll: float = 0.0) -> np.ndarray:
    """68 points of a head that is turned about its upright axis, then tilted in the picture."""
    points = np.zeros((68, 3))
    points[36], points[45], points[30] = (-1, 0, 0), (1, 0, 0), (0, 0.7, quality._NOSE_DEPTH)
    turn, tilt = np.radians([degrees, roll])
    x = points[:, 0] * np.cos(turn) + points[:, 2] * np.sin(turn)
    flat = np.stack([x, points[:, 1]], 1)
    rotation = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    return (100 + 40 * flat @ rotation.T).astype(np.float32)


@pytest.mark.parametrize("degrees", [-60, -20, 0, 35, 70])
def test_the_turn_of_a_head_is_read_off_nose_and_eyes(degrees):
    np.testing.assert_allclose(yaw(head(degrees)), degrees, atol=0.5)
    tilted = np.stack([head(degrees, roll=angle) for angle in (-40, 25)])
    np.testing.assert_allclose(yaw(tilted), degrees, atol=0.5)


def test_a_look_tells_sharp_from_soft_and_sees_the_face_alone():
    noise = np.random.default_rng(0).integers(90, 160, (200, 200, 3), np.uint8)
    soft = np.full((200, 200, 3), 120, np.uint8)
    assert look_at(noise, BOX).sharpness > 100 > look_at(soft, BOX).sharpness
    around = soft.copy()
    around[:50], around[:, :50] = 0, 255  # The face is 80 pixels wide.
    assert look_at(around, BOX)[1:] == (0, 0)
    around[60:100], around[100:120] = 0, 255
    assert look_at(around, BOX).dark == pytest.approx(0.5, abs=0.03)
    assert look_at(around, BOX).bright == pytest.approx(0.25, abs=0.03)


def test_scores_are_of_the_frames_that_show_the_face():
    looks = [Look(10, 0.2, 0), None, Look(30, 0.4, 0.1), None]
    found = np.array([True, False, True, False])
    landmarks = np.stack([head(5)] * 3 + [head(40)])
    scores = measure(looks, landmarks, found, np.array([True, False, False, False]))
    assert (scores.sharpness, scores.lost, scores.others) == (20, 0.5, 0.25)
    assert scores.dark == pytest.approx(0.3) and scores.bright == pytest.approx(0.05)
    assert 5 < scores.yaw < 40 and scores.movement is None
    blind = measure(looks, None, found, None)
    assert blind == Scores(sharpness=20, dark=blind.dark, bright=blind.bright)
    assert measure([None] * 4, landmarks, ~found | True, found) == Scores(lost=1.0)


def test_movement_is_that_of_the_lips_and_not_of_the_head():
    landmarks = np.stack([head(0)] * 80) + np.linspace(0, 40, 80, dtype=np.float32)[:, None, None]
    looks, found = [Look(10, 0, 0)] * 80, np.ones(80, bool)
    assert measure(looks, landmarks, found, None).movement == pytest.approx(0, abs=1e-6)
    landmarks[::2, 61:64, 1] -= 3
    eyes = np.linalg.norm(landmarks[0, 36] - landmarks[0, 45])
    assert measure(looks, landmarks, found, None).movement == pytest.approx(1.5 / eyes, rel=1e-4)


GOOD = Scores(sharpness=1e4, dark=0.0, bright=0.0, face_pixels=300, yaw=5, lost=0, others=0)


@pytest.mark.parametrize(
    ("field", "limit", "worse", "reason"),
    [
        ("lost", quality.MAX_LOST, 1.01, "face lost in 20% of the frames"),
        ("others", quality.MAX_ACCOMPANIED, 1.01, "several faces"),
        ("face_pixels", quality.MIN_FACE_PIXELS, 0.99, "small face"),
        ("sharpness", quality.MIN_SHARPNESS, 0.99, "blurred"),
        ("dark", quality.MAX_DARK, 1.01, "too dark"),
        ("bright", quality.MAX_BRIGHT, 1.01, "overexposed"),
        ("yaw", quality.MAX_YAW, 1.01, "head turned by"),
        ("movement", quality.MIN_MOVEMENT, 0.99, "the lips do not move"),
    ],
)
def test_each_limit_refuses_beyond_it_alone(field, limit, worse, reason):
    assert refusal(GOOD) == "" == refusal(Scores())
    assert refusal(GOOD._replace(**{field: limit})) == ""
    assert reason in refusal(GOOD._replace(**{field: limit * worse}))
