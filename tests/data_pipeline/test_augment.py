"""Augmented samples: picture, landmarks and face box move together, the voice not at all."""

import cv2
import numpy as np
import pytest

from data_pipeline.augment import MIRRORED_LANDMARKS, Augment, AugmentSpec
from data_pipeline.face import sync_box
from data_pipeline.synthetic import synthesize_clip

SIZE = 64


@pytest.fixture(scope="module")
def sample() -> dict[str, np.ndarray]:
    clip = synthesize_clip(7, "happy", 3, 0.2, size=SIZE)
    return {
        "portrait": clip.frames[0],
        "frames": clip.frames,
        "landmarks": clip.landmarks,
        "sync_box": clip.sync_box,
        "audio": np.random.default_rng(0).uniform(-0.4, 0.4, 3200).astype(np.float32),
        "mel": np.ones((80, 16), np.float32),
        "offset": np.int32(3),
    }


def vary(sample, seed=0, **spec) -> dict[str, np.ndarray]:
    return Augment(AugmentSpec(**spec)).random_map(sample, np.random.default_rng(seed))


def with_dots(sample, point: int) -> dict[str, np.ndarray]:
    """Black pictures with a soft white dot, three pixels wide, at a landmark of each frame."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    x, y = (sample["landmarks"][:, point] * SIZE).T[..., None, None]
    dots = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.5**2))
    frames = np.repeat(dots[..., None], 3, axis=-1).round().astype(np.uint8)
    return sample | {"frames": frames, "portrait": frames[0]}


def find_dots(frames: np.ndarray) -> np.ndarray:
    """The dots' centres in [0, 1]."""
    weights = frames[..., 0].astype(np.float64)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    total = weights.sum(axis=(1, 2))
    x, y = (weights * columns).sum(axis=(1, 2)), (weights * rows).sum(axis=(1, 2))
    return np.stack([x, y], -1) / total[:, None] / SIZE


@pytest.mark.parametrize("point", [30, 48, 36])
@pytest.mark.parametrize(
    "spec",
    [
        {"mirror": 1.0},
        {"crop": 0.2},
        {"stretch": 0.2},
        {"mirror": 1.0, "crop": 0.2, "stretch": 0.2},
    ],
)
def test_a_landmark_stays_on_its_pixels(sample, point, spec):
    for seed in range(4):
        varied = vary(with_dots(sample, point), seed, **spec)
        there = MIRRORED_LANDMARKS[point] if "mirror" in spec else point
        found = find_dots(varied["frames"])
        np.testing.assert_allclose(found, varied["landmarks"][:, there], atol=0.15 / SIZE)
        np.testing.assert_array_equal(varied["portrait"], varied["frames"][0])


def test_the_left_of_a_mirrored_face_is_left(sample):
    varied = vary(sample, mirror=1.0)
    assert sorted(MIRRORED_LANDMARKS) == list(range(68))
    np.testing.assert_array_equal(MIRRORED_LANDMARKS[MIRRORED_LANDMARKS], np.arange(68))
    for left, right in [(0, 16), (17, 26), (31, 35), (36, 45), (41, 46), (48, 54), (59, 55)]:
        for landmarks in (sample["landmarks"], varied["landmarks"]):
            assert (landmarks[:, left, 0] < landmarks[:, right, 0]).all()
    # A mirrored face is a face: every point lies near its like of the original.
    assert np.abs(varied["landmarks"] - sample["landmarks"]).max() < 0.15
    np.testing.assert_array_equal(varied["frames"], sample["frames"][:, :, ::-1])
    np.testing.assert_array_equal(varied["portrait"], sample["portrait"][:, ::-1])


@pytest.mark.parametrize(
    "spec", [{"mirror": 1.0}, {"crop": 0.1}, {"mirror": 0.5, "crop": 0.1, "stretch": 0.1}]
)
def test_the_face_box_goes_with_the_landmarks(sample, spec):
    for seed in range(4):
        varied = vary(sample, seed, **spec)
        np.testing.assert_allclose(varied["sync_box"], sync_box(varied["landmarks"]), atol=1e-5)


def test_a_crop_cuts_away_and_invents_nothing(sample):
    frames = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    frames[:, 16:48, 16:48] = 255
    seen = []
    for seed in range(8):
        varied = vary(sample | {"frames": frames}, seed, crop=0.2)["frames"][0, ..., 0] / 255.0
        seen.append(varied.mean())
    areas = np.array(seen) / 0.25
    assert (areas >= 0.99).all() and (areas <= 1 / 0.8**2 + 0.01).all() and np.ptp(areas) > 0.1


def test_a_stretched_face_is_wider_or_longer(sample):
    extent = lambda landmarks: np.ptp(landmarks[0], axis=0)
    ratios = []
    for seed in range(40):
        width, height = extent(vary(sample, seed, stretch=0.2)["landmarks"])
        ratios.append(width / height)
    ratios = np.array(ratios) / np.divide(*extent(sample["landmarks"]))
    assert ratios.min() < 0.9 and ratios.max() > 1.1
    assert ratios.min() >= 0.8 - 1e-6 and ratios.max() <= 1.25 + 1e-6


def test_colours_change_alike_in_all_pictures(sample):
    for name, value in {"brightness": 0.1, "contrast": 0.2, "saturation": 0.5, "hue": 30}.items():
        varied = vary(sample, 3, **{name: value})
        np.testing.assert_array_equal(varied["portrait"], varied["frames"][0])
        assert not np.array_equal(varied["frames"], sample["frames"])
        for key in ("landmarks", "sync_box", "audio"):
            np.testing.assert_array_equal(varied[key], sample[key])


def test_hue_and_saturation_leave_greys_and_the_luma(sample):
    grey = sample | {"frames": np.full((1, 8, 8, 3), 90, np.uint8)}
    np.testing.assert_array_equal(vary(grey, 2, hue=40, saturation=0.5)["frames"], grey["frames"])
    middle = sample["frames"] // 2 + 64  # So that nothing is clipped.
    varied = vary(sample | {"frames": middle}, 2, hue=30, saturation=0.2)["frames"]
    lumas = [cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY) for frames in (middle, varied)]
    assert np.abs(np.subtract(*lumas, dtype=np.int16)).max() <= 2
    assert np.abs(middle.astype(int) - varied).max() > 5


def test_brightness_and_contrast_are_what_they_say(sample):
    flat = sample | {"frames": np.full((1, 8, 8, 3), 200, np.uint8)}
    added = [int(vary(flat, seed, brightness=0.1)["frames"].flat[0]) - 200 for seed in range(50)]
    assert -26 <= min(added) < -15 and 15 < max(added) <= 26
    apart = [vary(flat, seed, contrast=0.2)["frames"].flat[0] - 127.5 for seed in range(50)]
    assert 58 - 1 <= min(apart) < 65 and 80 < max(apart) <= 87 + 1


def test_the_voice_keeps_its_time_and_never_clips(sample):
    audio = sample["audio"]
    for seed in range(8):
        varied = vary(sample, seed, gain_db=6, mirror=0.5, crop=0.1)
        gain = varied["audio"][audio != 0] / audio[audio != 0]
        np.testing.assert_allclose(gain, gain[0], rtol=1e-5)
        assert 10**-0.3 <= gain[0] <= 10**0.3 and gain[0] != 1
        assert varied["mel"] is sample["mel"] and varied["offset"] == 3
    loud = vary(sample | {"audio": audio / np.abs(audio).max()}, 3, gain_db=24)["audio"]
    assert np.abs(loud).max() <= 1.0
    silent = vary(sample | {"audio": np.zeros_like(audio)}, 3, gain_db=24)["audio"]
    assert not silent.any()


def test_off_is_off(sample):
    varied = vary(sample)
    assert all(np.array_equal(varied[key], value) for key, value in sample.items())


def test_one_draw_is_one_result(sample):
    spec = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 5, "crop": 0.1}
    first, again, other = (vary(sample, seed, mirror=0.5, gain_db=3, **spec) for seed in (1, 1, 2))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["frames"], other["frames"])
