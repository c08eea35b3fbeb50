"""Judges and teachers are trained, diagnosed on other people, and written with whom they know."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.judges.synthetic import TEACHERS, get_config
from data_pipeline.errors import InputError
from data_pipeline.prepare import prepare_synthetic
from reta_jax import train_expert
from reta_jax.commands import DivergenceError
from reta_jax.metrics.judges import load_judges
from reta_jax.train_expert import (
    TASKS,
    Outcome,
    attacked,
    check_apart,
    check_labelled,
    check_landmarks,
    diagnose,
    emotion_clips,
    emotion_frames,
    face_points,
    joined,
    mouth_points,
    run,
)
from reta_jax.weights import load_weights, save_weights

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SMALL = {
    "identity_net": {"size": 64, "width": 8, "features": 8},
    "face_net": {"size": 32, "width": 8, "landmarks": 68},
    "sync_expert": {"channel_multiplier": 1 / 16},
    "syncnet_v2": {"channel_multiplier": 1 / 32},
    "emotion_fan": {"width": 4, "classes": 8},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(folder, identities=3, clips_per_identity=2, seconds=1, size=32, workers=1)
    return folder


def small(task, data, out):
    config = get_config(task)
    config.unlock()
    config.fields = SMALL[task]
    config.dirs, config.apart_from, config.out = (str(data),), (), str(out)
    config.image_size, config.batch_size, config.steps = 32, 2, 2
    config.log_every, config.judge_batches = 1, 1
    return config


@pytest.mark.slow
@pytest.mark.parametrize("task", SMALL)
def test_a_judge_says_what_it_is_and_whom_it_knows(data, tmp_path, task, capsys):
    run(small(task, data, tmp_path), tmp_path / task)
    about = json.loads((tmp_path / task / "config.json").read_text())
    assert about["people"] == ["synthetic_0_00000", "synthetic_0_00001"]
    assert np.isfinite(about["held_out_score"]) or task == "face_net"  # two steps: flat eyes
    expected = {
        "identity_net": set(),  # of the one person that is left, nobody can be told apart
        "face_net": set(),
        "sync_expert": {
            "in_sync_accepted", "shifted_refused", "auc", "calibration_error", "held_out_loss",
            "loss_by_chance",
        },
        "syncnet_v2": {
            "auc", "own_moment_nearest", "own_moment_nearer", "calibration_error", "held_out_loss",
            "loss_by_chance",
        },
        "emotion_fan": {"accuracy", "mean_confidence", "calibration_error"},
    }  # fmt: skip
    assert set(about["diagnosis"]) - {"warning"} == expected[task]
    printed = capsys.readouterr().out
    lines = (tmp_path / task / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    for figures in map(json.loads, lines):
        loss, held_out = (f"loss {figures[name]:.4f}" for name in ("loss", "held_out_loss"))
        assert f"| {loss} score" in printed and f"held out: {held_out} score" in printed
    assert task.startswith("sync") == ("warning: the sync loss" in printed)
    if task == "emotion_fan":
        assert about["labels"][5] == "neutral"
    if task == "identity_net":
        judges = load_judges(identity=str(tmp_path / task))
        vectors = judges.identity.look(np.zeros((3, 40, 40, 3), np.uint8))
        assert vectors.shape == (3, 8) and judges.identity.people == tuple(about["people"])
    if task == "syncnet_v2":  # evaluate --syncnet takes it
        judges = load_judges(syncnet=tmp_path / task)
        found = judges.sync.look(
            np.zeros((9, 32, 32, 3), np.uint8), np.zeros(9 * 640, np.float32), None
        )
        assert np.isfinite(found.distances).all()
    assert load_weights(tmp_path / task)[1]["kind"] == get_config(task).kind


def test_a_judge_must_not_know_the_models_people(data, tmp_path, capsys):
    config = small("face_net", data, tmp_path)
    config.apart_from = (str(data),)
    with pytest.raises(InputError, match="2 people of the judge's data are those that the model"):
        run(config, tmp_path / "judge")
    capsys.readouterr()
    check_apart(["somebody"], [str(data), str(tmp_path / "nowhere")])
    (warning,) = capsys.readouterr().out.splitlines()
    assert f"{tmp_path / 'nowhere'} is not at hand" in warning and "not checked" in warning
    assert all(get_config(task).apart_from for task in TASKS if task not in TEACHERS)


class Constant:
    """A network whose logits are what they are, of frames or of clips."""

    def __init__(self, logits, of_clips):
        self.logits, self.of_clips = jnp.asarray(logits), of_clips

    def apply(self, variables, frames, **_):
        return (self.logits, None) if self.of_clips else (None, self.logits)


@pytest.mark.parametrize(("task", "of_clips"), [(emotion_frames, False), (emotion_clips, True)])
def test_clips_without_a_label_teach_nothing(task, of_clips):
    logits = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    labels = np.array([2, -1, 7])
    batch = {"frames": jnp.zeros((3, 1, 4, 4, 3)), "emotion": jnp.asarray(labels)}

    def outcome(logits):
        return task(Constant(logits, of_clips), {}, batch, False)

    found = outcome(logits)
    chance = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(found.loss, -(chance[0, 2] + chance[2, 7]) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.score, (logits.argmax(1) == labels)[[0, 2]].mean())
    gradient = jax.grad(lambda x: outcome(x).loss)(jnp.asarray(logits))
    assert not gradient[1].any() and gradient[0].any() and found.examples == 2

    outputs = np.asarray(logits), labels
    one = diagnose("emotion_fan", 0.0, Outcome(0, 0, None, outputs), 9)
    other = diagnose("emotion_fan", 0.0, Outcome(0, 0, None, tuple(x[::2] for x in outputs)), 9)
    assert one == other
    assert diagnose("emotion_fan", 0.0, Outcome(0, 0, None, (logits, np.full(3, -1))), 9) == {}


class Points:
    """A network whose points are what they are."""

    size = 16

    def __init__(self, points):
        self.points = jnp.asarray(points)

    def apply(self, variables, frames):
        return self.points


@pytest.mark.parametrize(("task", "count"), [(face_points, 68), (mouth_points, 20)])
def test_clips_without_landmarks_teach_nothing(task, count):
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(4, count, 2)).astype(np.float32)
    landmarks = rng.uniform(size=(4, 1, 68, 2)).astype(np.float32)
    landmarks[1] = 0
    batch = {
        "frames": jnp.zeros((4, 1, 32, 32, 3)),
        "sync_box": jnp.tile(jnp.asarray([[0.1, 0.2, 0.9, 0.8]]), (4, 1)),
        "landmarks": jnp.asarray(landmarks),
    }
    known = jax.tree.map(lambda x: x[np.array([0, 2, 3])], batch)
    every, some = (
        task(Points(x), {}, b, True) for x, b in ((points, batch), (points[[0, 2, 3]], known))
    )
    np.testing.assert_allclose([every.loss, every.score], [some.loss, some.score], rtol=1e-5)
    assert (every.examples, some.examples) == (3, 3)
    nobody = task(Points(points), {}, batch | {"landmarks": 0 * batch["landmarks"]}, True)
    assert (nobody.loss, nobody.score, nobody.examples) == (0, 0, 0)


def test_the_score_of_landmarks_is_pearsons_correlation():
    a, b = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    known = np.arange(9) % 3 > 0
    found = train_expert._correlation(jnp.asarray(a), jnp.asarray(b), jnp.asarray(known))
    np.testing.assert_allclose(found, np.corrcoef(a[known], b[known])[0, 1], rtol=1e-5)


@pytest.mark.parametrize("task", ["face_net", "landmark_net"])
def test_landmarks_that_nobody_found_are_refused(data, tmp_path, monkeypatch, task):
    check_landmarks([str(data)])
    blank = {"landmarks": np.zeros((25, 68, 2), np.float32)}
    monkeypatch.setattr(train_expert, "open_records", lambda *_: [blank, blank])
    config = small("face_net", data, tmp_path)
    config.task = task
    with pytest.raises(InputError, match="no clip in the train split of .* has landmarks: prepare"):
        run(config, tmp_path / "judge")


def test_a_judge_that_diverged_takes_no_place(data, tmp_path, monkeypatch):
    (tmp_path / "judge").mkdir()
    diverged = lambda network, variables, batch, train: Outcome(jnp.nan, jnp.zeros(()), {})
    monkeypatch.setitem(TASKS, "face_net", diverged)
    with pytest.raises(DivergenceError, match="the loss is nan and nan on held-out people at step"):
        run(small("face_net", data, tmp_path), tmp_path / "judge")
    assert not list((tmp_path / "judge").iterdir())


def test_weights_of_another_network_are_not_replaced(data, tmp_path, monkeypatch):
    """That is said before hours of training."""
    save_weights(tmp_path / "judge", {"x": np.zeros(1)}, {"kind": "emotion_fan"})
    monkeypatch.setattr(train_expert, "training_batches", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(InputError, match="holds emotion_fan weights, which landmark_net ones"):
        run(small("face_net", data, tmp_path), tmp_path / "judge")


def test_frames_are_attacked_within_their_radius():
    """Of a linear loss the worst frame is the gradient's way, as far as is allowed."""
    rng = np.random.default_rng(0)
    slope, frames = rng.normal(size=(2, 2, 3, 4, 4, 3)).astype(np.float32)
    slope[1, 2] = 0  # a frame that the loss does not see stays as it is
    found = attacked(lambda x: (x * slope).sum(), jnp.asarray(frames), jnp.float32(0.5))
    length = np.sqrt(np.square(slope).sum((2, 3, 4), keepdims=True))
    np.testing.assert_allclose(found - frames, 0.5 * slope / np.maximum(length, 1e-9), atol=1e-5)


def test_a_batch_counts_as_much_as_it_has_examples():
    found = joined([Outcome(1.0, 1.0, None, None, 3), Outcome(0.0, 0.0, None, None, 1)])
    assert (found.loss, found.score, found.examples) == (0.75, 0.75, 4)
    assert joined([Outcome(1.0, 0.0, None), Outcome(0.0, 0.0, None)]).loss == 0.5


def test_emotions_that_nobody_named_are_refused(data, tmp_path, monkeypatch):
    check_labelled([str(data)])
    monkeypatch.setattr(
        train_expert, "list_clips", lambda *_: [{"emotion": -1, "identity": "somebody"}]
    )
    with pytest.raises(InputError, match="no clip in the train split of .* has an emotion's label"):
        run(small("emotion_fan", data, tmp_path), tmp_path / "judge")


def test_a_stuck_sync_network_is_diagnosed():
    cosine, labels = np.full(8, 0.5), np.arange(8) < 4
    assert diagnose("identity_net", 0.1, Outcome(0, 0, None, (cosine, labels)), 9) == {"auc": 0.5}
    found = diagnose("sync_expert", 0.69, Outcome(0.693, 0.5, None, (cosine, labels)), 100)
    assert found["auc"] == 0.5 and "have not met" in found["warning"]
    cosine = np.r_[np.full(4, 0.9), np.full(4, 0.1)]
    found = diagnose("sync_expert", 0.1, Outcome(0.1, 1.0, None, (cosine, labels)), 100)
    assert found == {
        "in_sync_accepted": 1.0,
        "shifted_refused": 1.0,
        "auc": 1.0,
        "calibration_error": pytest.approx(0.1),  # always right and 0.9 sure
        "held_out_loss": 0.1,
        "loss_by_chance": pytest.approx(np.log(2)),
    }


def test_a_judge_of_moments_is_diagnosed_clip_by_clip():
    """Distances 0 and log 3 of eight moments: the near one's probability is 3 / 10."""
    own = np.tile(np.arange(8) == 0, 2)
    closeness = np.full(16, -np.log(3.0))
    closeness[[0, 9]] = 0.0  # the first clip is told right, the second is not
    found = diagnose("syncnet_v2", 1.0, Outcome(1.9, 0.5, None, (closeness, own)), 9)
    assert found["calibration_error"] == pytest.approx(abs(0.5 - 0.3))
    assert found["auc"] == pytest.approx((13 + 0.5 + 13 * 0.5) / 28)
    assert found["own_moment_nearest"] == 0.5
    assert found["own_moment_nearer"] == pytest.approx((7 + 6 / 2) / 14)  # the second: 6 are level
    assert (found["held_out_loss"], found["loss_by_chance"]) == (1.9, pytest.approx(np.log(8)))
    among_eight = diagnose("syncnet_v2", 2.08, Outcome(2.08, 0.1, None, (closeness, own)), 100)
    assert "chance is 2.08" in among_eight["warning"]
