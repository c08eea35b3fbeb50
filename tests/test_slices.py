"""Training in slices: what travels, what comes back of it, and what is refused."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import corpus, hdtf
from data_pipeline.errors import InputError
from data_pipeline.prepare import prepare_synthetic
from reta_jax import slice_training, slices
from reta_jax.pretrained.reta import load_reta
from reta_jax.slices import layout_of
from reta_jax.state import create_state
from reta_jax.stopping import EXIT_INTERRUPTED
from reta_jax.weights import config_to_dict, save_weights
from tests.light import LIGHT, as_flags, light_config
from tests.tiny import aged

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ROOT = Path(__file__).parents[1]
# Without a decaying learning rate, which would depend on train.steps.
QUIET = {"decay": False, "adversarial_start": 100, "preview_every": 100, "save_every": 100}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four people, the last of them held out, with two clips of a second each."""
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(folder, identities=4, clips_per_identity=2, seconds=1.0, size=32, workers=1)
    return folder


def quiet_config(data="data/nowhere", **changes):
    return light_config(data, **QUIET | changes)


@functools.cache
def quiet_layout():
    """Of `quiet_config`, traced once."""
    return layout_of(quiet_config())


@functools.cache
def first_state():
    """The state of `quiet_config` at its start, drawn once."""
    config, networks, morphable, _ = quiet_layout()
    key = jax.random.key(config.train.seed, impl="rbg")
    return jax.jit(lambda key: create_state(config, networks, morphable, key))(key)


def trained(state, seed=0, discriminator=True):
    """As a state might be after some steps: every number is another one."""
    random = np.random.default_rng(seed)

    def change(path, leaf):
        name = slices._text(path[0])
        if name.startswith("d_") and not discriminator:
            return leaf
        if leaf.dtype == np.int32:
            return np.full(leaf.shape, 7, np.int32)
        noise = random.standard_normal(leaf.shape).astype(np.float32)
        if name in ("opt_state", "d_opt_state"):
            return noise**2 * np.float32(1e-6)
        return np.asarray(leaf) + (0.01 if name == "ema" else 0.1) * noise

    state = jax.tree_util.tree_map_with_path(change, state)
    near = jax.tree.map(
        lambda p, x: (p + np.float32(1e-3) * x).astype(np.float32), state.params["reta"], state.ema
    )
    return state.replace(ema=near)


def a_slice(layout, state, number=1, exact=False, **others):
    tensors, left_out = slices.pack_state(state, layout, exact)
    given = dict(
        number=number, step=int(state.step), data={"global_next_index": 14},
        config=config_to_dict(layout.config), provenance=[], left_out=left_out, tensors=tensors,
        metrics=b'{"step": 7, "l1": 0.5}\n', preview=b"png", preview_step=5,
    )  # fmt: skip
    return slices.Slice(**given | others)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# There and back.


def test_an_exact_slice_comes_back_bit_by_bit(tmp_path):
    state = trained(first_state())
    slices.write_slice(tmp_path / "slices", a_slice(quiet_layout(), state, exact=True))
    assert names(tmp_path / "slices") == [
        "manifest.json", "slice-001", "slice-001/metrics.jsonl", "slice-001/preview.png",
        "slice-001/state-00.safetensors",
    ]  # fmt: skip
    found = slices.read_slice(tmp_path / "slices")
    assert (found.number, found.step, found.data) == (1, 7, {"global_next_index": 14})
    assert (found.preview, found.preview_step) == (b"png", 5)
    ours = slices._named(slices.unpack_state(found, quiet_layout()))
    theirs = slices._named(state)
    assert list(ours) == list(theirs) and len(ours) > 500
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_slice_keeps_parameters_whole_and_rounds_what_is_beside_them(tmp_path):
    state = trained(first_state())
    slices.write_slice(tmp_path, a_slice(quiet_layout(), state))
    ours = slices._named(slices.unpack_state(slices.read_slice(tmp_path), quiet_layout()))
    theirs = slices._named(state)
    half_ulp = 2.0 ** (64 / 32767 / 2) - 1.0 + 1e-6  # of 32767 steps over 64 octaves
    for name, value in theirs.items():
        value, found = np.asarray(value), np.asarray(ours[name])
        if "params" in name.split("/")[0] or value.dtype == np.int32:
            np.testing.assert_array_equal(found, value, err_msg=name)
        elif name.startswith("ema/"):  # of the difference, and float32's own rounding
            away = np.abs(value - theirs[slices._averaged(name)])
            allowed = half_ulp * away + 1e-6 * np.abs(value)
            assert np.all(np.abs(found - value) <= allowed), name
        else:
            np.testing.assert_allclose(found, value, rtol=half_ulp, err_msg=name)


def test_a_discriminator_that_rests_does_not_travel_and_is_the_same_again(tmp_path):
    state = trained(first_state(), discriminator=False)
    new = a_slice(quiet_layout(), state)
    assert not any(name.startswith("d_") for name in new.tensors)
    ours = slices.unpack_state(new, quiet_layout())
    for name, value in slices._named(state).items():
        if name.startswith("d_"):
            np.testing.assert_array_equal(slices._named(ours)[name], value, err_msg=name)
    learned = a_slice(quiet_layout(), trained(first_state()))
    assert sum(name.startswith("d_params/") for name in learned.tensors) > 5


def frozen_config(tmp_path):
    """The smoke model with a frozen wav2vec 2.0, and the folder of its weights."""
    config = quiet_config()
    audio = config.model.audio_encoder
    audio.kind, audio.trainable, audio.weights = "wav2vec2", False, str(tmp_path / "voice")
    return config


def test_a_frozen_audio_encoder_does_not_travel_and_must_be_the_same_again(tmp_path):
    config = frozen_config(tmp_path)
    layout = layout_of(config)
    abstract = layout.state
    random = np.random.default_rng(0)
    state = trained(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract))
    voice = jax.tree.map(
        lambda x: random.standard_normal(x.shape).astype(np.float32),
        abstract.params["reta"]["audio_encoder"]["network"],
    )
    fields = {"kind": "wav2vec2", "fields": config.model.audio_encoder.wav2vec2.to_dict()}
    save_weights(tmp_path / "voice", voice, fields)
    state.params["reta"]["audio_encoder"]["network"] = voice
    state.ema["audio_encoder"]["network"] = voice

    new = a_slice(layout, state)
    assert new.left_out["frozen"] and not any("audio_encoder" in name for name in new.tensors)
    back = slices.unpack_state(new, layout)
    for tree in (back.params["reta"], back.ema):
        jax.tree.map(np.testing.assert_array_equal, tree["audio_encoder"]["network"], voice)

    other = jax.tree.map(lambda x: x + 1, voice)
    save_weights(tmp_path / "voice", other, fields)
    with pytest.raises(InputError, match=r"frozen weights of .*voice are not those that the slice"):
        slices.unpack_state(new, layout)
    packed = a_slice(layout, state)  # they are not the published ones now, so they travel
    assert packed.left_out["frozen"] is None
    back = slices.unpack_state(packed, layout)
    jax.tree.map(np.testing.assert_array_equal, back.ema["audio_encoder"]["network"], voice)


def test_packed_bytes_are_those_of_a_slice():
    layout = quiet_layout()._replace(config=quiet_config())
    layout.config.loss.adversarial = 1.0
    for exact in (False, True):
        tensors, _ = slices.pack_state(trained(first_state()), layout, exact)
        told = slices.packed_bytes(layout, exact)
        assert sum(told.values()) == sum(x.nbytes for x in tensors.values())
    layout.config.loss.adversarial = 0.0
    assert slices.packed_bytes(layout)["discriminator"] == 0


# Going on.


def pack_and_unpack(workdir, folder, layout, onward, exact):
    slices.write_slice(folder, slice_training.pack_slice(None, layout, workdir, exact))
    slice_training.unpack_slice(slices.read_slice(folder), layout, onward)


def steps(metrics):
    return [json.loads(line)["step"] for line in metrics.splitlines()]


def last_state(workdir, layout):
    tensors = slice_training.pack_slice(None, layout, workdir, exact=True).tensors
    assert int(tensors["step"]) == 8
    return tensors


def distance(ours, theirs, start, field):
    """How far two states are apart, by their size and by the way of training since `start`."""

    def norm(difference):
        arrays = [difference(name) for name in theirs if name.startswith(field)]
        return np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in arrays))

    apart = norm(lambda name: ours[name] - theirs[name])
    return apart / norm(theirs.get), apart / norm(lambda name: theirs[name] - start[name])


@pytest.mark.slow
def test_going_on_from_a_slice_follows_a_run_that_was_not_cut(data, tmp_path, drawn):
    """Four steps, a slice, four steps, against eight; exact slices are equal bit by bit."""
    config = functools.partial(quiet_config, data)
    layout = quiet_layout()._replace(config=config())
    straight = drawn(config(steps=8), tmp_path / "straight")
    first = drawn(config(steps=4), tmp_path / "first")
    start = slice_training.pack_slice(None, layout, tmp_path / "first", exact=True).tensors
    theirs = last_state(tmp_path / "straight", layout)
    for exact in (True, False):
        onward = tmp_path / f"onward-{exact}"
        pack_and_unpack(tmp_path / "first", tmp_path / f"s-{exact}", layout, onward, exact)
        second = drawn(config(steps=8), onward)
        for batch, expected in zip([*first, *second], straight, strict=True):
            jax.tree.map(np.testing.assert_array_equal, batch, expected)
        ours = last_state(onward, layout)
        if exact:
            assert ours.keys() == theirs.keys()
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
        else:
            for field in ("params/", "ema/"):
                relative, of_way = distance(ours, theirs, start, field)
                print(f"{field} apart by {relative:.1e}, {of_way:.1e} of the way since the slice")
                assert 0 < relative < 1e-3 and of_way < 0.01
        assert steps((onward / "metrics.jsonl").read_bytes()) == list(range(1, 9))


def command(*arguments, cwd):
    line = [sys.executable, f"{ROOT}/scripts/train_gpu.py", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, cwd=cwd, text=True, **pipes)


def arguments(data, *more):
    return [
        f"--config={ROOT}/configs/synthetic.py:smoke",
        "--slice=slices",
        f"--data={data}",
        *as_flags(LIGHT),
        "--config.train.decay=False",
        "--config.train.save_every=1000000",
        "--config.train.adversarial_start=100",
        *more,
    ]


@pytest.mark.slow
def test_the_command_goes_on_is_stopped_by_a_signal_and_exports(data, tmp_path):
    going = command(*arguments(data, "--config.train.steps=2", "--minutes=10"), cwd=tmp_path)
    output, errors = going.communicate(timeout=500)
    assert going.returncode == 0, errors[-3000:]
    assert "slices/slice-001: step 2 of 2" in output
    first = slices.read_slice(tmp_path / "slices")
    assert first.data == {"global_next_index": 4}
    assert first.preview.startswith(b"\x89PNG") and first.preview_step == 2

    endless = ("--config.train.steps=1000000", "--config.train.preview_every=1000000")
    going = command(
        *arguments(data, *endless, "--change=train.steps", "--minutes=10"),
        cwd=tmp_path,
    )
    for line in going.stdout:
        if line.startswith("step 4/"):
            going.send_signal(signal.SIGTERM)
            break
    _, errors = going.communicate(timeout=300)
    assert going.returncode == EXIT_INTERRUPTED, errors[-3000:]
    assert "SIGTERM: saving after this step" in errors
    second = slices.read_slice(tmp_path / "slices")
    assert second.number == 2 and second.step >= 4
    assert second.data == {"global_next_index": 2 * second.step}
    assert steps(second.metrics) == list(range(1, second.step + 1))
    assert (second.preview_step, second.preview) == (2, first.preview)
    assert names(tmp_path / "slices")[:2] == ["manifest.json", "slice-002"]

    exporting = command("--slice=slices", "--export=model", cwd=tmp_path)
    output, errors = exporting.communicate(timeout=300)
    assert exporting.returncode == 0 and "model in model" in output, errors[-3000:]
    model = load_reta(tmp_path / "model")
    ema = slices.unpack_state(second, quiet_layout()).ema
    for ours, theirs in zip(jax.tree.leaves(model.params), jax.tree.leaves(ema), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs).astype(np.float16))


# Ends that nobody wants.


class Stubborn(slice_training.Trainer):
    """A process that is told what to do."""

    def __init__(self, program):
        self.command = [sys.executable, "-c", program]
        self.signals, self.was_ended = 0, False


IGNORES = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


def test_a_trainer_that_does_not_stop_is_ended():
    now = time.monotonic()
    with Stubborn(IGNORES) as trainer:
        code = trainer.wait(stop_at=now + 1, kill_at=now + 2)
    assert code == -signal.SIGKILL and trainer.was_ended and not trainer.is_broken(code)


def test_a_lost_terminal_which_says_so_twice_lets_the_trainer_save():
    before = signal.signal(signal.SIGHUP, signal.default_int_handler)
    with Stubborn(IGNORES) as trainer:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert trainer.signals == 1 and not trainer.was_ended
    assert signal.signal(signal.SIGHUP, before) is signal.default_int_handler


def test_a_second_signal_ends_the_trainer_and_a_crash_is_told_from_it():
    with Stubborn(IGNORES) as trainer:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        code = trainer.wait(stop_at=time.monotonic() + 60, kill_at=time.monotonic() + 60)
    assert trainer.signals == 2 and trainer.was_ended and not trainer.is_broken(code)
    with Stubborn("raise SystemExit(3)") as trainer:
        assert trainer.is_broken(trainer.wait(time.monotonic() + 60, time.monotonic() + 60))


@pytest.mark.parametrize("moment", ["pieces", "manifest"])
def test_a_pack_that_is_killed_leaves_the_slice_before_it(tmp_path, monkeypatch, moment):
    state = trained(first_state())
    slices.write_slice(tmp_path, a_slice(quiet_layout(), state))
    before = (tmp_path / "manifest.json").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "pieces":
            patch.setattr(slices.os, "replace", killed)
        else:
            patch.setattr(slices, "write_json", killed)
        slices.write_slice(tmp_path, a_slice(quiet_layout(), trained(state, 1), number=2))
    assert (tmp_path / "manifest.json").read_bytes() == before
    found = slices.read_slice(tmp_path)
    assert found.number == 1
    name = "params/projection/kernel"
    np.testing.assert_array_equal(found.tensors[name], slices._named(state)[name])
    slices.write_slice(tmp_path, a_slice(quiet_layout(), trained(state, 1), number=2))
    assert slices.read_slice(tmp_path).number == 2
    assert {name.split("/")[0] for name in names(tmp_path)} == {"manifest.json", "slice-002"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    slices.write_slice(folder, a_slice(quiet_layout(), trained(first_state())))
    return folder


def lose(folder):
    (folder / "slice-001/state-00.safetensors").unlink()
    return r"lacks .*slice-001/state-00.safetensors \(No such file or directory\): bring it again"


def cut(folder):
    os.truncate(folder / "slice-001/state-00.safetensors", 100)
    return r"state-00.safetensors is damaged: it has 100 of \d+ bytes; bring it again"


def flip(folder):
    path = folder / "slice-001/state-00.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return "state-00.safetensors is damaged: it does not fit its SHA-256; bring it again"


def lose_manifest(folder):
    (folder / "manifest.json").unlink()
    return r"has a slice but no manifest.json: bring it too, or move the folder away"


def cut_manifest(folder):
    os.truncate(folder / "manifest.json", 100)
    return r"manifest.json is damaged: bring the slice again"


@pytest.mark.parametrize("damage", [lose, cut, flip, lose_manifest, cut_manifest])
def test_a_damaged_slice_is_refused_in_a_sentence(whole, tmp_path, damage):
    folder = tmp_path / "slices"
    shutil.copytree(whole, folder)
    sentence = damage(folder)
    with pytest.raises(InputError, match=sentence):
        slices.read_slice(folder)


def test_a_slice_older_than_some_fields_is_of_their_values_then(whole, tmp_path):
    found = slices.read_slice(whole)
    slices.write_slice(tmp_path, found._replace(config=aged(found.config)))
    older = slices.read_slice(tmp_path)
    assert older.config == found.config
    calm = quiet_config()
    calm.model.emotion_span = 25
    with pytest.raises(InputError, match="model.emotion_span was 1 and is 25"):
        slices.check_same_config(older, calm)


def test_a_slice_of_another_config_is_refused_by_the_field(whole):
    found = slices.read_slice(whole)
    free = quiet_config("data/others", save_every=3, max_minutes=1.0)
    free.data.readers = 3
    slices.check_same_config(found, free)
    other = quiet_config(learning_rate=1e-5)
    with pytest.raises(InputError, match=r"train.learning_rate was 0.002 and is 1e-05 \(give the"):
        slices.check_same_config(found, other)
    slices.check_same_config(found, other, ["train.learning_rate"])
    with pytest.raises(InputError, match="--change names train.lr, which no field"):
        slices.check_same_config(found, other, ["train.lr"])
    larger = quiet_config()
    larger.model.motion_encoder.channels = (8, 16, 32, 64)
    with pytest.raises(InputError, match=r"it is not|is \(.*\), expected \("):
        slices.unpack_state(found, layout_of(larger))


def test_what_is_too_large_is_refused_with_its_sizes(tmp_path, monkeypatch):
    with pytest.raises(InputError) as caught:
        slices.check_size(layout_of(hdtf_config()))
    sentence = str(caught.value)
    assert sentence.startswith("a slice's state would be ") and "at most 57 MB travel" in sentence
    assert "discriminator" in sentence and "lower model.channel_multiplier" in sentence
    slices.check_size(layout_of(corpus.get_config()))

    new = a_slice(quiet_layout(), trained(first_state()))
    monkeypatch.setattr(slices, "MAX_FILE", 20_000)
    with pytest.raises(InputError, match=r" alone is 0.\d MB, at most 0 MB a file travel"):
        slices.write_slice(tmp_path, new)
    monkeypatch.setattr(slices, "MAX_FILE", 1_000_000)
    monkeypatch.setattr(slices, "MAX_SLICE", 1_500_000)
    with pytest.raises(InputError, match=r"the slice would be \d\.\d MB and its largest file"):
        slices.write_slice(tmp_path, new)
    assert names(tmp_path) == []
    monkeypatch.setattr(slices, "MAX_SLICE", 60_000_000)
    slices.write_slice(tmp_path, new)
    pieces = sorted((tmp_path / "slice-001").glob("*.safetensors"))
    assert len(pieces) > 2 and all(piece.stat().st_size <= 1_000_000 for piece in pieces)
    found = slices.read_slice(tmp_path).tensors
    assert found.keys() == new.tensors.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], new.tensors[name])


def hdtf_config():
    config = hdtf.get_config()
    config.loss.emotion = 0.0  # its teacher is not at hand
    return config


def test_minutes_that_do_not_do_for_a_step_are_refused(tmp_path, data, monkeypatch):
    monkeypatch.setattr(slice_training, "Trainer", lambda *_: Stubborn(IGNORES))
    started = time.monotonic()
    with pytest.raises(InputError, match=r"the 0.02 minutes were over before a step was saved"):
        slice_training.train_slice(quiet_config(data), tmp_path / "slices", 0.02, started)
    assert not (tmp_path / "slices").exists()


def test_missing_data_is_a_sentence_before_anything_starts(tmp_path):
    config = quiet_config(tmp_path / "nowhere")
    config.data.synthetic_identities = 0
    go = functools.partial(
        slice_training.train_slice, config, tmp_path / "slices", 1.0, time.monotonic()
    )
    with pytest.raises(InputError, match="there is no data folder .*nowhere: name a prepared one"):
        go()
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(InputError, match="nowhere has no prepared data set: make one with"):
        go()
    with pytest.raises(InputError, match="no slice in .*slices: train first"):
        slices.export_slice(tmp_path / "slices", tmp_path / "model")
