"""Sync_c, Sync_d and offset against the published scoring, and the way from video to embeddings."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.audio import SAMPLES_PER_FRAME, mfcc, to_int16
from data_pipeline.errors import InputError
from reta_jax.experts.syncnet import SyncNetV2
from reta_jax.metrics import sync
from reta_jax.metrics.sync import SyncJudge, compare, crop_face, face_places
from tests.golden.fill import golden
from tests.weights import random_variables

SMALL = SyncNetV2(channel_multiplier=1 / 16)


@pytest.fixture(scope="module")
def variables():
    return random_variables(SMALL, jnp.zeros((1, 5, 224, 224, 3)), jnp.zeros((1, 13, 20)))


def video(frames, samples=None, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, 6, 8, 3), np.uint8)
    pictures = np.stack([cv2.resize(picture, (80, 60)) for picture in coarse])
    samples = frames * SAMPLES_PER_FRAME if samples is None else samples
    return pictures, rng.uniform(-0.5, 0.5, samples).astype(np.float32)


def test_scores_equal_the_published_ones():
    published = golden("sync_conf")
    found = compare(published["im_feat"], published["cc_feat"])
    np.testing.assert_allclose(found.distances, published["mdist"], rtol=2e-6)
    np.testing.assert_allclose(found.confidence, published["conf"], rtol=2e-6)
    np.testing.assert_allclose(found.distance, published["minval"], rtol=2e-6)
    assert found.offset == published["offset"] == -2


@pytest.mark.parametrize("late", [-15, -3, 0, 7, 15])
def test_the_offset_moves_the_video_to_its_voice(late):
    """Lips that come `late` frames after their voice have to be moved back by as many."""
    said = np.random.default_rng(0).normal(size=(200, 16))
    lips, voice = said[50 - late : 150 - late], said[50:150]
    found = compare(lips, voice)
    assert found.offset == late
    assert found.distance < 1 and found.confidence > 4


def test_every_window_is_embedded_as_it_is_alone(variables):
    """Windows of five BGR frames from t and 20 columns from 4t, over more than one block."""
    frames, waveform = video(25, samples=24 * SAMPLES_PER_FRAME + 100)
    lips, voice = SyncJudge(SMALL, variables).embed(frames, waveform)
    assert len(lips) == len(voice) == 24 - 5
    columns, apply = mfcc(to_int16(waveform)), jax.jit(SMALL.apply)
    for t in (0, 1, 15, 16, 18):
        window = [cv2.resize(frame[..., ::-1], (224, 224)) for frame in frames[t : t + 5]]
        heard = columns[:, 4 * t : 4 * t + 20]
        alone = apply(variables, np.float32(window)[None], np.float32(heard)[None])
        for found, expected in zip((lips[t], voice[t]), alone, strict=True):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found, expected[0], atol=1e-5 * scale)


def pipeline_crop(frames, boxes):
    places = face_places(frames, boxes)
    return np.stack([crop_face(frame, *at) for frame, at in zip(frames, places, strict=True)])


def test_a_video_is_judged_by_its_crops(variables):
    """What is cropped before is judged as a whole."""
    frames, waveform = video(12)
    box = np.array([0.2, 0.25, 0.8, 0.7])
    for boxes, faces in (
        (None, np.stack([cv2.resize(frame, (224, 224)) for frame in frames])),
        (box, pipeline_crop(frames, box)),
        (np.tile(box, (12, 1)), pipeline_crop(frames, box)),
    ):
        found = SyncJudge(SMALL, variables)(frames, waveform, boxes)
        expected = SyncJudge(SMALL, variables)(faces, waveform)
        assert found[:3] == expected[:3] and found.distances.shape == (31,)


def test_rows_of_a_clip_share_their_windows(variables, monkeypatch):
    """A late video has three new windows, a still picture one; what is known is what was found."""
    asked = []

    def counting(network, variables, windows):
        asked.append(len(windows))
        return embed_lips(network, variables, windows)

    embed_lips = sync._embed_lips
    monkeypatch.setattr(sync, "_embed_lips", counting)
    monkeypatch.setattr(sync, "BLOCK", 1)
    frames, waveform = video(12)
    late, still = frames[np.maximum(np.arange(12) - 3, 0)], frames[[0] * 12]
    box = np.array([0.2, 0.25, 0.8, 0.7])
    judge = SyncJudge(SMALL, variables)
    for boxes in (None, box, box + 0.1):  # another crop is another window
        for shown, new in ((frames, 7), (late, 3), (still, 1), (frames, 0)):
            asked.clear()
            found = judge.embed(shown, waveform, boxes)
            assert len(asked) == new
            alone = SyncJudge(SMALL, variables).embed(shown, waveform, boxes)
            np.testing.assert_array_equal(found, alone)


def test_the_device_has_the_next_block_before_the_last_one_is_fetched(variables, monkeypatch):
    events = []

    class OnItsWay:
        def __init__(self, vectors):
            self.vectors = vectors
            events.append("asked")

        def __array__(self, dtype=None, copy=None):
            events.append("fetched")
            return np.asarray(self.vectors, dtype)

    zeros = lambda network, variables, windows: OnItsWay(np.zeros((len(windows), 4)))
    monkeypatch.setattr(sync, "_embed_lips", zeros)
    monkeypatch.setattr(sync, "_embed_voices", lambda *arrays: np.zeros((8, 4)))
    lips, _ = SyncJudge(SMALL, variables).embed(*video(2 * sync.BLOCK + 8))  # three blocks
    assert events == ["asked", "asked", "fetched", "asked", "fetched", "fetched"]
    assert lips.shape == (2 * sync.BLOCK + 3, 4)


def test_only_faces_of_new_windows_are_cropped(variables, monkeypatch):
    cropped = []
    monkeypatch.setattr(sync, "crop_face", lambda *at: cropped.append(at) or crop_face(*at))
    frames, waveform = video(12)
    box = np.array([0.2, 0.25, 0.8, 0.7])
    judge = SyncJudge(SMALL, variables)
    for late, new in ((0, 11), (0, 0), (3, 7)):  # the last frame is in no window
        cropped.clear()
        judge.embed(frames[np.maximum(np.arange(12) - late, 0)], waveform, box)
        assert len(cropped) == new


def test_too_short_a_video_is_refused(variables):
    for frames, samples in ((5, 6 * 640), (6, 6 * 640 - 1), (0, 0)):
        faces = np.zeros((frames, 224, 224, 3), np.uint8)
        with pytest.raises(InputError, match=f"{frames} frames with {samples} samples"):
            SyncJudge(SMALL, variables)(faces, np.zeros(samples, np.float32))
    faces = np.zeros((6, 224, 224, 3), np.uint8)
    lips, voice = SyncJudge(SMALL, variables).embed(faces, np.zeros(6 * 640, np.float32))
    assert len(lips) == len(voice) == 1


def test_the_pipelines_crop():
    """A box of 100 rows and 60 columns: s = 50; rows y - 50 to y + 90, columns x - 70 to x + 70."""
    frame = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    box = np.array([100 / 300, 170 / 400, 200 / 300, 230 / 400])
    [crop] = pipeline_crop(frame[None], box)
    np.testing.assert_array_equal(crop, cv2.resize(frame[100:240, 130:270], (224, 224)))


def test_the_pipelines_crop_beyond_the_frame_is_grey():
    frames = np.full((1, 100, 100, 3), 250, np.uint8)
    [crop] = pipeline_crop(frames, np.array([0.0, 0.0, 0.5, 0.5]))  # s = 25: columns -10 to 60
    assert (crop[:, :30] == 110).all() and (crop[:224, 40:] == 250).all()
    [crop] = pipeline_crop(frames, np.array([0.5, 0.25, 1.0, 0.75]))  # rows 50 to 120
    assert (crop[:150] == 250).all() and (crop[165:] == 110).all()


def test_boxes_are_smoothed_by_a_median_of_thirteen():
    frames = np.repeat(video(1)[0], 30, axis=0)
    box = np.array([0.2, 0.25, 0.8, 0.7])
    boxes = np.tile(box, (30, 1))
    boxes[[3, 15, 16, 20]] += 0.1  # never seven in a window
    np.testing.assert_array_equal(pipeline_crop(frames, boxes), pipeline_crop(frames, box))


@pytest.mark.parametrize("count", [1, 2, 6, 12])
def test_short_clips_keep_their_box(count):
    frames = np.repeat(video(1)[0], count, axis=0)
    box = np.array([0.2, 0.25, 0.8, 0.7])
    crops = pipeline_crop(frames, box)
    middle = crops[count // 2]
    assert crops.shape == (count, 224, 224, 3) and middle.std() > 10
