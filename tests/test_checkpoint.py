"""Weights and checkpoints: what is read is what was written; anything else is refused by name."""

import json
import os
import re
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import hdtf, mead, synthetic
from data_pipeline.errors import InputError, TransientError
from reta_jax import checkpoint
from reta_jax.checkpoint import Checkpoints, find_damage, latest_ema
from reta_jax.config import paper
from reta_jax.state import TrainState
from reta_jax.weights import (
    FORMAT,
    check_params,
    config_from_dict,
    config_to_dict,
    flatten,
    load_weights,
    nest,
    save_weights,
)
from tests.tiny import aged

pytestmark = pytest.mark.usefixtures("quickly_compiled")

CONFIG = {"kind": "emotion_vit", "fields": {"size": 64, "patch": 8}}


@pytest.fixture
def params():
    random = np.random.default_rng(0)
    draw = lambda *shape: random.standard_normal(shape).astype(np.float32)
    return {
        "encoder": {"conv_0": {"kernel": draw(3, 3, 4, 8), "bias": draw(8)}},
        "head": {"kernel": draw(8, 2), "scale": np.float32(2.5).reshape(())},
        "count": np.arange(3, dtype=np.int32),
    }


@pytest.fixture
def folder(tmp_path, params):
    save_weights(tmp_path / "weights", params, CONFIG)
    return tmp_path / "weights"


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# There and back.


def test_float32_comes_back_bit_by_bit(folder, params):
    loaded, config = load_weights(folder)
    assert config == CONFIG | {"format": FORMAT}
    ours, theirs = flatten(loaded), flatten(params)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_float16_is_half_as_large_and_comes_back_rounded(tmp_path, params):
    save_weights(tmp_path / "half", params, CONFIG, dtype="float16")
    stored = load_file(tmp_path / "half" / "params.safetensors")
    assert stored["encoder/conv_0/kernel"].dtype == np.float16
    loaded, _ = load_weights(tmp_path / "half")
    assert loaded["count"].dtype == np.int32
    for name in ("kernel", "bias"):
        ours, exact = loaded["encoder"]["conv_0"][name], params["encoder"]["conv_0"][name]
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, exact.astype(np.float16).astype(np.float32))


def test_numbers_too_large_for_half_precision_stay_whole(tmp_path):
    params = {"variance": np.array([1e5, 2.0], np.float32), "kernel": np.full(2, 0.1, np.float32)}
    save_weights(tmp_path / "half", params, CONFIG, dtype="float16")
    loaded, _ = load_weights(tmp_path / "half")
    np.testing.assert_array_equal(loaded["variance"], params["variance"])
    np.testing.assert_array_equal(loaded["kernel"], params["kernel"].astype(np.float16))


def test_flat_and_nested_are_the_same(params):
    assert set(flatten(params)) == {
        "encoder/conv_0/kernel", "encoder/conv_0/bias", "head/kernel", "head/scale", "count",
    }  # fmt: skip
    assert flatten(nest(flatten(params))).keys() == flatten(params).keys()


def test_saving_again_replaces_the_folder(folder, params):
    (folder / "old.txt").write_text("from before")
    params["head"]["kernel"] += 1
    save_weights(folder, params, CONFIG | {"step": 2})
    loaded, config = load_weights(folder)
    np.testing.assert_array_equal(loaded["head"]["kernel"], params["head"]["kernel"])
    assert config["step"] == 2
    save_weights(folder / ".." / folder.name, params, CONFIG | {"step": 3})
    assert load_weights(folder)[1]["step"] == 3
    assert entries(folder) == ["config.json", "params.safetensors"]
    assert entries(folder.parent) == ["weights"]


def test_whoever_may_read_new_folders_may_read_them(folder, tmp_path):
    (tmp_path / "plain").mkdir()
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "config",
    [
        paper(),
        hdtf.get_config(),
        mead.get_config(),
        synthetic.get_config(),
        synthetic.get_config("smoke"),
    ],
    ids=["paper", "hdtf", "mead", "synthetic", "smoke"],
)
def test_config_comes_back_with_its_tuples(config):
    values = config_to_dict(config)
    assert json.loads(json.dumps(values)) == values
    back = config_from_dict(values)
    assert back == config
    assert isinstance(back.model.audio_encoder.wav2vec2.conv_features, tuple)
    assert isinstance(back.train.betas, tuple) and isinstance(back.data.dirs, tuple)


# What is refused.


@pytest.mark.parametrize("name", ["params.safetensors", "config.json"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {name} in {folder}"):
        load_weights(folder)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load_weights(tmp_path / "nowhere")


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_truncated_weights_are_refused(folder, left):
    path = folder / "params.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match=f"cannot read the weights in {folder}"):
        load_weights(folder)


@pytest.mark.parametrize("at", [0, 8, 20, -1, -200])
def test_a_flipped_bit_is_refused(folder, at):
    """In the length of the header, in the header, and in the numbers."""
    flip(folder / "params.safetensors", at)
    with pytest.raises(InputError, match=f"the weights in {folder}"):
        load_weights(folder)


def test_weights_of_other_tools_have_no_checksum_and_are_read(folder):
    numbers = load_file(folder / "params.safetensors")
    save_file(numbers, folder / "params.safetensors")
    loaded, _ = load_weights(folder)
    np.testing.assert_array_equal(loaded["count"], [0, 1, 2])


@pytest.mark.parametrize("text", ["", "{", "\0\0"])
def test_broken_config_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=f"cannot read the weights in {folder}"):
        load_weights(folder)


def test_every_difference_to_the_model_is_named_at_once(params):
    other = nest(flatten(params))
    other["extra"] = {"bias": np.zeros(1)}
    del other["count"]
    other["head"]["kernel"] = np.zeros((8, 3))
    with pytest.raises(InputError) as caught:
        check_params(other, params, "weights/mine")
    assert str(caught.value) == (
        "weights/mine does not fit the model: "
        "head/kernel is (8, 3), expected (8, 2); missing count; unexpected extra/bias"
    )
    check_params(params, params, "weights/mine")


# What cannot be written.


def test_a_file_in_the_way_of_the_folders_parent(tmp_path, params):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=f"cannot write weights to {tmp_path / 'file'}"):
        save_weights(tmp_path / "file" / "weights", params, CONFIG)
    assert entries(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_file_in_the_way_of_the_folder(tmp_path, params):
    (tmp_path / "weights").write_text("not a folder")
    with pytest.raises(InputError, match="cannot write weights"):
        save_weights(tmp_path / "weights", params, CONFIG)
    assert entries(tmp_path) == ["weights"]
    assert (tmp_path / "weights").read_text() == "not a folder"


@pytest.mark.parametrize("fails", ["os.replace", "reta_jax.weights._write_tensors"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, params, monkeypatch, fails):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, fail)
    with pytest.raises(TransientError, match="cannot write weights.*No space left"):
        save_weights(tmp_path / "weights", params, CONFIG)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("link", [False, True])
def test_a_failed_replacement_keeps_what_was_there(folder, params, monkeypatch, link):
    replace = os.replace
    if link:
        linked = folder.rename(folder.parent / "linked")
        folder.symlink_to(linked.name)

    def fail_to_place(source, target):
        if (os.fspath(target), os.path.basename(source)) == (str(folder), "new"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", fail_to_place)
    before, _ = load_weights(folder)
    params["head"]["kernel"] += 1
    with pytest.raises(InputError, match="No space left"):
        save_weights(folder, params, CONFIG)
    after, _ = load_weights(folder)
    np.testing.assert_array_equal(after["head"]["kernel"], before["head"]["kernel"])
    assert entries(folder.parent) == ["linked"] * link + ["weights"]


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished checkpoint"):
        latest_ema(tmp_path)


# Checkpoints of a run.


def make_state(step: int) -> TrainState:
    draw = np.random.default_rng(step).standard_normal
    params = {"kernel": jnp.asarray(draw((64, 64)), jnp.float32), "bias": jnp.zeros(8)}
    empty = dict(opt_state={}, d_params={}, d_opt_state={})
    return TrainState(
        step=jnp.array(step, jnp.int32), params=params, ema=jax.tree.map(jnp.copy, params), **empty
    )


def open_checkpoints(workdir, keep=3, **changes) -> Checkpoints:
    config = synthetic.get_config("smoke")
    config.train.keep_checkpoints = keep
    config.update_from_flattened_dict(changes)
    return Checkpoints(workdir, config)


def save_steps(workdir, *steps, keep=3):
    checkpoints = open_checkpoints(workdir, keep)
    for step in steps:
        checkpoints.save(make_state(step), {"global_next_index": 10 * step})
    checkpoints.close()


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def go_on(workdir, **changes) -> int:
    """The step that a new start goes on from, checked to be that step's in all its parts."""
    checkpoints = open_checkpoints(workdir, **changes)
    try:
        step = checkpoints.latest_step
        expected = make_state(step)
        state, data_state = checkpoints.restore(abstract(expected))
    finally:
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert data_state == {"global_next_index": 10 * step}
    return step


@pytest.fixture
def run(tmp_path):
    """A working folder with the checkpoints of steps 3 and 6."""
    save_steps(tmp_path, 3, 6)
    return tmp_path


def arrays_file(checkpoint):
    """The file that holds the numbers of the state."""
    return max(checkpoint.rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)


def test_a_good_checkpoint_is_taken_without_a_word(run, capsys):
    assert go_on(run) == 6
    assert entries(run) == ["checkpoints"] and entries(run / "checkpoints") == ["3", "6"]
    ema, _ = latest_ema(run)
    np.testing.assert_array_equal(ema["kernel"], make_state(6).ema["kernel"])
    assert capsys.readouterr().err == ""


def test_a_run_goes_on_with_other_settings_and_says_which(run, capsys):
    changes = {"train.learning_rate": 0.5, "tvm.kernel": 7, "model.tcn.dropout": 0.1}
    assert go_on(run, **changes, **{"train.log_every": 9, "data.dirs": ("data/moved",)}) == 6
    assert capsys.readouterr().out == (
        "going on with other settings: model.tcn.dropout was 0.0 and is 0.1; train.learning_rate "
        "was 0.002 and is 0.5; tvm.kernel was 1 and is 7\n"
    )


@pytest.mark.parametrize(
    ("field", "value", "was"),
    [
        ("model.emotion_span", 7, 1),
        ("model.tcn.features", 8, 64),
        ("data.portrait", "clip", "'identity'"),
    ],
)
def test_a_run_of_another_model_does_not_go_on(run, field, value, was):
    with pytest.raises(
        InputError, match=f"holds a run of another model: {field} was {was} and is {value!r}"
    ):
        go_on(run, **{field: value})
    assert go_on(run) == 6


def test_a_run_older_than_some_fields_goes_on_as_what_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "config_to_dict", lambda config: aged(config_to_dict(config)))
    save_steps(tmp_path, 3)
    monkeypatch.undo()
    assert latest_ema(tmp_path)[1]["model"]["emotion_span"] == 1
    assert go_on(tmp_path) == 3
    with pytest.raises(InputError, match="model.emotion_span was 1 and is 25"):
        go_on(tmp_path, **{"model.emotion_span": 25})


def test_other_arrays_are_refused_by_what_was_set_otherwise(run):
    state = make_state(6)
    checkpoints = open_checkpoints(run, **{"train.only": ("generator",)})
    try:
        with pytest.raises(InputError, match="step 6 in .*not fit the config .train.only was "):
            checkpoints.restore(abstract(state.replace(params={"kernel": state.params["kernel"]})))
    finally:
        checkpoints.close()


def test_moments_that_were_never_kept_are_missed(tmp_path):
    """Of a run that trained a part, Orbax gives None for all that the others' moments are."""
    part, whole = make_state(3), make_state(3)
    part = part.replace(opt_state={"generator": jnp.ones(4)})
    whole = whole.replace(opt_state={"generator": jnp.ones(4), "motion_decoder": jnp.ones(4)})
    checkpoints = open_checkpoints(tmp_path, **{"train.only": ("generator",)})
    checkpoints.save(part, {"global_next_index": 30})
    checkpoints.close()
    checkpoints = open_checkpoints(tmp_path)
    told = r"\(train.only was \['generator'\] and is \[\]\): give the same config, or a new "
    try:
        with pytest.raises(InputError, match=f"step 3 in .* does not fit the config {told}") as no:
            checkpoints.restore(abstract(whole))
        assert str(no.value).endswith(f"--workdir and --config.init_from={tmp_path / 'weights'}")
        restored, _ = checkpoints.restore(abstract(part))
    finally:
        checkpoints.close()
    np.testing.assert_array_equal(restored.opt_state["generator"], np.ones(4))


# As tensorstore words it: once in the next save, or while the run's end waits for the last one.
REFUSED = (
    'RESOURCE_EXHAUSTED: Failed writing: "/run/2.orbax-checkpoint-tmp/d/9ba10b": Failed to write '
    "2985984 bytes to file 16: {} [os_error_code='{}']"
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError(REFUSED.format("No space left on device", 28)), "No space left on device"),
        (ValueError(REFUSED.format("Disk quota exceeded", 122)), "Disk quota exceeded"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
@pytest.mark.parametrize("saved", [(), (3, 6)])
def test_what_the_disk_refuses_in_orbaxs_threads_is_a_sentence(
    tmp_path, monkeypatch, error, reason, saved
):
    save_steps(tmp_path, *saved)
    checkpoints = open_checkpoints(tmp_path)
    close = checkpoints._checkpointer.close

    def fail(*_):
        raise error

    monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", fail)
    monkeypatch.setattr(checkpoints._checkpointer, "close", fail)
    good = "the last good one is of step 6" if saved else "there is none yet"
    told = rf"cannot write a checkpoint to {tmp_path}/checkpoints: {reason} \({good}\)$"
    try:
        with pytest.raises(TransientError, match=told):
            checkpoints.save(make_state(7), {})
        with pytest.raises(TransientError, match=told):
            checkpoints.close()
    finally:
        close()


def test_another_error_of_orbaxs_threads_keeps_its_traceback(tmp_path, monkeypatch):
    checkpoints = open_checkpoints(tmp_path)
    bug = ValueError("a bug")

    def fail(*_):
        raise bug

    monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", fail)
    try:
        with pytest.raises(ValueError) as raised:
            checkpoints.save(make_state(1), {})
    finally:
        checkpoints.close()
    assert raised.value is bug


def test_weights_of_a_run_come_with_what_is_behind_them(run):
    assert latest_ema(run)[1]["provenance"] == []
    records = [{"source": "edtalk"}, {"source": "data/mine", "people": ["anna"]}]
    (run / "provenance.json").write_text(json.dumps(records))
    _, config = latest_ema(run)
    assert config["provenance"] == records and config["model"]["size"] == 32


def test_checksums_are_of_every_file_of_the_contents(run):
    sums = json.loads((run / "checkpoints/6/checksums.json").read_text())
    files = [path for path in (run / "checkpoints/6").glob("*/**/*") if path.is_file()]
    assert sums.keys() == {str(path.relative_to(run / "checkpoints/6")) for path in files}
    assert {name.split("/")[0] for name in sums} == {"state", "data", "config"}
    file = arrays_file(run / "checkpoints/6")
    size, crc = sums[str(file.relative_to(run / "checkpoints/6"))]
    assert (size, crc) == (file.stat().st_size, zlib.crc32(file.read_bytes())) and size > 16_384


def truncate(checkpoint):
    file = arrays_file(checkpoint)
    file.write_bytes(file.read_bytes()[:100])
    return "has 100 of [0-9]+ bytes"


def lose_numbers(checkpoint):
    arrays_file(checkpoint).unlink()
    return "is missing"


def lose_data(checkpoint):
    shutil.rmtree(checkpoint / "data")
    return "data/.* is missing"


def lose_checksums(checkpoint):
    (checkpoint / "checksums.json").unlink()
    return "checksums.json is missing"


def break_checksums(checkpoint):
    (checkpoint / "checksums.json").write_text("{")
    return "checksums.json is damaged"


def flip_numbers(checkpoint):
    """The harm that a load would not notice: most bits of an array are only another number."""
    flip(arrays_file(checkpoint), 9_000)
    return "does not fit its checksum"


def flip_data_position(checkpoint):
    flip(max((checkpoint / "data/d").iterdir()), 40)
    return "data/.* does not fit its checksum"


def leave_empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    return "checksums.json is missing"


DAMAGES = [
    truncate, lose_numbers, lose_data, lose_checksums, break_checksums, flip_numbers,
    flip_data_position, leave_empty,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_taken(run, capsys, damage):
    reason = damage(run / "checkpoints/6")
    ema, _ = latest_ema(run)  # a reader takes the one before too, and moves nothing
    np.testing.assert_array_equal(ema["kernel"], make_state(3).ema["kernel"])
    assert entries(run / "checkpoints") == ["3", "6"]
    (line,) = capsys.readouterr().err.splitlines()
    told = f"the checkpoint of step 6 is damaged: .*{reason}"
    assert re.fullmatch(f"warning: taking step 3 of {run}: {told}", line)

    left = sorted(path.name for path in (run / "checkpoints/6").rglob("*"))
    assert go_on(run) == 3
    (line,) = capsys.readouterr().err.splitlines()
    aside = run / "corrupt_checkpoints"
    assert re.fullmatch(f"warning: going back to step 3: {told}; moved to {aside}", line)
    assert sorted(path.name for path in (aside / "6").rglob("*")) == left

    save_steps(run, 6)
    assert go_on(run) == 6


def test_the_same_step_may_be_damaged_again(run):
    for _ in range(2):
        lose_data(run / "checkpoints/6")
        assert go_on(run) == 3
        save_steps(run, 6)
    assert entries(run / "corrupt_checkpoints") == ["6", "6-2"]


def test_without_a_good_checkpoint_nothing_starts_and_nothing_is_moved(run):
    flip_numbers(run / "checkpoints/6"), truncate(run / "checkpoints/3")
    for attempt in (open_checkpoints, open_checkpoints, latest_ema):
        with pytest.raises(InputError) as caught:
            attempt(run)
        told = r"can be used \(.*step 6 is damaged.*checksum, .*step 3 is damaged.*bytes\)"
        assert re.search(told, str(caught.value))
        assert entries(run / "checkpoints") == ["3", "6"]


def test_what_a_killed_save_left_is_not_a_checkpoint_and_goes(run):
    left = run / "checkpoints/7.orbax-checkpoint-tmp"
    shutil.copytree(run / "checkpoints/6", left)
    (left / "checksums.json").unlink()
    assert go_on(run) == 6
    save_steps(run, 7)
    assert entries(run / "checkpoints") == ["3", "6", "7"]
    assert go_on(run) == 7


def test_the_checksums_of_what_is_kept_are_kept(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 4, keep=2)
    assert entries(tmp_path / "checkpoints") == ["3", "4"]
    for step in ("3", "4"):
        assert find_damage(tmp_path / "checkpoints" / step) is None
