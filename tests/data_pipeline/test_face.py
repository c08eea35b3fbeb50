"""The EMOCA crop against closed forms, and portraits of a public-domain face."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from mediapipe.tasks.python import vision

from data_pipeline import face
from data_pipeline.errors import InputError

REPOSITORY = Path(__file__).parents[2]
MODEL = Path(
    os.environ.get(face.MODEL_VARIABLE)
    or REPOSITORY.parent / "shared" / "models" / "face_landmarker.task"
)
needs_model = pytest.mark.skipif(not MODEL.is_file(), reason="no face landmarker model")


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def landmarker() -> face.FaceLandmarker:
    return face.FaceLandmarker(MODEL)


class FixedDetector:
    """Finds what it is told, in images of one size."""

    def __init__(self, *boxes, size=None):
        self._boxes, self._size = boxes, size

    def boxes(self, image):
        if self._size not in (None, image.shape[:2]):
            return []
        return [np.array(box, np.float64) for box in self._boxes]


def gradient(height: int, width: int) -> np.ndarray:
    """Red grows by 1 per pixel to the right, green by 1 downwards."""
    y, x = np.indices((height, width))
    return np.stack([x, y, np.full_like(x, 9)], -1).astype(np.uint8)


def test_emoca_box_is_the_published_formula():
    points = np.random.default_rng(0).uniform(20, 80, (68, 2)).astype(np.float32)
    points[:2] = (10, 30), (110, 110)  # 100 wide, from 30 or less to 110 high
    points[2] = (50, 20)
    x, y, side = face.emoca_box(points)
    assert (x, y) == (60, 65)
    assert side == int((100 + 90) / 2 * 1.1 * 1.25) == 130


def test_smoothing_fills_gaps_and_keeps_steady_motion():
    times = np.arange(60.0)
    truth = np.stack([100 + 2 * times, 50 - times, np.full(60, 80)], 1)
    found = np.ones(60, bool)
    found[20:30] = False
    boxes = np.where(found[:, None], truth, -999)
    smooth = face.smooth_boxes(boxes, found)
    np.testing.assert_allclose(smooth[12:-12], truth[12:-12], atol=1e-6)
    jitter = truth + np.random.default_rng(0).normal(0, 2, truth.shape)
    smooth = face.smooth_boxes(jitter, np.ones(60, bool))
    # White noise through a Gaussian of sigma 3: its deviation falls by (2 sqrt(pi) 3) ** 0.5 = 3.3.
    assert (smooth - truth)[12:-12].std() < 2 / 2.5


def test_smoothing_holds_the_ends():
    found = np.array([False] * 5 + [True] * 10 + [False] * 5)
    boxes = np.where(found[:, None], [[30.0, 40.0, 50.0]], 0)
    np.testing.assert_allclose(face.smooth_boxes(boxes, found), [[30, 40, 50]] * 20)


def test_a_crop_of_whole_pixels_is_a_slice():
    image = np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)
    np.testing.assert_array_equal(face.crop(image, (30, 25, 20), 20), image[15:35, 20:40])


@pytest.mark.parametrize("side", [13.0, 40.0, 77.7, 120.0])
def test_a_crop_samples_where_it_should(side):
    image, size = gradient(150, 200), 40
    cropped = face.crop(image, (100.3, 75.6, side), size).astype(float)
    # Pixel i of the crop shows the source at (i + 1/2) / size of the way through the box.
    along = (np.arange(size) + 0.5) / size * side - side / 2 - 0.5
    inner = slice(1, -1)
    np.testing.assert_allclose(
        cropped[:, inner, 0], np.tile(100.3 + along[inner], (size, 1)), atol=1.0
    )
    np.testing.assert_allclose(
        cropped[inner, :, 1], np.tile(75.6 + along[inner], (size, 1)).T, atol=1.0
    )


def test_shrinking_averages_instead_of_sampling():
    checkers = np.indices((256, 256)).sum(0) % 2 * 255
    image = np.repeat(checkers[..., None], 3, 2).astype(np.uint8)
    small = face.crop(image, (128, 128, 200), 25).astype(int)
    assert np.abs(small - 127).max() < 4


def test_beyond_the_border_the_edge_is_repeated():
    image = gradient(40, 40)
    cropped = face.crop(image, (0, 20, 40), 40).astype(int)
    assert np.abs(cropped[:, :19, 0]).max() <= 1
    np.testing.assert_array_equal(cropped[:, 20:, 0], image[:, :20, 0])
    assert face.crop(image, (-500, -500, 30), 16).shape == (16, 16, 3)
    assert face.crop(image, (20, 20, 4000), 16).shape == (16, 16, 3)


def test_fomm_s_box_holds_every_face_with_a_tenth_to_each_side():
    head = np.zeros((68, 2), np.float32)
    head[:] = (140, 150)
    head[:2] = (100, 100), (180, 200)  # With forehead and chin from 80 to 203: 123 high.
    clip = np.stack([head, head + (10, 5), head - (10, 0)]).astype(np.float32)
    x, y, side = face.fomm_box(clip)
    assert (x, y) == pytest.approx((140, (80 + 208) / 2), abs=0.01)
    assert side == pytest.approx(1.2 * 128, abs=0.01)
    assert face.fomm_box(np.stack([head, head + (70, 0)]).astype(np.float32)) is None


def test_landmarks_go_with_their_crop():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:42, 60:62] = 255  # Centred on (61, 41).
    box = np.array([55.0, 45.0, 32.0])
    cropped = face.crop(image, box, 64)[..., 0].astype(float)
    x, y = face.into_crop(np.array([61.0, 41.0], np.float32), box)
    rows, columns = np.indices(cropped.shape) + 0.5
    assert abs((cropped * columns).sum() / cropped.sum() - 64 * x) < 0.1
    assert abs((cropped * rows).sum() / cropped.sum() - 64 * y) < 0.1


def test_sync_box_is_steady_and_inside():
    landmarks = np.random.default_rng(0).uniform(0.3, 0.7, (9, 68, 2)).astype(np.float32)
    steady = face.sync_box(landmarks)
    landmarks[4] += 0.2  # One frame gone astray.
    np.testing.assert_allclose(face.sync_box(landmarks), steady, atol=0.02)
    top, left, bottom, right = steady
    assert 0 < top < 0.32 and 0.68 < bottom < 0.75 and left >= 0.3 and right <= 0.7
    assert face.sync_box(landmarks * 3 - 1).min() == 0  # Cut at the frame.


def test_portrait_takes_the_largest_face_and_says_so():
    image = gradient(100, 200)
    detector = FixedDetector((150, 50, 40), (40, 40, 20))
    cropped, note = face.portrait_crop(image, 40, detector=detector)
    np.testing.assert_array_equal(cropped, image[30:70, 130:170])
    assert "largest of 2 faces" in note
    assert "largest" not in face.portrait_crop(image, 8, detector=FixedDetector((9, 9, 9)))[1]


def test_a_face_that_fills_the_picture_is_looked_for_with_room_around():
    image = gradient(100, 100)
    detector = FixedDetector((100, 100, 100), size=(200, 200))
    np.testing.assert_array_equal(face.portrait_crop(image, 100, detector=detector)[0], image)


def test_the_room_around_a_large_picture_is_not_of_its_size(monkeypatch):
    monkeypatch.setattr(face, "_LONGEST", 100)
    image = gradient(200, 120)
    detector = FixedDetector((40, 50, 10), size=(100, 80))  # Of 50 x 30 with 25 around.
    cropped, _ = face.portrait_crop(image, 40, detector=detector)
    np.testing.assert_array_equal(cropped, image[80:120, 40:80])  # In full resolution.


def test_portrait_without_a_face():
    image = gradient(90, 120)
    with pytest.raises(InputError, match="no face found in the 120x90 image.*--crop none"):
        face.portrait_crop(image, 64, detector=FixedDetector())
    cropped, _ = face.portrait_crop(image, 90, mode="none")
    np.testing.assert_array_equal(cropped, image[:, 15:105])


def test_the_cascade_finds_a_frontal_face(astronaut):
    (box,) = face.CascadeDetector().boxes(astronaut)
    # The landmarker has (225.5, 132.0, 123).
    assert np.abs(box - (225.5, 132.0, 123)).max() < 0.15 * 123
    assert face.CascadeDetector().boxes(skimage.data.coffee()) == []
    assert face.CascadeDetector().boxes(np.zeros((20_000, 3, 3), np.uint8)) == []


@needs_model
def test_landmarks_of_a_known_face(astronaut, landmarker):
    (points,) = landmarker.detect(astronaut)
    assert points.shape == (68, 2) and points.dtype == np.float32
    # Read off the photograph: eyes, tip of the nose, corners of the mouth.
    np.testing.assert_allclose(points[36:42].mean(0), (203, 101), atol=4)
    np.testing.assert_allclose(points[42:48].mean(0), (247, 104), atol=4)
    np.testing.assert_allclose(points[30], (223, 126), atol=4)
    np.testing.assert_allclose(points[[48, 54]], [(203, 139), (245, 140)], atol=4)
    mouth = points[48:68]
    assert points[48, 0] == mouth[:, 0].min() and points[54, 0] == mouth[:, 0].max()
    assert points[62, 1] <= points[66, 1] + 1  # The inner lips, upper above lower.
    assert points[51, 1] < points[57, 1]  # And the outer.
    assert points[8, 1] == points[:, 1].max()  # The chin.
    assert points[0, 0] < points[36, 0] < points[27, 0] < points[45, 0] < points[16, 0]


@needs_model
def test_faces_come_largest_first_and_move_with_the_picture(astronaut, landmarker):
    woman = astronaut[:300, 80:380]
    both = np.full((400, 620, 3), 90, np.uint8)
    both[50:300, 10:260] = cv2.resize(woman, (250, 250), interpolation=cv2.INTER_AREA)
    both[50:350, 315:615] = woman
    first, second = landmarker.detect(both)
    assert first[:, 0].mean() > 315 and second[:, 0].mean() < 260
    (alone,) = landmarker.detect(astronaut)
    assert np.abs(first - (alone + (315 - 80, 50))).mean() < 3


@needs_model
@pytest.mark.parametrize("side", [220, 300])
@pytest.mark.parametrize("corner", [(0, 0), (420, 700), (780, 1600)])
def test_a_small_face_in_a_wide_picture_is_found_once(astronaut, landmarker, side, corner):
    top, left = corner
    wide = np.full((1080, 1920, 3), 90, np.uint8)
    woman = cv2.resize(astronaut[:300, 80:380], (side, side), interpolation=cv2.INTER_AREA)
    wide[top : top + side, left : left + side] = woman
    (points,) = landmarker.detect(wide)
    (alone,) = landmarker.detect(astronaut)
    expected = (alone - (80, 0)) * side / 300 + (left, top)
    assert np.abs(points - expected).mean() < 0.02 * side
    assert landmarker.detect(wide, closely=False) == []
    box = face.emoca_box(points)
    (near,) = landmarker.detect(wide, near=box + (0.1 * side, 0, 0))
    assert np.abs(near - expected).mean() < 0.02 * side


@needs_model
def test_a_glance_runs_the_detector_once(astronaut, landmarker, monkeypatch):
    looks = []
    given = landmarker._image
    monkeypatch.setattr(landmarker, "_image", lambda data: looks.append(data) or given(data=data))
    near = np.array([300.0, 300, 90])
    for closely, count in {False: 1, True: 26}.items():
        looks.clear()
        assert landmarker.detect(np.zeros((720, 1280, 3), np.uint8), near, closely) == []
        assert len(looks) == count
    (glanced,), (points,) = (landmarker.detect(astronaut, None, closely) for closely in (0, 1))
    np.testing.assert_array_equal(glanced, points)


@needs_model
@pytest.mark.parametrize("shape", [(20, 40_000), (40_000, 1), (4097, 200)])
def test_mediapipe_is_given_no_picture_that_would_crash_it(landmarker, monkeypatch, shape):
    given = landmarker._image

    def checked(data):
        assert max(data.shape) <= 4096 and min(data.shape) >= 1
        return given(data=data)

    monkeypatch.setattr(landmarker, "_image", checked)
    with pytest.raises(InputError, match="no face found"):
        face.portrait_crop(np.full((*shape, 3), 90, np.uint8), 64, detector=landmarker)


@needs_model
def test_landmarks_of_a_picture_that_was_shrunk_are_in_its_own_pixels(
    astronaut, landmarker, monkeypatch
):
    image = astronaut[:300, 50:]
    (expected,) = landmarker.detect(image)
    monkeypatch.setattr(face, "_LONGEST", 231)  # Half its width.
    (points,) = landmarker.detect(image)
    assert 0 < np.abs(points - expected).mean() < 1


@needs_model
def test_a_tight_crop_is_cropped_to_itself(astronaut, landmarker):
    once, _ = face.portrait_crop(astronaut, 256, detector=landmarker)
    twice, note = face.portrait_crop(once, 256, detector=landmarker)
    assert np.abs(once.astype(int) - twice).mean() < 12, note
    with pytest.raises(InputError, match="no face found"):
        face.portrait_crop(skimage.data.coffee(), 256, detector=landmarker)


@needs_model
def test_the_landmarker_is_silent():
    code = """
import sys, skimage.data
from data_pipeline.face import FaceLandmarker
print(len(FaceLandmarker(sys.argv[1]).detect(skimage.data.astronaut())))
kept = FaceLandmarker(sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", code, MODEL], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_the_model_is_looked_for_in_order(tmp_path, monkeypatch):
    for name in ("given", "named"):
        (tmp_path / name).write_text(name)
    cached = tmp_path / "cache" / "reta_jax" / "face_landmarker.task"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(face.MODEL_VARIABLE, str(tmp_path / "named"))
    assert face.landmarker_model(tmp_path / "given") == tmp_path / "given"
    assert face.landmarker_model() == tmp_path / "named"
    with pytest.raises(InputError, match="does not exist"):
        face.landmarker_model(tmp_path / "missing")
    with pytest.raises(
        InputError, match=r"x cannot be read \(File name too long\): check the path"
    ):
        face.landmarker_model(tmp_path / ("x" * 300))
    monkeypatch.delenv(face.MODEL_VARIABLE)

    published = tmp_path / "published.task"
    published.write_bytes(b"a model")
    monkeypatch.setattr(face, "MODEL_ADDRESS", published.as_uri())
    with pytest.raises(InputError, match=f"another file.*{face.MODEL_VARIABLE}"):
        face.landmarker_model()
    assert not cached.exists()
    monkeypatch.setattr(face, "MODEL_SHA256", hashlib.sha256(b"a model").hexdigest())
    assert face.landmarker_model() == cached and cached.read_bytes() == b"a model"
    monkeypatch.setattr(face, "MODEL_ADDRESS", "file:///nowhere/at/all")
    assert face.landmarker_model() == cached  # Not fetched twice.
    cached.unlink()
    with pytest.raises(InputError, match="not at hand"):
        face.landmarker_model()
    assert not isinstance(face.default_detector(), face.FaceLandmarker)


def test_without_a_home_the_cascade_finds_faces():
    code = """
import os
os.getuid = lambda: 987_654  # of whom the system knows no home
from data_pipeline.face import default_detector
print(type(default_detector()).__name__)
"""
    bare = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, env=bare, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("CascadeDetector\n", "")


@needs_model
def test_the_pinned_model_is_the_published_one(tmp_path):
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == face.MODEL_SHA256
    (tmp_path / "broken.task").write_text("no model")
    with pytest.raises(InputError, match="is not a face landmarker model"):
        face.FaceLandmarker(tmp_path / "broken.task")


def test_a_library_that_the_system_lacks_is_named(tmp_path, monkeypatch):
    def load(_):
        raise OSError("libEGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(vision.FaceLandmarker, "create_from_options", load)
    (tmp_path / "any.task").write_text("a model")
    with pytest.raises(InputError, match=r"\(libEGL\.so\.1: .*packages libegl1 and libgles2"):
        face.FaceLandmarker(tmp_path / "any.task")


@needs_model
def test_the_cascade_stands_in_for_no_model_that_is_named_or_at_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(face, "MODEL_ADDRESS", "file:///nowhere/at/all")
    monkeypatch.setenv(face.MODEL_VARIABLE, str(tmp_path / "none.task"))
    with pytest.raises(InputError, match=r"none\.task does not exist"):
        face.default_detector()
    monkeypatch.delenv(face.MODEL_VARIABLE)
    assert isinstance(face.default_detector(), face.CascadeDetector)
    cached = tmp_path / "reta_jax" / "face_landmarker.task"
    cached.parent.mkdir()
    cached.write_bytes(MODEL.read_bytes()[:100_000])
    with pytest.raises(InputError, match=f"{cached} is not a face landmarker .*: delete it"):
        face.default_detector()


@needs_model
def test_a_landmarker_can_be_checked_before_it_is_needed(tmp_path):
    face.check_landmarker(MODEL)
    (tmp_path / "cut.task").write_bytes(MODEL.read_bytes()[:100_000])
    for name, what in {"cut.task": "is not a face landmarker", "none": "does not exist"}.items():
        with pytest.raises(InputError, match=f"{tmp_path / name} {what}"):
            face.check_landmarker(tmp_path / name)
