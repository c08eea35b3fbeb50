"""Videos with cuts and faceless stretches become several stretches that leave no frame out."""

import itertools

import numpy as np
import pytest

from data_pipeline import shots
from data_pipeline.shots import Face, FixedBox, LandmarkFinder, Region, watch

GREY, OTHER = np.full((64, 64, 3), 60, np.uint8), np.full((64, 64, 3), 200, np.uint8)


class Told:
    """Finds faces where it is told: a centre per frame, None without one; `small` ones closely."""

    def __init__(self, centres, small=()):
        self.centres, self.small = centres, small
        self.close_looks = 0

    def watch(self, frames):
        numbered = [frame.copy() for frame in frames]
        for number, frame in enumerate(numbered):
            frame[0, 0] = number
        return watch(numbered, self)

    def find(self, frame, near, closely):
        number = int(frame[0, 0, 0])
        self.close_looks += closely
        centre = self.centres[number]
        if centre is None or (number in self.small and not closely):
            return []
        points = np.tile(np.float32([centre, 32]), (68, 1))
        return [Face(np.array([centre, 32.0, 20.0]), points)]


def spans(stretches) -> list[tuple[int, int, str]]:
    return [(part.start, part.end, part.reason) for part in stretches]


def test_cuts_divide_a_video_and_short_stretches_say_so():
    frames = [GREY] * 30 + [OTHER] * 12 + [GREY] * 40
    assert spans(Told([32] * 82).watch(frames)) == [
        (0, 30, ""),
        (30, 42, "too short: 0.48 s"),
        (42, 82, ""),
    ]


def test_a_face_that_jumps_is_another_one():
    centres = [32 + t * 0.2 for t in range(30)] + [18] * 30
    first, second = Told(centres).watch([GREY] * 60)
    assert (first.start, first.end, second.end) == (0, 30, 60)
    np.testing.assert_allclose(first.boxes[:, 0], centres[:30])


def test_of_two_faces_the_one_is_followed_that_was_followed():
    class Two:
        """A face to the left that grows and shrinks beside a steady one to the right."""

        def __init__(self):
            self.sides = itertools.cycle([8.0, 12.0])

        def detect(self, image, near=None, closely=True):
            faces = [_square(16, next(self.sides)), _square(48, 10.0)]
            return sorted(faces, key=lambda points: -np.ptp(points))

    (part,) = watch([GREY] * 30, LandmarkFinder(Two(), None))
    assert part.reason == "" and part.accompanied.all()
    np.testing.assert_allclose(part.landmarks[:, :, 0].mean(1), 48)


def _square(x: float, side: float) -> np.ndarray:
    corners = np.float32([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * side / 2
    return np.tile(corners, (17, 1)) + np.float32([x, 32])


def test_a_long_gap_is_a_stretch_of_its_own_and_a_short_one_is_bridged():
    centres = [20.0] * 30 + [None] * 10 + [22.0] * 30 + [None] * 26 + [22.0] * 25
    stretches = Told(centres).watch([GREY] * 121)
    assert spans(stretches) == [(0, 70, ""), (70, 96, "no face"), (96, 121, "")]
    first = stretches[0]
    np.testing.assert_allclose(first.boxes[30:40, 0], np.linspace(20, 22, 12)[1:-1])
    np.testing.assert_allclose(first.landmarks[35, :, 0], first.boxes[35, 0], rtol=1e-6)
    assert first.found.sum() == 60 and first.looks[35] is None


def test_frames_between_two_shots_that_show_no_face_belong_to_neither():
    frames = [GREY] * 34 + [OTHER] * 30
    centres = [32] * 30 + [None] * 6 + [32] * 28
    assert spans(Told(centres).watch(frames)) == [
        (0, 30, ""),
        (30, 36, "no face"),
        (36, 64, ""),
    ]


@pytest.mark.parametrize("is_small", [False, True])
def test_a_face_that_is_away_for_long_is_looked_for_closely_now_and_then(is_small):
    centres = [20.0] * 30 + [None] * 105 + [22.0] * 9 + [None] * 8 + [24.0] * 31 + [None] * 60
    told = Told(centres, small=range(135, 200) if is_small else ())
    found = told.watch([GREY] * 243)
    assert spans(found) == [
        (0, 30, ""),
        (30, 135, "no face"),
        (135, 183, ""),
        (183, 243, "no face"),
    ]
    np.testing.assert_array_equal(
        np.concatenate([part.found for part in found]), [x is not None for x in centres]
    )
    assert told.close_looks < 150  # of 243 frames


def test_a_video_without_a_face_is_one_stretch():
    assert spans(Told([None] * 3).watch([GREY] * 3)) == [(0, 3, "no face")]


def test_given_boxes_need_no_detector():
    (part,) = watch([GREY] * 25, FixedBox((30, 31, 20), None, None))
    assert part.landmarks is None and part.reason == "" and part.found.all()
    np.testing.assert_array_equal(part.boxes, [[30, 31, 20]] * 25)
    wide = np.zeros((40, 100, 3), np.uint8)
    (face,) = FixedBox(None, None, None).find(wide, None, True)
    np.testing.assert_array_equal(face.box, [50, 20, 40])
    (face,) = FixedBox(None, Region(160, 0, 200, 80, height=80), None).find(wide, None, True)
    np.testing.assert_array_equal(face.box, [90, 20, 20])


def test_a_detector_s_landmarks_count_only_inside_of_a_given_box():
    class Detector:
        def detect(self, image, near=None, closely=True):
            return [np.tile(np.float32(place), (68, 1)) for place in ((90, 90), (31, 30))]

    (face,) = FixedBox((30, 30, 20), None, Detector()).find(GREY, None, True)
    assert face.landmarks[0].tolist() == [31, 30] and face.box.tolist() == [30, 30, 20]
    assert FixedBox((70, 20, 10), None, Detector()).find(GREY, None, True) == []


@pytest.mark.parametrize("count", [1, 24, 25])
def test_too_short_is_under_a_second(count):
    (part,) = Told([32] * count).watch([GREY] * count)
    assert bool(part.reason) == (count < shots.MIN_FRAMES)
