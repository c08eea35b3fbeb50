"""Figures of what is known: perfection, doing nothing, another's voice, lateness, blur."""

import numpy as np
import pytest

from data_pipeline.loader import evaluation_clips
from data_pipeline.prepare import prepare_synthetic
from reta_jax.metrics import clips as clip_figures
from reta_jax.metrics.cache import Judged, other_voice
from reta_jax.metrics.clips import judge_generated, judge_known
from reta_jax.metrics.judges import JUDGES, Judge, Judges, load_judges
from reta_jax.metrics.mesh import lip_mesh, lip_vertex_error
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.rows import BLURRED, OTHER_VOICE, TRUTH, blurred, known_videos
from reta_jax.metrics.summary import summarise
from reta_jax.metrics.sync import Sync
from reta_jax.models.morphable import builtin_morphable

LATE, EARLY = "truth, 3 frames late", "truth, 3 frames early"


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    """A clip large enough for the judges that come with the project, and somebody else's."""
    folder = tmp_path_factory.mktemp("person")
    prepare_synthetic(folder, identities=2, clips_per_identity=1, seconds=2, size=96, workers=1)
    return *evaluation_clips(folder, "test"), *evaluation_clips(folder, "train")


@pytest.fixture(scope="module")
def known(person):
    """Every row of that clip, by the shipped judges and by two whose networks are known."""
    clip, other = person
    judges = load_judges(JUDGES)._replace(
        inception=Judge("pixels", "", lambda x: x.reshape(len(x), -1)[:, ::999].astype(float)),
        sync=Judge("loudness", "", lambda frames, audio, boxes: by_lips(clip, frames, audio)),
    )
    others = judge_known(judges, Protocol(), clip, other.audio)
    assert "generated" not in others.rows | others.features
    moving = np.roll(clip.frames, 12, axis=0)  # lips that move, to another's rhythm
    p_exp = np.roll(clip.coefficients, 12, axis=0)
    found = judge_generated(judges, Protocol(), clip, moving, others, p_exp)
    return found.rows, found.features


def by_lips(clip, frames, audio) -> Sync:
    """A judge of synchrony that knows the clip: is it this voice, and how late are the lips?

    As published, lips that come late have to be moved by as many frames: the offset is above 0.
    """
    error = [np.abs(frames - np.roll(clip.frames, k, 0).astype(float)).mean() for k in range(-5, 6)]
    is_own = np.array_equal(audio, clip.audio)
    confidence, distance = (8.0, 6.0) if is_own else (1.0, 13.0)
    return Sync(confidence, distance, int(np.argmin(error)) - 5, np.zeros(31))


@pytest.mark.parametrize(
    ("figure", "better"),  # 1 is best of all at the truth, -1 least of all
    [
        ("psnr", 1),
        ("psnr_clip", 1),
        ("ssim", 1),
        ("mouth_correlation", 1),
        ("mouth_opening_error", -1),
        ("mouth_landmark_distance", -1),
        ("lip_vertex_error_mm2", -1),
        ("lip_vertex_distance_mm", -1),
        ("face_landmark_distance", -1),
        ("mouth_landmark_distance_px", -1),
        ("face_landmark_distance_px", -1),
        ("lip_landmark_error_mm2", -1),
        ("lip_landmark_distance_mm", -1),
        ("identity_similarity", 1),
    ],
)
def test_every_figure_ranks_what_is_known(known, figure, better):
    rows, _ = known
    others = ("still portrait", LATE, EARLY, "truth, blurred", "generated")
    worse = [name for name in others if figure in rows[name]]
    assert len(worse) >= 2
    for name in worse:
        assert better * (rows["truth"][figure] - rows[name][figure]) > 0, name


def test_figures_know_their_extremes(known):
    rows, _ = known
    truth, still = rows["truth"], rows["still portrait"]
    assert (truth["psnr"], truth["ssim"], truth["lip_vertex_error_mm2"]) == (100.0, 1.0, 0.0)
    assert (
        truth["mouth_correlation"] > 0.9 > rows[LATE]["mouth_correlation"] > 0.1
        and still["mouth_correlation"] == still["voice_correlation"] == 0.0
    )
    assert still["mouth_jitter"] == 0 < truth["mouth_jitter"]
    assert still["face_jitter"] == 0 < truth["face_jitter"]
    assert still["head_motion"] < 1e-6 < truth["head_motion"]
    assert truth["psnr"] > rows["truth, blurred"]["psnr"] and rows["truth, blurred"]["ssim"] < 1


def test_another_voice_shows_in_what_hears_it_alone(known):
    rows, _ = known
    own, other = rows["truth"], rows[OTHER_VOICE]
    assert own["voice_correlation"] > other["voice_correlation"] + 0.1
    assert own["sync_c"] > other["sync_c"] and own["sync_d"] < other["sync_d"]
    assert own["psnr"] == other["psnr"]


def test_another_voice_is_of_the_nearest_before_who_is_another():
    people = ["ann", "ann", "bob", "ann"]
    assert [other_voice(i, people) for i in range(4)] == [2, 2, 1, 2]
    assert [other_voice(i, ["ann"] * 3) for i in range(3)] == [2, 0, 1]
    assert other_voice(0, ["ann"]) == 0


def test_a_shift_shows_in_the_offset(known):
    rows, _ = known
    assert (rows["truth"]["sync_offset"], rows["truth"]["sync_offset_whole"]) == (0, 0)
    assert rows[LATE]["sync_offset"] == -rows[EARLY]["sync_offset"] == 3


def test_distances_of_features_rank_what_is_known(known):
    rows, features = known
    clips = [Judged("", "", "", rows, features, np.zeros(0))]
    found = summarise(Judges(), Protocol(figures=("fid",)), clips)["rows"]
    for distance in ("fid", "kid"):
        perfect = found["truth"][distance]
        assert abs(perfect) < 1e-4 * min(
            found[name][distance] for name in ("truth, blurred", "still portrait")
        )


def test_blur_takes_detail_and_no_light(person):
    """Rounded down twice, it would be a grey level darker, too."""
    clip, _ = person
    videos = {name: make() for name, make in known_videos(clip.frames, clip.portrait).items()}
    assert abs(videos[BLURRED].mean() - videos[TRUTH].mean()) < 0.1
    detail = {name: np.abs(np.diff(videos[name].astype(int), axis=2)).mean() for name in videos}
    assert detail[BLURRED] < 0.7 * detail[TRUTH]
    one, other = videos[BLURRED][:2], blurred(clip.frames[:2])
    np.testing.assert_array_equal(one, other)  # in the picture alone, not over time


def test_a_still_portrait_has_its_own_mesh(person):
    """That of its frame if it is the clip's own first one, else the neutral one."""
    clip, _ = person
    own = clip._replace(portrait=clip.frames[0])
    assert np.abs(clip.coefficients[0]).max() > 0.1
    still, face = {}, builtin_morphable(8)
    for name, one in (("own", own), ("other", clip._replace(portrait=clip.portrait + 1))):
        judged = judge_known(Judges(), Protocol(figures=("mesh",)), one).rows
        still[name] = judged["still portrait"]
    for name, coefficients in (
        ("own", clip.coefficients[:1]), ("other", np.zeros_like(clip.coefficients[:1]))
    ):  # fmt: skip
        lips = np.repeat(lip_mesh(face, coefficients), len(clip.frames), 0)
        assert still[name] == pytest.approx(
            lip_vertex_error(lips, lip_mesh(face, clip.coefficients))
        )
    assert still["own"] != still["other"]


def test_features_are_of_frames_that_are_spread(known, person):
    _, features = known
    assert set(features) == set(clip_figures.FID_ROWS)
    expected = person[0].frames[np.linspace(0, 49, 25).round().astype(int)]
    np.testing.assert_array_equal(features["truth"], expected.reshape(25, -1)[:, ::999])
    assert (features["still portrait"] == features["still portrait"][:1]).all()
