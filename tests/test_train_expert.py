"""Judges and teachers are trained, diagnosed on other people, and written with whom they know."""

import json
import signal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from configs.judges.synthetic import TEACHERS, get_config
from data_pipeline.errors import InputError
from data_pipeline.lock import alone_in
from data_pipeline.prepare import prepare_synthetic
from reta_jax import train_expert
from reta_jax.commands import DivergenceError
from reta_jax.expert_tasks import TASKS, Outcome, _apply
from reta_jax.metrics.judges import load_judges
from reta_jax.train_expert import (
    check_apart,
    check_labelled,
    check_landmarks,
    diagnose,
    joined,
    run,
)
from reta_jax.weights import load_weights, save_weights
from tests.recorder import Recorder

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


@pytest.mark.parametrize("task", ["face_net", "landmark_net"])
def test_landmarks_that_nobody_found_are_refused(data, tmp_path, monkeypatch, task):
    check_landmarks([str(data)])
    blank = {"landmarks": np.zeros((25, 68, 2), np.float32)}
    monkeypatch.setattr(train_expert, "open_records", lambda *_: [blank, blank])
    config = small("face_net", data, tmp_path)
    config.task = task
    with pytest.raises(InputError, match="no clip in the train split of .* has landmarks: prepare"):
        run(config, tmp_path / "judge")


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


class Mean(nn.Module):
    """A network of one number of each frame, with batch statistics."""

    @nn.compact
    def __call__(self, frames, train=False):
        means = nn.BatchNorm(not train, momentum=0.9, name="norm")(frames.mean((1, 2)))
        return nn.Dense(1, name="dense")(means)[:, 0]


def mean_task(network, variables, batch, train):
    found, stats = _apply(network, variables, train, batch["frames"][:, 0])
    return Outcome(jnp.square(found - batch["emotion"]).mean(), found.mean(), stats)


@pytest.fixture
def mean(data, tmp_path, monkeypatch):
    """The config of an expert that is compiled in no time."""
    monkeypatch.setitem(TASKS, "mean", mean_task)
    monkeypatch.setitem(train_expert.KINDS, "mean", Mean)
    config = small("face_net", data, tmp_path / "mean")
    config.task, config.kind, config.fields = "mean", "mean", {}
    config.steps, config.log_every, config.learning_rate = 5, 2, 0.1
    return config


def test_a_judge_that_diverged_takes_no_place(mean, tmp_path, monkeypatch):
    (tmp_path / "judge").mkdir()
    diverged = lambda network, variables, batch, train: Outcome(jnp.nan, jnp.zeros(()), {})
    monkeypatch.setitem(TASKS, "mean", diverged)
    mean.log_every = 1
    with pytest.raises(DivergenceError, match="loss, held_out_loss is not finite at step 1: no w"):
        run(mean, tmp_path / "judge")
    assert entries(tmp_path) == ["judge"] and not entries(tmp_path / "judge")


@pytest.fixture
def events(monkeypatch):
    """{n: what happens when a run has drawn its training batch number n}."""
    found = {}

    class Eventful(Recorder):
        def __next__(self):
            batch = super().__next__()
            found.get(len(self.drawn), lambda: None)()
            return batch

    def batches(config, split):
        return Eventful(original(config, split)) if split == "train" else original(config, split)

    original = train_expert._batches
    monkeypatch.setattr(train_expert, "_batches", batches)
    return found


def ask_to_stop():
    signal.raise_signal(signal.SIGTERM)


def break_down():
    raise RuntimeError("the machine is gone")


@pytest.mark.parametrize("is_asked", [True, False], ids=["asked", "broken"])
def test_an_interrupted_training_goes_on_to_the_last_bit(
    mean, tmp_path, monkeypatch, events, capfd, is_asked
):
    """Weights, their figures and those of every line are as if it had not stopped."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    run(mean, whole)
    if is_asked:
        events[3] = ask_to_stop
        assert run(mean, parted) is None
    else:
        monkeypatch.setattr(train_expert, "SAVE_SECONDS", 0)
        events[4] = break_down
        with pytest.raises(RuntimeError, match="the machine is gone"):
            run(mean, parted)
    assert entries(tmp_path) == ["parted_in_training", "whole"]
    events.clear()
    capfd.readouterr()
    assert run(mean, parted) is not None
    assert capfd.readouterr().out.startswith("going on from step 3\nmean step 4/5")
    assert entries(tmp_path) == ["parted", "whole"]
    assert entries(parted) == ["config.json", "metrics.jsonl", "params.safetensors"]
    for name in entries(parted):
        assert (parted / name).read_bytes() == (whole / name).read_bytes()


def test_what_was_saved_is_of_its_own_expert_alone(mean, tmp_path, events, capfd):
    events[1] = ask_to_stop
    assert run(mean, tmp_path / "judge") is None
    saved = tmp_path / "judge_in_training"
    mean.seed = 1
    told = (
        f"holds a run of another model: seed was 3 and is 1 .*another --out, or take {saved} away"
    )
    with pytest.raises(InputError, match=told):
        run(mean, tmp_path / "judge")
    mean.seed, mean.learning_rate, mean.log_every = 3, 0.01, 1
    assert run(mean, tmp_path / "judge") is None
    expected = "going on with other settings: learning_rate was 0.1 and is 0.01\n"
    assert expected in capfd.readouterr().out
    with alone_in(saved), pytest.raises(InputError, match=f"another run works in {saved}"):
        run(mean, tmp_path / "judge")


def test_weights_that_are_no_numbers_are_not_saved(mean, tmp_path, monkeypatch, events):
    """Where no line is due, so that nobody has looked at the loss."""

    def broken(*arguments):
        found = mean_task(*arguments)
        return found._replace(loss=found.loss * jnp.nan)

    monkeypatch.setitem(TASKS, "mean", broken)
    events[1] = ask_to_stop
    with pytest.raises(DivergenceError, match="the sum of weights is not finite at step 1"):
        run(mean, tmp_path / "judge")
    assert not entries(tmp_path)


def test_batches_that_do_not_divide_are_refused(mean, tmp_path, monkeypatch):
    monkeypatch.setattr("jax.device_count", lambda: 3)
    with pytest.raises(InputError, match="batch_size=2 does not divide over 3 devices"):
        run(mean, tmp_path / "judge")


def test_weights_of_another_network_are_not_replaced(data, tmp_path, monkeypatch):
    """That is said before hours of training."""
    save_weights(tmp_path / "judge", {"x": np.zeros(1)}, {"kind": "emotion_fan"})
    monkeypatch.setattr(train_expert, "training_batches", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(InputError, match="holds emotion_fan weights, which landmark_net ones"):
        run(small("face_net", data, tmp_path), tmp_path / "judge")


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
