"""How much of a pair of videos is in memory at a time, while it is decoded and judged."""

import threading
import tracemalloc
import weakref

import numpy as np
import pytest

from data_pipeline.emotions import UNKNOWN_EMOTION
from data_pipeline.video import Video, read_video
from reta_jax import evaluate as judging
from reta_jax.metrics import videos as video_figures
from reta_jax.metrics.image import compare_pixels
from reta_jax.metrics.judges import Judges
from reta_jax.metrics.pairs import Pair
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.videos import judge_reference, read_pairs
from tests.metrics.test_videos import FRAMES, GreyFace, openings, save


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_beside_the_real_video_there_is_one_rows_at_most(traced):
    frames = np.random.default_rng(0).integers(0, 256, (100, 96, 96, 3), np.uint8)
    before, _ = tracemalloc.get_traced_memory()
    judge_reference(
        Judges(), Protocol(figures=("mouth", "face")), Video(frames, None), None, GreyFace()
    )
    assert tracemalloc.get_traced_memory()[1] - before < 1.7 * frames.nbytes
    tracemalloc.reset_peak()
    assert compare_pixels(frames, frames)["psnr"] == 100
    assert tracemalloc.get_traced_memory()[1] - before < 0.5 * frames.nbytes


def test_a_large_pair_is_let_go_before_the_next_is_decoded(tmp_path, monkeypatch):
    for name in "abc":
        save(tmp_path / f"{name}.mp4", openings())
    decode, held = video_figures._decode, []

    def decode_alone(*pair):
        assert all(frames() is None for frames in held), "the last pair is still in memory"
        found = decode(*pair)
        held.extend(weakref.ref(video.frames) for video in (found.generated, found.real))
        return found

    monkeypatch.setattr(video_figures, "_decode", decode_alone)
    monkeypatch.setattr(video_figures, "LARGE", 0)
    protocol = Protocol(figures=("mouth",))
    judging.evaluate_videos(tmp_path, tmp_path, GreyFace(), judges=Judges(), protocol=protocol)
    assert len(held) == 6


def test_the_next_pair_is_decoded_while_one_is_judged(tmp_path, monkeypatch):
    videos = {name: Video(np.full((3, 16, 16, 3), name, np.uint8), None) for name in (50, 60, 70)}
    decoded = {name: threading.Event() for name in videos}

    def read_some(path, _):
        decoded[int(path.stem)].set()
        return videos[int(path.stem)]

    monkeypatch.setattr(video_figures, "read_video", read_some)
    paths = [tmp_path / f"{name}.mp4" for name in videos]
    pairs = [Pair(path.stem, path, path, UNKNOWN_EMOTION) for path in paths]
    found = read_pairs(pairs)
    assert next(found)[0] == pairs[0]
    assert decoded[60].wait(10) and not decoded[70].is_set()
    for pair, (made, real, _) in found:
        assert made.frames[0, 0, 0, 0] == real.frames[0, 0, 0, 0] == int(pair.name)
    assert not list(read_pairs([]))


@pytest.mark.parametrize(
    ("made", "longest", "read"), [(FRAMES, 5, [5, 5]), (10, None, [10, 11]), (10, 20, [10, 11])]
)
def test_no_more_is_read_than_is_compared(tmp_path, monkeypatch, made, longest, read):
    """One frame more of the real video tells that it is longer."""
    save(tmp_path / "real.mp4", openings(1), sound=1)
    save(tmp_path / "made.mp4", openings(2)[:made], sound=2)
    whole, lengths = read_video(tmp_path / "real.mp4"), []

    def read_some(path, seconds):
        video = read_video(path, seconds)
        lengths.append(len(video.frames))
        return video

    monkeypatch.setattr(video_figures, "read_video", read_some)
    pair = Pair("a", tmp_path / "made.mp4", tmp_path / "real.mp4", UNKNOWN_EMOTION)
    ((_, decoded),) = read_pairs([pair], longest)
    count = len(decoded.real.frames)
    assert lengths == read and count == len(decoded.generated.frames) == min(read)
    assert (video_figures.CUT in decoded.remarks) == (read[0] != read[1])
    np.testing.assert_array_equal(decoded.real.frames, whole.frames[:count])
    sound = slice(640 * count)
    np.testing.assert_allclose(decoded.real.audio[sound], whole.audio[sound], atol=1e-6)
