"""The linear path of a trained model: a regression of known truth, and the weights it becomes."""

import json

import jax
import numpy as np
import pytest

from configs.synthetic import get_config
from data_pipeline.prepare import prepare_synthetic
from reta_jax.checkpoint import Checkpoints
from reta_jax.linear_path import Heard, fit, main
from reta_jax.models.morphable import builtin_morphable
from reta_jax.models.reta import build_reta
from reta_jax.pretrained.reta import expected_params, load_reta, save_reta
from reta_jax.renderer import Renderer
from reta_jax.state import TrainState
from reta_jax.weights import config_to_dict
from tests.tiny import save_tiny_model


def heard(rng, slope, direction, frames=400):
    features = 3 + 2 * rng.normal(size=(frames, 3, 4))
    gap = np.tensordot(features - 3, slope, 2)
    gap -= gap.mean()
    codes = gap[:, None] * direction + 0.1 * rng.normal(size=(frames, 2))
    return Heard(np.float32(features), np.float32(codes), gap)


def test_the_path_puts_the_opening_out_where_the_codes_go_with_it():
    rng = np.random.default_rng(0)
    slope, direction = rng.normal(size=(3, 4)), np.array([2.0, -1.0])
    clips = [heard(rng, slope, direction) for _ in range(5)]
    wrong = heard(rng, -slope, direction)  # counts nothing
    path = fit(iter([None, *clips, wrong]), np.array([1.0, 1, 2, 1, 1, 3, 0]))
    new = heard(rng, slope, direction)
    put_out = np.tensordot(new.features, path.kernel, 2) + path.bias
    expected = new.opening[:, None] * direction
    for found, truth in zip(put_out.T, expected.T, strict=True):
        assert np.corrcoef(found, truth)[0, 1] > 0.99
    share = np.linalg.norm(put_out) / np.linalg.norm(expected)
    assert share == pytest.approx(1 / 7, abs=0.02)  # a variance of 1 beside a penalty of 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(folder, identities=3, clips_per_identity=1, seconds=1, size=32, workers=1)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The tiny model without a linear path."""
    folder = tmp_path_factory.mktemp("plain")
    model = load_reta(save_tiny_model(folder / "with"))
    config = get_config("smoke")
    params = {
        name: {k: x for k, x in part.items() if k != "linear"}
        for name, part in model.params.items()
    }
    assert build_reta(config.model).emotion_student.linear == 0
    save_reta(folder / "without", params, config_to_dict(config), [])
    return folder / "without"


def run(plain, data, out, *more):
    main(["--checkpoint", str(plain), "--data", str(data), "--out", str(out), *more])


def test_a_model_is_given_its_path_once(plain, data, tmp_path, capsys):
    run(plain, data, tmp_path / "heard", "--span", "3")
    assert "weights in" in capsys.readouterr().out
    assert json.loads((tmp_path / "heard/config.json").read_text())["model"]["tcn"]["linear"] == 3
    portrait, voice = np.full((32, 32, 3), 128, np.uint8), np.zeros(6400, np.float32)
    voice[::7] = 0.3
    before, after = (
        Renderer.from_pretrained(folder).render(portrait, voice)
        for folder in (plain, tmp_path / "heard")
    )
    assert before.shape == after.shape and (before != after).any()
    with pytest.raises(SystemExit):
        run(tmp_path / "heard", data, tmp_path / "again")
    told = capsys.readouterr().err
    assert "a linear path already" in told and "with --config.model.tcn.linear=0" in told


def test_who_is_behind_a_run_is_behind_its_path(plain, data, tmp_path):
    """Of a workdir: its records, and the people whom the regression heard."""
    model, run_folder = load_reta(plain), tmp_path / "run"
    ema = jax.device_get(model.params)
    state = TrainState(jax.numpy.int32(1), {}, {}, {}, {}, ema)
    checkpoints = Checkpoints(run_folder, model.config)
    checkpoints.save(state, {"global_next_index": 0})
    checkpoints.close()
    records = [{"source": "edtalk", "licence": "Apache-2.0", "commercial_use": True}]
    (run_folder / "provenance.json").write_text(json.dumps(records))
    run(run_folder, data, tmp_path / "heard", "--span", "3")
    known = json.loads((tmp_path / "heard/config.json").read_text())["provenance"]
    people = [f"synthetic_0_0000{i}" for i in range(2)]
    assert known == [*records, {"source": str(data), "people": people}]
    assert "weights of edtalk: Apache-2.0" in (tmp_path / "heard/README.md").read_text()


def test_the_weights_that_are_read_are_not_replaced(plain, data, capsys):
    with pytest.raises(SystemExit):
        run(plain, data, plain)
    assert f"{plain} lies in {plain}, which is replaced" in capsys.readouterr().err
    assert "linear" not in load_reta(plain).params["emotion_student"]


def test_a_decoder_without_time_has_no_path(plain, data, tmp_path):
    config = load_reta(plain).config
    config.model.geometry = "framewise"
    expected = expected_params(build_reta(config.model), builtin_morphable(64), config.model.size)
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), expected)
    save_reta(tmp_path / "framewise", params, config_to_dict(config), [])
    run(tmp_path / "framewise", data, tmp_path / "heard", "--span", "3")
    heard = load_reta(tmp_path / "heard").params
    assert "linear" in heard["emotion_student"] and "linear" not in heard["motion_decoder"]


def test_an_emotion_of_many_frames_has_no_mouth(plain, data, tmp_path, capsys):
    model = load_reta(plain)
    model.config.model.emotion_span = 5
    save_reta(tmp_path / "calm", model.params, config_to_dict(model.config), [])
    with pytest.raises(SystemExit):
        run(tmp_path / "calm", data, tmp_path / "out")
    assert "f_E is a mean of 5 frames" in capsys.readouterr().err


def test_with_no_strength_nothing_changes_but_the_scale(plain, data, tmp_path):
    run(plain, data, tmp_path / "same", "--span", "3", "--strength", "0", "--scale", "1")
    old, new = load_reta(plain).params, load_reta(tmp_path / "same").params
    np.testing.assert_allclose(
        new["emotion_student"]["head"]["bias"], old["emotion_student"]["head"]["bias"], atol=1e-6
    )
    for part in ("emotion_student", "motion_decoder"):
        assert not new[part]["linear"]["kernel"].any()


@pytest.mark.parametrize("span", ["4", "7"])
def test_a_span_that_the_window_has_not_is_refused(plain, data, tmp_path, capsys, span):
    with pytest.raises(SystemExit):
        run(plain, data, tmp_path / "out", "--span", span)
    assert "give an odd one that looks at most 2 ahead" in capsys.readouterr().err
