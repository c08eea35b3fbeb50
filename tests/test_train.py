"""Training as a command: what a run leaves, how it goes on, and how it refuses."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.synthetic import get_config
from data_pipeline import prepare
from data_pipeline.errors import InputError
from data_pipeline.prepare import prepare_synthetic
from data_pipeline.records import iterate_sources, write_records
from reta_jax import parallel, train
from reta_jax.checkpoint import latest_ema
from reta_jax.models.morphable import builtin_morphable
from reta_jax.preview import Preview
from reta_jax.state import create_state
from reta_jax.step import GRADIENT_NORMS, generator_terms, leaf_norms, to_device_batch
from reta_jax.stopping import EXIT_INTERRUPTED
from reta_jax.weights import check_params, config_from_dict, flatten, load_weights
from tests.light import LIGHT, as_flags, light_config
from tests.recorder import Recorder
from tests.tiny import RESEARCH_ONLY, TOLD

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ROOT = Path(__file__).parents[1]
LIGHT_FLAGS = as_flags(LIGHT)
LOSSES = {"l1", "perceptual", "motion", "emotion_visual", "emotion_audio", "emotion_cross"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four people, the last of them held out, with two clips of a second each."""
    folder = tmp_path_factory.mktemp("data")
    made = prepare_synthetic(
        folder, identities=4, clips_per_identity=2, seconds=1.0, size=32, workers=1
    )
    assert made.clips == 8
    return folder


def smoke_config(data, **changes):
    config = get_config("smoke")
    config.data.dirs = (str(data),)
    config.train.update(changes)
    return config


def command(*arguments, cwd):
    """A command of this repository, ready to run in any folder."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    line = [sys.executable, "-m", "reta_jax.train", *map(str, arguments)]
    return {"args": line, "cwd": cwd, "env": environment, "text": True}


def run_command(*arguments, cwd, timeout=500):
    return subprocess.run(**command(*arguments, cwd=cwd), capture_output=True, timeout=timeout)


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


# What a run leaves.


@pytest.mark.slow
def test_smoke_command_leaves_weights_metrics_pictures_and_checkpoints(data, tmp_path):
    done = run_command(
        f"--config={ROOT}/configs/synthetic.py:smoke",
        f"--config.data.dirs=('{data}',)",
        f"--workdir={tmp_path}/run",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    workdir = tmp_path / "run"
    assert f"done: weights in {workdir / 'weights'}" in done.stdout

    first, second = rows(workdir)
    assert (first["step"], second["step"]) == (1, 2)
    assert set(first) >= LOSSES | {"adversarial", "discriminator", "r1", "total", "grad_norm"}
    assert first.keys() <= second.keys()
    assert first["r1"] == 0 < second["r1"], "steps that touch every loss"
    assert set(second) >= {"clips_per_second", "data_wait_share"}
    for row in (first, second):
        assert 0 < row["held_out/psnr"] < 100 and abs(row["held_out/ssim"]) <= 1
    assert all(np.isfinite(value) for row in (first, second) for value in row.values())

    assert saved_steps(workdir) == [1, 2]
    (board,) = (workdir / "tensorboard").iterdir()
    assert b"preview" in board.read_bytes() and board.stat().st_size > 10_000

    params, values = load_weights(workdir / "weights")
    config = config_from_dict(values)
    assert config.data.dirs == (str(data),) and config.model.size == 32
    setup = train.build_networks(config, config.experts.teacher.fields.width)
    morphable = builtin_morphable(config.model.uv_resolution)
    abstract = jax.eval_shape(
        functools.partial(create_state, config, setup), morphable, jax.random.key(0)
    )
    check_params(params, abstract.params["reta"], "the run's weights")
    ema, _ = latest_ema(workdir)
    for name, value in flatten(params).items():
        np.testing.assert_array_equal(value, flatten(ema)[name])


@pytest.mark.slow
def test_hdtf_smoke_runs_in_any_folder_on_data_of_its_own(tmp_path):
    """And its discriminator starts when it is told to."""
    settings = {
        "data.synthetic_identities": 2, "loss.adversarial": 1.0, "train.adversarial_start": 1,
        "train.steps": 2, "train.preview_every": 3, "train.save_every": 3,
    }  # fmt: skip
    done = run_command(
        f"--config={ROOT}/configs/hdtf.py:smoke", *as_flags(LIGHT | settings), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "data/smoke/records").is_dir()
    first, second = rows(tmp_path / "runs/hdtf_smoke")
    assert second.keys() - first.keys() >= {"adversarial", "discriminator", "r1"}
    assert (tmp_path / "runs/hdtf_smoke/weights/params.safetensors").is_file()


# How it goes on.


def latest_state(workdir):
    """Every number of the latest checkpoint."""
    from orbax.checkpoint import v1 as ocp

    with ocp.training.Checkpointer(workdir.absolute() / "checkpoints") as checkpointer:
        loaded = checkpointer.load_checkpointables(None, {"state": None})
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(loaded["state"])
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_two_steps_and_two_more_are_four(data, tmp_path, drawn):
    config = functools.partial(light_config, data, preview_every=100, save_every=100)
    straight = drawn(config(steps=4), tmp_path / "straight")
    first = drawn(config(steps=2), tmp_path / "halves")
    assert saved_steps(tmp_path / "halves") == [2]
    second = drawn(config(steps=4), tmp_path / "halves")
    assert [len(straight), len(first), len(second)] == [4, 2, 2]
    for ours, theirs in zip([*first, *second], straight, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert not np.array_equal(straight[1]["audio"], straight[2]["audio"])
    ours, theirs = latest_state(tmp_path / "halves"), latest_state(tmp_path / "straight")
    assert ours.keys() == theirs.keys() and len(ours) > 500
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert [row["step"] for row in rows(tmp_path / "halves")] == [1, 2, 3, 4]
    ours, theirs = (load_weights(tmp_path / name / "weights")[0] for name in ("halves", "straight"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_record_that_several_weights_have_is_kept_and_told_once(tmp_path, capsys):
    records = [RESEARCH_ONLY, RESEARCH_ONLY, {"source": "data", "people": []}]
    for _ in range(2):
        assert train.keep_provenance(tmp_path, records) == records[1:]
        assert capsys.readouterr().err == f"{TOLD}\n"


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(data, tmp_path):
    arguments = [
        f"--config={ROOT}/configs/synthetic.py:smoke",
        f"--config.data.dirs=('{data}',)",
        *LIGHT_FLAGS,
        "--config.train.preview_every=1000000",
        "--config.train.save_every=1000000",
        f"--workdir={tmp_path}/run",
    ]
    endless = [*arguments, "--config.train.steps=1000000"]
    with subprocess.Popen(
        **command(*endless, cwd=tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        for line in running.stdout:
            if line.startswith("step 2/"):
                running.send_signal(signal.SIGTERM)
                break
        _, errors = running.communicate(timeout=300)
    assert running.returncode == EXIT_INTERRUPTED == 75, errors[-3000:]
    assert "SIGTERM: saving after this step" in errors
    (stopped_at,) = saved_steps(tmp_path / "run")
    assert stopped_at >= 2
    assert not (tmp_path / "run/weights").exists()
    assert rows(tmp_path / "run")[-1]["step"] == stopped_at

    done = run_command(*arguments, f"--config.train.steps={stopped_at + 1}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"going on from step {stopped_at} of" in done.stdout
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, stopped_at + 2))
    assert (tmp_path / "run/weights/params.safetensors").is_file()


class Interrupted(Recorder):
    """Batches, with the second of which comes Ctrl-C."""

    def __next__(self):
        batch = super().__next__()
        if len(self.drawn) == 2:
            signal.raise_signal(signal.SIGINT)
        return batch


@contextlib.contextmanager
def lost_terminal():
    """Nobody reads what is printed inside."""
    reader, writer = os.pipe()
    os.close(reader)
    with (
        open(writer, "w") as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        yield


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_ctrl_c_that_ends_tee_too_loses_no_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "make_step", broken_at(1_000))
    original = train.open_batches
    monkeypatch.setattr(train, "open_batches", lambda config: Interrupted(original(config)))
    config = light_config(data, steps=6, save_every=100, preview_every=100, log_every=1)
    with lost_terminal():
        assert not train.run(config, tmp_path / "run")
    assert saved_steps(tmp_path / "run") == [2]


# What it tells of itself.


def broken_at(broken_step):
    """In place of make_step: nothing is learned, and one step spoils everything."""

    def make_step(config, networks, adversarial):
        def step(state, constants, batch):
            nan = jnp.where(state.step == broken_step - 1, jnp.nan, 0.0)
            params = jax.tree.map(lambda x: x + nan, state.params)
            metrics = {"l1": jnp.ones(()), "sync": 1.0 + nan, "total": 2.0 + nan}
            norms = {"params": leaf_norms(params).at[1:].set(1.0)}
            new = state.replace(step=state.step + 1, params=params)
            return new, metrics | {GRADIENT_NORMS: norms}

        return step

    return make_step


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("log_every", [1, 4])
def test_a_loss_that_is_no_number_is_named_and_never_saved(data, tmp_path, monkeypatch, log_every):
    """The third of six steps diverges; what is saved before it stays the latest checkpoint."""
    monkeypatch.setattr(train, "make_step", broken_at(3))
    recorders = []

    def open_batches(config):
        recorders.append(Recorder(original(config)))
        return recorders[0]

    original = train.open_batches
    monkeypatch.setattr(train, "open_batches", open_batches)
    save_every = 2 if log_every == 4 else 1
    config = light_config(
        data, steps=6, save_every=save_every, preview_every=100, log_every=log_every
    )
    run = tmp_path / "run"
    with pytest.raises(train.DivergenceError) as raised:
        train.run(config, run)
    message = str(raised.value)
    assert message.startswith("sync, total is not finite at step 3; ") and str(run) in message
    assert "; the last checkpoint, of step 2, is good: lower train.learning_rate" in message
    assert saved_steps(run)[-1] == 2
    assert all(np.isfinite(value).all() for value in latest_state(run).values())
    assert not (run / "weights").exists()

    folder = run / "nan_step_3"
    found = json.loads((folder / "report.json").read_text())
    assert found["losses"] == {"l1": 1.0, "sync": "nan", "total": "nan"}
    assert found["not_finite"]["losses"] == ["sync", "total"]
    (first, *_) = found["gradient_norms"]
    assert found["not_finite"]["gradients"] == [first] and first.startswith("params/projection/")
    assert first in found["not_finite"]["parameters"]
    batch, drawn = np.load(folder / "batch_0.npz"), recorders[0].drawn
    assert set(batch) == set(drawn[2])
    for name in batch:
        np.testing.assert_array_equal(batch[name], drawn[2][name])
    assert not np.array_equal(drawn[1]["audio"], drawn[2]["audio"])
    beat = json.loads((run / "heartbeat/0.json").read_text())
    assert (beat["step"], beat["state"]) == (2, "failed: DivergenceError")


def spoiled_at(broken_step):
    """In place of data_parallel: before a step, its parameters grow beyond all measure."""
    original = parallel.data_parallel

    def data_parallel(step, mesh):
        step = original(step, mesh)

        def spoil_and_step(state, *rest):
            if state.step == broken_step - 1:
                state = state.replace(params=jax.tree.map(lambda x: 1e30 * x, state.params))
            return step(state, *rest)

        return spoil_and_step

    return data_parallel


@pytest.mark.slow
def test_what_is_left_of_a_broken_step_breaks_again(data, tmp_path, monkeypatch):
    """The parameters of step 2 give no picture."""
    monkeypatch.setattr(parallel, "data_parallel", spoiled_at(2))
    config = light_config(data, steps=6, save_every=100, preview_every=100)
    with pytest.raises(
        train.DivergenceError, match="l1.* is not finite at step 2.* nothing was saved"
    ):
        train.run(config, tmp_path / "run")
    folder = tmp_path / "run/nan_step_2"
    found = json.loads((folder / "report.json").read_text())
    assert found["not_finite"]["parameters"] == []
    assert "l1" in found["not_finite"]["losses"] and found["not_finite"]["gradients"]

    weights, values = load_weights(folder / "weights")
    config = config_from_dict(values)
    networks = train.build_networks(config, config.model.style_dim)
    experts, _ = train.load_experts(config)
    constants = train.Constants(experts, builtin_morphable(config.model.uv_resolution))

    @jax.jit
    def l1(params, raw):
        terms, _ = generator_terms(
            config, networks, params, weights["d_params"], constants, to_device_batch(raw), False
        )
        return terms["l1"]

    batch = dict(np.load(folder / "batch_0.npz"))
    assert not np.isfinite(l1(weights["params"], batch))
    assert np.isfinite(l1(jax.tree.map(np.zeros_like, weights["params"]), batch))


def test_heartbeat_rates_and_a_trace_of_the_steps_that_are_asked_for(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "make_step", broken_at(100))
    config = light_config(data, steps=5, save_every=100, preview_every=100, log_every=2)
    run = tmp_path / "run"
    assert train.run(config, run, profile_steps=range(2, 4))
    beat = json.loads((run / "heartbeat/0.json").read_text())
    assert (beat["step"], beat["state"]) == (5, "left")
    (trace,) = (run / "profile/0").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1_000
    found = rows(run)
    assert [row["step"] for row in found] == [1, 2, 4, 5]
    assert "step_seconds" not in found[0] and found[2]["step_seconds"] > 0
    assert not (run / "nan_step_5").exists()


@pytest.mark.parametrize("save_every", [3, 100])
def test_a_previews_figures_stand_in_the_one_line_of_its_step(
    data, tmp_path, monkeypatch, save_every
):
    """At step 3, which would not be logged; whoever keeps a line a step keeps its losses."""
    figures = {"held_out/psnr": 21.5, "held_out/ssim": 0.75}
    shown = Preview(np.zeros((2, 2, 3), np.uint8), figures)
    monkeypatch.setattr(train, "make_step", broken_at(100))
    monkeypatch.setattr(train, "make_preview", lambda *_: lambda params: shown)
    config = light_config(data, steps=4, save_every=save_every, preview_every=3, log_every=100)
    run = tmp_path / "run"
    assert train.run(config, run)
    first, third, fourth = rows(run)
    assert [row["step"] for row in (first, third, fourth)] == [1, 3, 4]
    assert third.items() >= {**figures, "total": 2.0, "l1": 1.0}.items()
    assert not (first.keys() | fourth.keys()) & figures.keys()
    (board,) = (run / "tensorboard").iterdir()
    assert b"held_out/psnr" in board.read_bytes()


def test_where_nobody_is_kept_apart_there_are_no_previews(tmp_path, monkeypatch, capsys):
    """One person's clips are all for training: the run says so, once, and ends as others do."""
    prepare_synthetic(
        tmp_path / "one", identities=1, clips_per_identity=2, seconds=1.0, size=32, workers=1
    )
    monkeypatch.setattr(train, "make_step", broken_at(100))
    config = light_config(tmp_path / "one", steps=2, save_every=100, preview_every=1)
    run = tmp_path / "run"
    assert train.run(config, run)
    assert capsys.readouterr().out.count(f"no previews: {tmp_path / 'one'} has no test split") == 1
    assert [row["step"] for row in rows(run)] == [1, 2]
    assert not any(name.startswith("held_out/") for row in rows(run) for name in row)


# How it refuses.

SYNTHETIC = f"--config={ROOT}/configs/synthetic.py:smoke"
BAD_ARGUMENTS = {
    "no_config": ([], "no experiment given: say --config"),
    "field": (
        [SYNTHETIC, "--config.train.stepz=3"],
        "there is no field config.train.stepz: did you mean 'steps'?",
    ),
    "section": ([SYNTHETIC, "--config.xqzw.steps=3"], "there is no field config.xqzw"),
    "type": ([SYNTHETIC, "--config.train.steps=many"], "flag --config.train.steps=many: invalid"),
    "index": ([SYNTHETIC, "--config.data.dirs[0]=a"], "0 is not a valid index"),
    "config_file": (
        ["--config=configs/nowhere.py"],
        "error: cannot load --config: No such file or directory: 'configs/nowhere.py'",
    ),
    "variant": (
        [f"--config={ROOT}/configs/ablations.py:smoke"],
        "configs/ablations.py:smoke: there is no variant 'smoke': name one of full, no_gpl",
    ),
    "flag": ([SYNTHETIC, "--stepz=3"], "stepz"),
    "argument": ([SYNTHETIC, "more"], "unexpected argument 'more'"),
    "steps": ([SYNTHETIC, "--profile_steps=15:10"], "--profile_steps is '15:10': give the first"),
}
# The command line of every child; all children share what takes long, the imports.
FORKS = """
import json, os, sys
from reta_jax import train
from reta_jax.commands import run_with_flags

for name, arguments in json.load(sys.stdin).items():
    if not os.fork():
        os.dup2(os.open(f"{name}.txt", os.O_CREAT | os.O_WRONLY), 2)
        sys.argv = ["train.py", *arguments]
        run_with_flags(train.main)
    print(name, os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Exit code and standard error of every bad command line."""
    folder = tmp_path_factory.mktemp("refusals")
    call = command(cwd=folder) | {"args": [sys.executable, "-W", "ignore", "-c", FORKS]}
    given = json.dumps({name: arguments for name, (arguments, _) in BAD_ARGUMENTS.items()})
    done = subprocess.run(**call, input=given, capture_output=True, timeout=500)
    codes = dict(line.split() for line in done.stdout.splitlines())
    assert codes.keys() == BAD_ARGUMENTS.keys(), done.stderr[-3000:]
    return {name: (int(codes[name]), (folder / f"{name}.txt").read_text()) for name in codes}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_are_one_sentence_and_exit_code_2(refusals, name):
    code, errors = refusals[name]
    assert code == 2, errors
    (line,) = errors.splitlines()
    assert line.startswith("error: ") and BAD_ARGUMENTS[name][1] in line


def test_a_damaged_first_picture_is_named_with_its_clip(data, tmp_path):
    clip = next(iterate_sources(data))
    load = lambda: clip.load() | {"frames": [b"no jpeg", b""]}
    write_records([clip._replace(load=load)], tmp_path, lambda _: "train")
    told = rf"clip {clip.clip} of {tmp_path} \(record 0 of .*\): a picture cannot be read: copy"
    with pytest.raises(InputError, match=told):
        train.check_pictures(light_config(tmp_path))


def test_pictures_that_would_be_magnified_are_refused(data, tmp_path):
    """The sentence says how there will be larger ones, which depends on who made them."""
    config = light_config(data)
    config.model.size = 64
    told = f"{data} has pictures of 32 px, which model.size=64 would magnify: "
    with pytest.raises(InputError, match=told + "move it away, and the same command makes it"):
        train.run(config, tmp_path / "run")
    config.data.synthetic_identities = 0
    with pytest.raises(InputError, match=told + "prepare another folder with --size 64"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_is_one_runs_at_a_time(data, tmp_path, monkeypatch):
    """A second run changes nothing; where the first was ended, even by SIGKILL, it begins."""
    monkeypatch.setattr(train, "train_in", lambda *_: True)
    run, config = tmp_path / "run", light_config(data)
    run.mkdir()
    script = "import sys; from pathlib import Path; from data_pipeline.lock import alone_in\n"
    script += "with alone_in(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    holding = [sys.executable, "-c", script, str(run)]
    with subprocess.Popen(holding, cwd=ROOT, stdin=-1, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"in\n"
        with pytest.raises(InputError, match=f"another run works in {run}: wait for it, end it"):
            train.run(config, run)
        assert os.listdir(run) == [".lock"]
        first.kill()
    assert train.run(config, run) and train.run(config, run)
    assert os.listdir(run) == []


def test_a_workdir_that_cannot_be_written_to_is_refused(data, tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match=f"cannot write to {tmp_path}: Is a directory"):
        train.run(light_config(data), tmp_path)


def test_small_models_make_the_clips_of_the_world_as_large_as_others(tmp_path, monkeypatch):
    """In one folder for all of them; but none before all weights are there."""
    made = []
    monkeypatch.setattr(prepare, "prepare_synthetic", lambda *a, size, **_: made.append(size))
    config = smoke_config(tmp_path / "none")
    for config.model.size in (32, 64, 128):
        train.make_synthetic_data(config)
    assert made == [64, 64, 128]
    config.experts.teacher.weights = config.init_from = "weights/nobody"
    told = "2 sets of weights are missing: .* emotion_vit from weights/nobody: .* for init_from: "
    with pytest.raises(InputError, match=told):
        train.run(config, tmp_path / "run")
    assert made == [64, 64, 128]


def test_missing_data_is_one_sentence_and_exit_code_2(tmp_path):
    nothing = "--config.data.synthetic_identities=0"
    done = run_command(SYNTHETIC, nothing, *LIGHT_FLAGS, cwd=tmp_path)
    assert done.returncode == 2, done.stderr[-3000:]
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: data/smoke has no prepared data set: make one with")


@pytest.mark.parametrize(
    ("section", "changes", "sentence"),
    [
        ("model", {"geometry": "flame"}, "model.geometry is 'flame'; use '3dmm'"),
        ("", {"init_from": "weights/nobody"}, "no weights for init_from: there is no folder"),
        ("", {"loss.emotion": 1.0, "experts.teacher.weights": "weights/nobody"},
         "no weights for emotion_vit from weights/nobody: there is no such folder"),
    ],
)  # fmt: skip
def test_bad_values_are_refused(data, tmp_path, section, changes, sentence):
    config = light_config(data)
    part = config[section] if section else config
    part.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=sentence):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run/weights").exists()
