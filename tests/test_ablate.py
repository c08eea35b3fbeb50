"""The ablation study: rows that differ in one thing, verdicts, and going on after a stop."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import ablations
from data_pipeline.errors import InputError
from reta_jax import ablate
from reta_jax.ablate import Study
from reta_jax.claims import FIGURES, PAPER
from reta_jax.metrics.judges import Judge
from reta_jax.models.morphable import builtin_morphable
from reta_jax.pretrained.reta import expected_params
from reta_jax.state import build_networks
from reta_jax.weights import config_to_dict, flatten, load_weights, nest, save_weights

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def fields(row):
    return flatdict(ablations.get_config(row).to_dict()) | {"name": None}


def flatdict(values, prefix=""):
    flat = {}
    for name, value in values.items():
        deeper = isinstance(value, dict)
        flat |= flatdict(value, f"{prefix}{name}.") if deeper else {prefix + name: value}
    return flat


@pytest.mark.parametrize("row", list(PAPER))
def test_a_row_differs_from_the_full_model_in_its_fields_alone(row):
    full, changed = fields("full"), fields(row)
    differing = {name for name in full if full[name] != changed[name]}
    expected = set(ablations.ROWS.get(row, ()))
    if row in ablations.WEIGHTS:
        pairs = zip(("motion", "l1", "emotion"), ablations.WEIGHTS[row], (1, 2, 2), strict=True)
        expected = {f"loss.{name}" for name, weight, full_weight in pairs if weight != full_weight}
    assert differing == expected


def test_a_row_that_is_none_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no variant 'smoke': name one of full, .*weights_1_2"):
        ablations.get_config("smoke")


def test_the_full_row_has_every_loss_of_the_paper_but_the_adversarial():
    loss = ablations.get_config().loss
    off = {name for name, weight in loss.to_dict().items() if not weight}
    assert off == {"adversarial", "mouth", "lips", "lips_cross"}  # the mouth's are not the paper's
    assert ablations.get_config().train.eds


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study whose runs cost nothing; `trained` lists them, `judged` has one for each look."""
    trained, judged = [], []

    def run(config, folder):
        trained.append((config.name, config.train.seed, config.train.steps))
        (folder / "weights").mkdir(parents=True)
        (folder / "weights" / "config.json").write_text(json.dumps(config_to_dict(config)))
        return True

    def evaluate(renderer, judges, data, protocol, cache, config):
        assert protocol == ablate.PROTOCOL and config["train"]["steps"] == 7
        draw = np.random.default_rng(len(trained))
        figures = {name: 0.5 + 0.01 * draw.random() for name in FIGURES.values()}
        rows = {"generated": figures, "still portrait": figures | {"psnr": 20.0}}
        judged.append(cache)
        return {
            "rows": rows,
            "sha256": {"data": ablate.digest(*ablate.clip_digests(data, "test", None))},
            "version": ablate.VERSION,
            "protocol_sha256": protocol.sha256,
            "objections": ["the judge knows them"],
        }

    monkeypatch.setattr(ablate, "prepare_synthetic", lambda *arguments, **options: None)
    monkeypatch.setattr(ablate, "train_sync_expert", lambda study: True)
    monkeypatch.setattr(ablate, "prepare_start", lambda study: True)
    monkeypatch.setattr(ablate, "load_judges", lambda folder: ablate.Judges())
    monkeypatch.setattr(ablate, "clip_digests", lambda data, split, count: [data.name])
    monkeypatch.setattr(ablate.Renderer, "from_pretrained", lambda folder: None)
    monkeypatch.setattr(ablate, "evaluate", evaluate)
    monkeypatch.setattr(ablate.train, "run", run)
    return Study(tmp_path, tmp_path / "data", 32, 7), trained, judged


@pytest.mark.parametrize("score", [None, 0.9])
def test_the_sync_expert_is_the_studys_own(tmp_path, monkeypatch, score):
    """A signal that stopped its training, of which there is no score, stops the study."""
    made = []
    monkeypatch.setattr(ablate.train_expert, "run", lambda *of: made.append(of) or score)
    study = Study(tmp_path, tmp_path / "data", 32, 7)
    assert ablate.train_sync_expert(study) == (score is not None)
    ((config, folder),) = made
    assert (config.dirs, config.steps) == ((str(study.data),), ablate.SYNC_STEPS)
    assert config.fields == ablations.get_config().experts.sync.fields
    assert folder == tmp_path / "sync_expert"
    save_weights(folder, {"x": np.zeros(1)}, {"kind": "sync_expert"})
    assert ablate.train_sync_expert(study) and len(made) == 1


def test_equal_budgets_and_tables(study):
    study, trained, _ = study
    assert ablate.ablate(study, ["full", "no_gpl"], range(2))
    assert trained == [
        ("ablation_full", 0, 7), ("ablation_no_gpl", 0, 7),
        ("ablation_full", 1, 7), ("ablation_no_gpl", 1, 7),
    ]  # fmt: skip
    written = json.loads((study.workdir / "ablation.json").read_text())
    assert {claim["row"] for claim in written["claims"]} == {"no_gpl"}
    assert 50 <= written["figures"]["full"]["0"]["ACC_e"] <= 51
    text = (study.workdir / "ablation.md").read_text()
    assert "\n**The judge knows them.**\n" in text and written["objections"]
    assert "| A.1 w/o GPL | 2 |" in text and "(1.85)" in text and "| still portrait |" in text


def test_rows_and_seeds_are_added_to_the_tables(study):
    study, trained, _ = study
    assert ablate.ablate(study, ["full", "no_gpl"], range(2))
    assert ablate.ablate(study, ["no_tvm"], range(1))
    written = json.loads((study.workdir / "ablation.json").read_text())
    seeds = {row: list(runs) for row, runs in written["figures"].items()}
    assert seeds == {"full": ["0", "1"], "no_gpl": ["0", "1"], "no_tvm": ["0"]}
    assert {claim["row"] for claim in written["claims"]} == {"no_gpl"} and len(trained) == 5


def test_runs_are_judged_again_on_other_data_and_after_another_training(study):
    study, trained, judged = study
    assert ablate.ablate(study, ["full"], range(1))
    other = study._replace(data=study.workdir / "other")
    assert ablate.ablate(other, ["full"], range(1)) and len(judged) == 2
    shutil.rmtree(ablate.run_folder(study, "full", 0) / "weights")
    assert ablate.ablate(other, ["full"], range(1)) and len(judged) == 3 and len(trained) == 2


def test_a_stopped_study_goes_on_with_what_is_missing(study, monkeypatch):
    study, trained, _ = study
    run = ablate.train.run
    monkeypatch.setattr(ablate.train, "run", lambda c, f: len(trained) < 1 and run(c, f))
    assert not ablate.ablate(study, ["full", "no_gpl"], range(1))
    monkeypatch.setattr(ablate.train, "run", run)
    assert ablate.ablate(study, ["full", "no_gpl"], range(1))
    assert [name for name, *_ in trained] == ["ablation_full", "ablation_no_gpl"]


def test_figures_of_other_judges_or_definitions_are_made_again(study, monkeypatch):
    study, trained, judged = study
    for _ in range(2):
        assert ablate.ablate(study, ["full"], range(1))
    assert len(judged) == 1
    other = ablate.Judges(sync=Judge("syncnet_v2", "", lambda *_: None, sha256="new"))
    monkeypatch.setattr(ablate, "load_judges", lambda folder: other)
    assert ablate.ablate(study, ["full"], range(1)) and len(judged) == 2
    monkeypatch.setattr(ablate, "load_judges", lambda folder: ablate.Judges())
    monkeypatch.setattr(ablate, "VERSION", ablate.VERSION + 1)
    assert ablate.ablate(study, ["full"], range(1)) and len(judged) == 3
    monkeypatch.setattr(ablate, "PROTOCOL", dataclasses.replace(ablate.PROTOCOL, frames=9))
    assert ablate.ablate(study, ["full"], range(1)) and len(judged) == 4
    assert len(trained) == 1


def shapes_of(row, size):
    config = ablations.get_config(f"{row},{size}")
    networks = build_networks(config, 96)
    params = expected_params(networks.reta, builtin_morphable(), config.model.size)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
    return {name: leaf.shape for name, leaf in flatten(zeros).items()}


@pytest.mark.parametrize("size", [32, 64])
def test_rows_share_the_networks_that_the_paper_takes_from_others(tmp_path, monkeypatch, size):
    """E_I, G and E_A fit into every row as they are; at 64 px those of the shipped weights."""

    def run(config, folder):
        assert config.name == "ablation_base" and not config.init_from and size == 32
        shapes = shapes_of("base", size)
        zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        save_weights(folder / "weights", nest(zeros), {"kind": "reta"})
        return True

    monkeypatch.setattr(ablate.train, "run", run)
    study = Study(tmp_path, tmp_path / "data", size, 7)
    assert ablate.prepare_start(study)
    for row in ablations.ROWS:
        config = ablate.configure(study, row, 0)
        params, _ = load_weights(Path(config.init_from))
        start = flatten(params)
        parts = {name.split("/")[0] for name in start}
        assert parts == {"image_encoder", "generator", "audio_encoder"}
        assert np.any(start["generator/constant"]) == (size == 64)
        shapes = shapes_of(row, size)
        assert {n for n, leaf in start.items() if shapes.get(n) != leaf.shape} == set()


def test_runs_whose_config_lacks_younger_fields_go_on(study):
    study, trained, *_ = study
    ablate.ablate(study, ["full"], range(1))
    (file,) = study.workdir.glob("runs/*/weights/config.json")
    values = json.loads(file.read_text())
    del values["model"]["tcn"]["linear"], values["model"]["light"]
    file.write_text(json.dumps(values))
    ablate.ablate(study, ["full"], range(1))
    assert len(trained) == 1


def test_runs_of_another_budget_are_refused(study):
    study, *_ = study
    ablate.ablate(study, ["full"], range(1))
    with pytest.raises(InputError, match="other settings"):
        ablate.ablate(study._replace(steps=8), ["full"], range(1))


@pytest.mark.parametrize("folder", [ablate.BASE, ablate.SYNC_EXPERT])
def test_runs_of_another_start_or_teacher_are_refused(study, monkeypatch, folder):
    """Also unfinished ones; in tables they do not stand beside rows of what is there now."""
    study, *_ = study
    weights = study.workdir / folder / "params.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    ablate.ablate(study, ["full"], range(1))
    with monkeypatch.context() as stopped:
        stopped.setattr(ablate.train, "run", lambda config, folder: False)
        assert not ablate.ablate(study, ["full"], range(2))
    weights.write_bytes(b"another")
    for seed in range(2):
        with pytest.raises(InputError, match="base and sync_expert held was other"):
            ablate.train_row(study, "full", seed)
    for content, rows in ((b"another", {"no_tvm"}), (b"one", {"full"})):
        weights.write_bytes(content)
        ablate.ablate(study, sorted(rows), range(1))
        written = json.loads((study.workdir / "ablation.json").read_text())
        assert set(written["figures"]) == rows


@pytest.mark.parametrize(
    ("field", "value"),
    [("data.portrait", "identity"), ("experts.vgg.fields.channel_multiplier", 0.5)],
)
def test_runs_with_other_portraits_or_experts_are_refused(study, monkeypatch, field, value):
    study, *_ = study
    ablate.ablate(study, ["full"], range(1))
    configure = ablate.configure

    def other(*of_run):
        config = configure(*of_run)
        config.update_from_flattened_dict({field: value})
        return config

    monkeypatch.setattr(ablate, "configure", other)
    with pytest.raises(InputError, match="other settings"):
        ablate.ablate(study, ["full"], range(1))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--rows", "no_mouth"], "no row no_mouth"), (["--seeds", "0"], "1 or more")],
)
def test_bad_arguments_are_sentences(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as left:
        ablate.main(arguments)
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err
