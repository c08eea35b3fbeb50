"""How a mouth follows a voice, on a face that is known."""

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.face import FaceLandmarker
from data_pipeline.video import Video
from reta_jax.metrics import mouth
from reta_jax.metrics.mouth import (
    HOLD,
    compare_lips,
    correlation,
    find_points,
    follows_voice,
    loudness,
    opening,
    silent_frames,
)

FRAME = 640


class PaintedFace(FaceLandmarker):
    """Reads the opening off the first pixel; a black frame shows no face."""

    def __init__(self):
        pass

    def detect(self, image):
        if not image.any():
            return []
        points = np.zeros((68, 2), np.float32)
        points[45] = 100, 0  # the eye corners are 100 pixels apart
        points[66] = 0, image[0, 0, 0]
        return [points]


def painted(openings):
    """Frames of 300 px, too large to be scaled, each of one grey level."""
    return np.stack([np.full((300, 300, 3), opening, np.uint8) for opening in openings])


def voice(decibels):
    """Noise of a given loudness a frame."""
    random = np.random.default_rng(0)
    sound = random.choice([-1.0, 1.0], (len(decibels), FRAME))
    return (sound * 10 ** (np.array(decibels)[:, None] / 20)).ravel().astype(np.float32)


def test_opening_is_in_units_of_the_eyes_distance():
    np.testing.assert_allclose(
        opening(find_points(painted([10, 0, 30]), PaintedFace())), [0.1, np.nan, 0.3], rtol=1e-6
    )


def test_loudness_is_in_decibels_and_has_a_floor():
    found = loudness(voice([-20.0, -40.0, -90.0])[: 3 * FRAME - 1], 4)
    np.testing.assert_allclose(found, [-20, -40, -60, -60], atol=0.05)
    np.testing.assert_allclose(loudness(0.3 + voice([-20.0, -90.0]), 2), [-20, -60], atol=0.05)


def test_a_mouth_that_opens_with_the_voice_and_one_that_does_not():
    volume = [-50.0, -30.0, -20.0, -40.0, -25.0]
    opening = [10, 30, 40, 20, 35]
    sound = voice(volume)
    assert follows_voice(painted(opening), sound, PaintedFace()) == pytest.approx(1.0, abs=1e-4)
    assert follows_voice(painted(opening[::-1]), sound, PaintedFace()) < 0.2
    assert follows_voice(painted([7] * 5), sound, PaintedFace()) == 0.0


def test_frames_without_a_face_do_not_count_but_most_must_have_one():
    sound = voice([-50.0, -30.0, -20.0, -40.0])
    assert follows_voice(painted([10, 30, 0, 20]), sound, PaintedFace()) > 0.99
    with pytest.raises(InputError, match="1 of 4 frames"):
        follows_voice(painted([10, 0, 0, 0]), sound, PaintedFace())


def test_a_file_that_shows_no_face_is_named_and_the_others_are_judged(
    tmp_path, monkeypatch, capsys
):
    sound = voice([-50.0, -30.0, -20.0, -40.0])
    videos = {"dark": painted([0] * 4), "light": painted([10, 30, 40, 20])}
    monkeypatch.setattr(mouth, "FaceLandmarker", lambda _: PaintedFace())
    monkeypatch.setattr(mouth, "read_video", lambda path: Video(videos[path.name], sound))
    with pytest.raises(SystemExit) as left:
        mouth.main(["dark", "light"])
    printed = capsys.readouterr()
    assert left.value.code == 2 and printed.out == "+1.000  light\n"
    assert printed.err == "error: dark: a face is seen in 0 of 4 frames only\n"


def test_correlation_is_numpys():
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 40)).astype(np.float32)
    for x, y in ((a, b), (a, a + 0.1 * b), (a, -3 * a + 2)):
        assert abs(correlation(x, y) - np.corrcoef(x, y)[0, 1]) < 1e-5
    assert correlation(a, np.full_like(a, 0.3)) == 0.0


def test_silence_begins_a_while_after_the_sound():
    levels = [-90.0] * 10 + [-20.0] * 5 + [-90.0] * 10
    silent = silent_frames(voice(levels), 25)
    expected = np.r_[: 10 - HOLD, 15 + HOLD : 25]
    np.testing.assert_array_equal(np.flatnonzero(silent), expected)


def test_a_rooms_noise_is_silence_and_soft_speech_is_not():
    """25 dB below a voice of -20 dB: a file's zeros, and a room of -46; -40 is spoken."""
    for pause, is_silent in ((-90.0, True), (-46.0, True), (-40.0, False)):
        silent = silent_frames(voice([-20.0] * 20 + [pause] * 20), 40)
        np.testing.assert_array_equal(silent[20 + HOLD :], is_silent)
        assert not silent[: 20 + HOLD].any()
    assert silent_frames(voice([-90.0] * 10), 10).all()  # nobody speaks at all
    click = voice([-20.0] * 60 + [-40.0] * 40)
    click[10] = 1.0  # a frame of -28 dB and more is no louder voice
    np.testing.assert_array_equal(silent_frames(click, 100), False)


def moving(gap):
    """Lips of which the lower one alone moves."""
    points = np.zeros((len(gap), 20, 2))
    points[:, 66 - 48, 1] = gap
    return points


def test_movement_in_silence_is_that_of_silent_frames():
    """Lips that open and shut by 0.2 while a room hums 26 dB below the voice have moved by 0.1."""
    sound = voice([-20.0] * 20 + [-46.0] * 23)
    spoken = np.linspace(0, 1, 20 + HOLD)
    figures = {
        name: compare_lips(moving(np.r_[spoken, then]), None, 1.0, 1.0, sound)
        for name, then in (("moves", np.tile([0.0, 0.2], 10)), ("rests", np.full(20, 0.1)))
    }
    assert figures["moves"]["movement_in_silence"] == pytest.approx(0.1)
    assert figures["rests"]["movement_in_silence"] == pytest.approx(0, abs=1e-12)
    always = compare_lips(moving(np.r_[spoken, spoken]), None, 1.0, 1.0, voice([-20.0] * 46))
    assert "movement_in_silence" not in always


def test_a_mouth_that_trembles_is_told_from_one_that_speaks_and_one_that_rests():
    speaking = 0.2 + 0.1 * np.sin(np.arange(50) / 3)
    trembling = speaking + 0.02 * (-1.0) ** np.arange(50)
    found = [
        compare_lips(moving(gap), None, 1.0, 1.0, None)["mouth_jitter"]
        for gap in (np.full(50, 0.2), speaking, trembling)
    ]
    assert found[0] == 0 and found[2] > 2 * found[1] > 0
