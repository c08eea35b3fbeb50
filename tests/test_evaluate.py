"""The judging of a random model by random judges: truth is perfect, blocks do not show."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.emotions import EMOTIONS
from data_pipeline.loader import evaluation_clips
from data_pipeline.prepare import prepare_synthetic
from reta_jax import evaluate as judging
from reta_jax.evaluate import (
    BLOCK,
    evaluate,
    judge_video,
    load_judges,
    main,
    markdown_table,
    mean_figures,
)
from reta_jax.experts.emotion_fan import EmotionFAN
from reta_jax.experts.landmark_net import MOUTH, LandmarkNet, into_lower_face, lower_face
from reta_jax.images import to_float
from reta_jax.metrics.image import psnr
from reta_jax.render import Renderer
from reta_jax.weights import save_weights
from tests.tiny import save_tiny_model
from tests.weights import random_variables

FIGURES = {
    "psnr",
    "ssim",
    "mouth_correlation",
    "mouth_opening_error",
    "mouth_landmark_distance",
    "mouth_jitter",
    "emotion_accuracy",
}
ROWS = {"generated", "still portrait", "truth, 3 frames late", "truth, blurred", "truth"}
MOUTH_FIELDS = {"size": 16, "width": 8}
FEELING_FIELDS = {"width": 4, "classes": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two clips of somebody new, 32 px, none of them a multiple of BLOCK long."""
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(folder, identities=2, clips_per_identity=2, seconds=1.2, size=32, workers=1)
    assert all(len(clip.frames) % BLOCK for clip in evaluation_clips(folder, "test"))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def mouth_variables():
    return random_variables(LandmarkNet(**MOUTH_FIELDS), jnp.zeros((1, 16, 16, 3)))


@pytest.fixture(scope="module")
def judges_folder(tmp_path_factory, mouth_variables):
    folder = tmp_path_factory.mktemp("judges")
    feelings = random_variables(EmotionFAN(**FEELING_FIELDS), jnp.zeros((1, 2, 64, 64, 3)))
    for kind, variables, fields in (
        ("landmark_net", mouth_variables, MOUTH_FIELDS),
        ("emotion_fan", feelings, FEELING_FIELDS),
    ):
        save_weights(folder / kind, variables, {"kind": kind, "fields": fields})
    return folder


@pytest.fixture(scope="module")
def judges(judges_folder):
    return load_judges(judges_folder)


@pytest.fixture(scope="module")
def clip(data):
    return next(iter(evaluation_clips(data, "test", 32)))


@pytest.fixture(scope="module")
def report(weights, judges, data):
    return evaluate(Renderer.from_pretrained(weights), judges, data)


def test_the_report_has_every_row_and_figure(report, data):
    clips = list(evaluation_clips(data, "test"))
    assert report["split"] == "test" and report["clips"] == len(clips) > 0
    assert report["identities"] == len({clip.identity for clip in clips})
    assert set(report["rows"]) == set(report["intervals"]) == ROWS
    for name, row in report["rows"].items():
        assert set(row) - {"movement_in_silence"} == FIGURES
        assert np.isfinite(list(row.values())).all()
        for figure, (low, high) in report["intervals"][name].items():
            assert low - 1e-6 <= row[figure] <= high + 1e-6
    assert set(report["by_emotion"]) == {EMOTIONS[clip.emotion] for clip in clips}
    assert set(report["by_identity"]) == {clip.identity for clip in clips}
    assert report == json.loads(json.dumps(report))


def test_truth_is_perfect_and_doing_nothing_is_not(report):
    truth, still = report["rows"]["truth"], report["rows"]["still portrait"]
    assert (truth["psnr"], truth["ssim"]) == (100.0, 1.0)
    assert still["psnr"] < 60 and still["ssim"] < 1
    assert report["rows"]["generated"]["psnr"] < still["psnr"]  # random weights


def test_every_figure_ranks_what_is_known(tmp_path):
    """By the judges that come with the project, on a clip large enough for them."""
    judges = load_judges(judging.JUDGES)
    prepare_synthetic(tmp_path, identities=2, clips_per_identity=1, seconds=2, size=96, workers=1)
    (clip,) = evaluation_clips(tmp_path, "test")
    rows = {
        name: judge_video(judges, clip, v)
        for name, v in judging.comparisons(clip.frames, clip.portrait).items()
    }
    truth, late, blurred, still = (
        rows[name] for name in ("truth", "truth, 3 frames late", "truth, blurred", "still portrait")
    )
    for figure in ("psnr", "ssim", "mouth_correlation"):
        assert truth[figure] > max(row[figure] for row in (late, blurred, still)), figure
    for figure in ("mouth_opening_error", "mouth_landmark_distance"):
        assert truth[figure] < min(late[figure], still[figure]), figure
    assert truth["mouth_correlation"] > 0.9 > late["mouth_correlation"] > still["mouth_correlation"]
    assert still["mouth_jitter"] == 0 < truth["mouth_jitter"]


def test_intervals_shrink_with_clips_and_hold_the_mean():
    """Of a normal figure they are 1.96 standard errors either side; some clips lack one."""
    values = np.random.default_rng(0).normal(20, 2, 400)
    rows = [
        {"psnr": float(x)} | ({"emotion_accuracy": 1.0} if i == 0 else {})
        for i, x in enumerate(values)
    ]
    found = judging.intervals(rows)
    expected = values.mean() + 1.96 * values.std() / 20 * np.array([-1, 1])
    np.testing.assert_allclose(found["psnr"], expected, atol=0.05)
    assert found["emotion_accuracy"] == [1.0, 1.0]


def test_a_mouth_that_does_not_move_correlates_with_nothing(report, judges, clip):
    assert report["rows"]["still portrait"]["mouth_correlation"] == 0.0
    still = np.repeat(clip.portrait[None], len(clip.frames), 0)
    assert judge_video(judges, clip, still)["mouth_opening_error"] > 0


def test_a_perfect_judge_of_the_mouth_finds_the_truth(judges, clip):
    """The truth's landmarks are brought to where the judge's points are."""
    boxes = jnp.broadcast_to(clip.sync_box, (len(clip.frames), 4))
    points = np.asarray(into_lower_face(jnp.asarray(clip.landmarks[:, MOUTH]), boxes))
    figures = judge_video(judges._replace(mouth=lambda frames, box: points), clip, clip.frames)
    assert figures["mouth_landmark_distance"] == figures["mouth_opening_error"] == 0
    np.testing.assert_allclose(figures["mouth_correlation"], 1, rtol=1e-5)
    assert 0 < points[..., 0].mean() < 1 and 0 < points[..., 1].mean() < 1


@pytest.fixture(scope="module")
def mouths(mouth_variables, clip):
    """What the network finds in the whole clip at once."""
    network = LandmarkNet(**MOUTH_FIELDS)
    boxes = jnp.broadcast_to(clip.sync_box, (len(clip.frames), 4))
    faces = lower_face(to_float(jnp.asarray(clip.frames)), boxes, 16)
    return jax.jit(network.apply)(mouth_variables, faces)


@pytest.mark.parametrize("frames", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_blocks_do_not_show(judges, mouths, clip, frames):
    video = clip.frames[:frames]
    found = judges.mouth(video, clip.sync_box)
    assert found.shape == (frames, 20, 2)
    np.testing.assert_allclose(found, mouths[:frames], atol=1e-5)
    other = np.roll(video, 1, 2)
    figures = judging._in_blocks(psnr, video, other)
    np.testing.assert_allclose(figures, psnr(jnp.asarray(video), jnp.asarray(other)), rtol=1e-6)
    assert judges.emotion(video) in range(len(EMOTIONS))


def test_clips_of_unknown_emotion_are_not_judged_by_it(judges, clip):
    figures = judge_video(judges, clip._replace(emotion=-1), clip.frames)
    assert set(figures) - {"movement_in_silence"} == FIGURES - {"emotion_accuracy"}


def test_the_emotion_figure_is_that_the_judge_agrees(judges, clip):
    seen = judges.emotion(clip.frames)
    agreeing = judge_video(judges, clip._replace(emotion=seen), clip.frames)
    differing = judge_video(judges, clip._replace(emotion=(seen + 1) % 8), clip.frames)
    assert (agreeing["emotion_accuracy"], differing["emotion_accuracy"]) == (1.0, 0.0)


def test_means_are_over_the_clips_that_have_the_figure():
    rows = [{"psnr": 20.0}, {"psnr": 30.0, "emotion_accuracy": 1.0}]
    assert mean_figures(rows) == {"psnr": 25.0, "emotion_accuracy": 1.0}


def test_the_table_is_markdown():
    rows = {"generated": {"psnr": 20.0, "mouth_correlation": 0.5}, "truth": {"psnr": 100.0}}
    assert markdown_table(rows).splitlines() == [
        "| | psnr | mouth correlation |",
        "|---|---|---|",
        "| generated | 20.000 | 0.500 |",
        "| truth | 100.000 |  |",
    ]


def test_the_command_writes_a_report(weights, judges_folder, data, tmp_path, capsys):
    arguments = {"checkpoint": weights, "data": data, "judges": judges_folder, "limit": 1}
    arguments["out"] = tmp_path / "report.json"
    main([f"--{name}={value}" for name, value in arguments.items()])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["clips"] == 1
    assert capsys.readouterr().out == markdown_table(report["rows"]) + "\n"


def test_the_command_refuses_in_a_sentence(weights, judges_folder, data, tmp_path, capsys):
    good = {"checkpoint": weights, "data": data, "judges": judges_folder, "split": "test"}
    good["out"] = tmp_path / "report.json"
    for wrong, what in (
        ({"checkpoint": tmp_path / "missing"}, "there is no folder"),
        ({"judges": tmp_path / "missing"}, "no weights for landmark_net"),
        ({"data": tmp_path / "missing"}, "missing"),
        ({"split": "validation"}, "validation"),
        ({"limit": 0}, "nothing to judge"),
        ({"out": tmp_path / "missing" / "report.json", "limit": 1}, "missing"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([f"--{name}={value}" for name, value in (good | wrong).items()])
        printed = capsys.readouterr()
        assert caught.value.code == 2 and not printed.out
        (sentence,) = printed.err.splitlines()
        assert sentence.startswith("error: ") and what in sentence
        assert not (tmp_path / "report.json").exists()
