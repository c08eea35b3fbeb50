"""PyTorch's files, read without torch: what they hold, and what they may not do."""

import argparse
import contextlib
import os
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from data_pipeline.errors import InputError
from reta_jax.pretrained.source import read_state
from reta_jax.pretrained.torch_file import find_tensors, read_torch_file
from tests.pretrained.torch_writer import (
    BFLOAT16,
    Global,
    Persistent,
    Reduce,
    Storage,
    parameter,
    save_legacy,
    save_zip,
    tensor,
)

FORMATS = pytest.mark.parametrize("save", [save_zip, save_legacy])
NUMBERS = np.arange(24, dtype=np.float32).reshape(6, 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


@pytest.fixture
def refused(path):
    def read(*sentences):
        with pytest.raises(InputError) as error:
            read_torch_file(path)
        message = str(error.value)
        assert str(path) in message and "\n" not in message
        for sentence in sentences:
            assert sentence in message

    return read


# What the files hold.


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_kinds_and_shapes_of_tensors(path, save, protocol):
    tensors = {
        "float": NUMBERS - 7.5,
        "half": NUMBERS.astype(np.float16),
        "bfloat16": (NUMBERS / 3).astype(BFLOAT16),
        "double": NUMBERS / 3.0,
        "long": np.array([-1, 2**40]),
        "byte": np.array([0, 255], np.uint8),
        "bool": NUMBERS > 3,
        "complex": NUMBERS.astype(np.complex64) * 1j,
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "strided": NUMBERS[1:6:2, 1::2],
        "transposed": NUMBERS.T,
        "expanded": np.broadcast_to(NUMBERS[1], (50, 4)),
        "shared": NUMBERS,
    }
    values = read_torch_file(save(path, tensors, protocol=protocol))
    assert values.keys() == tensors.keys()
    for name, expected in tensors.items():
        np.testing.assert_array_equal(values[name], expected, name, strict=True)
        assert not values[name].size or not values[name].flags.writeable
    assert np.shares_memory(values["strided"], values["shared"])
    assert np.shares_memory(values["transposed"], values["shared"])


@FORMATS
def test_containers_of_training_checkpoints(path, save):
    checkpoint = {
        "state_dict": OrderedDict({"conv.weight": parameter(NUMBERS), "conv.bias": NUMBERS[0]}),
        "args": argparse.Namespace(lr=1e-3, betas=(0.5, 0.9)),
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 7,
    }
    values = read_torch_file(save(path, checkpoint))
    assert values["args"].lr == 1e-3 and values["args"].betas == (0.5, 0.9)
    assert values["optimizer"] == checkpoint["optimizer"] and values["epoch"] == 7
    assert find_tensors(values).keys() == {"state_dict.conv.weight", "state_dict.conv.bias"}
    assert read_state(path, "gen", "state_dict").keys() == {"conv.weight", "conv.bias"}
    np.testing.assert_array_equal(values["state_dict"]["conv.weight"], NUMBERS)


def test_archives_that_somebody_has_compressed(path):
    save_zip(path, {"a": NUMBERS}, compression=zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(read_torch_file(path)["a"], NUMBERS)


@pytest.mark.parametrize("order", [sorted, lambda keys: sorted(keys, reverse=True)])
def test_old_files_list_their_storages_in_any_order(path, order):
    tensors = {"a": NUMBERS, "b": np.arange(5), "c": np.array([True, False])}
    values = read_torch_file(save_legacy(path, tensors, order=order))
    for name, expected in tensors.items():
        np.testing.assert_array_equal(values[name], expected, strict=True)


# What they may not do.


def hostile(witness):
    """Pickles that would run code or reach beyond their own numbers, with what is said of them."""
    ours = Storage("0", NUMBERS)
    look_alike = Reduce(
        Global("argparse", "Namespace"),
        (),
        {"count": 10**9, "item_size": 1, "kind": "uint8", "data": np.zeros(4, np.uint8)},
    )
    namespace = Global("argparse", "Namespace")
    doubled = ()
    for _ in range(12):  # of 60, no hash would ever come to an end
        doubled = (doubled, doubled)
    return {
        "system": (Reduce(Global("os", "system"), (f"touch {witness}",)), "os.system"),
        "posix": (Reduce(Global("posix", "system"), (f"touch {witness}",)), "posix.system"),
        "eval": (
            Reduce(Global("builtins", "eval"), (f"open({str(witness)!r}, 'w')",)),
            "builtins.eval",
        ),
        "open": (Reduce(Global("io", "open"), (str(witness), "w")), "io.open"),
        "dotted": (Reduce(Global("collections", "OrderedDict.fromkeys"), ("ab",)), "fromkeys"),
        "attribute": (Reduce(Global("builtins", "getattr"), ({}, "clear")), "builtins.getattr"),
        "network": (Reduce(Global("torch.nn.modules.linear", "Linear"), (2, 3)), "linear.Linear"),
        "module": (Persistent(("module", namespace, "net.py", "import os")), "'module'"),
        "persistent": (Persistent("anything"), "anything"),
        "endless": (Persistent(doubled), "holds a tuple"),
        "endless kind": (Persistent((doubled, 0, 0, 0, 0)), "holds a tuple"),
        "endless key": ({doubled: 1}, "tuples within a tuple"),
        "endless pair": (Reduce(Global("collections", "OrderedDict"), ([(doubled, 1)],)), "tuples"),
        "endless size": (tensor(ours, 0, (doubled, 1), (1, 1)), "impossible shape"),
        "endless storage": (
            Persistent(("storage", Global("torch", "FloatStorage"), doubled, "cpu", 24)),
            "without a name",
        ),
        "set": (Reduce(Global("builtins", "set"), ([1],)), "set"),
        "kind": (tensor(Storage("0", NUMBERS, kind=namespace), 0, (2,), (1,)), "unknown kind"),
        "beyond": (tensor(ours, 20, (5,), (1,)), "larger than its storage"),
        "stride": (tensor(ours, 0, (2, 2), (24, 1)), "larger than its storage"),
        "giant": (tensor(ours, 0, (10**6, 10**6), (0, 0)), "larger than its storage"),
        "before": (tensor(ours, 8, (4,), (-4,)), "impossible shape"),
        "ranks": (tensor(ours, 0, (2, 2), (1,)), "impossible shape"),
        "claims": (tensor(Storage("0", NUMBERS, count=10**6), 0, (10**6,), (1,)), ""),
        "look-alike": (tensor(look_alike, 0, (10**6,), (1,)), "without a storage"),
    }


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", hostile(""))
def test_hostile_files_are_refused_by_name(tmp_path, path, refused, save, protocol, name):
    value, what = hostile(tmp_path / "witness")[name]
    save(path, {"good": np.arange(3), "bad": value}, protocol=protocol)
    refused(what)
    assert os.listdir(tmp_path) == [path.name]


@FORMATS
def test_no_file_spoils_the_next(path, save):
    """BUILD may set attributes of whatever it is given: of a class too."""
    for module, name in (
        ("collections", "OrderedDict"),
        ("argparse", "Namespace"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
    ):
        target = Global(module, name)
        spoil = {"__setitem__": Global("torch", "Size"), "__code__": 1, "keys": 0, "lr": "spoiled"}
        built = Reduce(Global("torch._utils", "_rebuild_parameter"), (target,), (None, spoil))
        save(path, {"bad": built, "good": NUMBERS})
        with contextlib.suppress(InputError):
            read_torch_file(path)
        clean = {"args": argparse.Namespace(beta=2), "state": OrderedDict(a=parameter(NUMBERS))}
        values = read_torch_file(save(path, clean))
        assert vars(values["args"]) == {"beta": 2} and not hasattr(values["args"], "lr")
        assert list(values["state"]) == ["a"]
        np.testing.assert_array_equal(values["state"]["a"], NUMBERS)


def test_a_place_in_the_memo_costs_nothing(path, refused):
    """It is named by a number of four bytes, and may not come with all the places before it."""
    path.write_bytes(b"\x80\x02K\x01r" + struct.pack("<I", 10_000_000) + b".")
    tracemalloc.start()
    refused("unknown beginning")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_buffers_are_not_made_as_large_as_a_file_claims(path, refused):
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 10**6) + b"short.")
    refused("an opcode that no checkpoint has")


def test_small_archives_that_unpack_to_large_ones(path, refused):
    save_zip(path, {"a": NUMBERS, "b": 5_000_000 * "b"}, compression=zipfile.ZIP_DEFLATED)
    refused(f"unpacks from {path.stat().st_size} bytes to 50", "without compression")
    assert path.stat().st_size < 10_000


def test_names_without_an_end(path):
    """A key that is said again at every level makes names as long as the levels are many."""
    deep = NUMBERS
    for _ in range(1000):
        deep = {"weight": deep}
    with pytest.raises(InputError, match="name starts with weight.weight.*is endless"):
        find_tensors(deep)


def test_a_dictionary_that_holds_itself(path):
    endless = {}
    endless["again"] = endless
    save_zip(path, endless)
    with pytest.raises(InputError, match=f"{path} holds no tensors"):
        read_state(path)


@FORMATS
@pytest.mark.parametrize("nested", [lambda x: [x, x], lambda x: {"a": x, "b": x}])
def test_parts_that_are_shared_at_every_level(path, save, nested):
    """2^60 ways lead to one tensor; each part is looked at once."""
    value = {"weight": NUMBERS}
    for _ in range(60):
        value = nested(value)
    values = read_torch_file(save(path, {"state_dict": {"bias": NUMBERS[0]}, "deep": value}))
    names = ["state_dict.bias", f"deep.{'a.' * 60}weight"]
    assert list(find_tensors(values)) == names[: 1 + isinstance(value, dict)]


# What is not whole, or no checkpoint.


@FORMATS
def test_half_a_download(path, refused, save):
    whole = save(path, {"a": np.arange(1000), "b": NUMBERS}).read_bytes()
    for part in (3, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:part])
        refused()


def test_what_a_truncated_old_file_lacks_is_named(path, refused):
    whole = save_legacy(path, {"a": NUMBERS, "b": NUMBERS + 1}).read_bytes()
    path.write_bytes(whole[:-1])
    refused("storage 1 is cut off", "fetch it again")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_no_flipped_bit_goes_unnoticed(path, compression):
    """Every bit of the archive that matters; the others leave the numbers as they are."""
    whole = save_zip(path, {"a": NUMBERS, "b": np.arange(3)}, compression=compression).read_bytes()
    noticed = 0
    for position in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            values = read_torch_file(path)
        except InputError:
            noticed += 1
        else:
            np.testing.assert_array_equal(values["a"], NUMBERS, strict=True)
            np.testing.assert_array_equal(values["b"], np.arange(3), strict=True)
    assert noticed > len(whole) // 15


def test_a_damaged_storage_is_named(path, refused):
    whole = save_zip(path, {"a": NUMBERS}).read_bytes()
    path.write_bytes(whole.replace(NUMBERS.tobytes(), (NUMBERS + 1).tobytes()))
    refused("damaged", "data/0", "fetch it again")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "no PyTorch checkpoint"),
        (b"<!DOCTYPE html><html>Sign in to continue</html>", "no PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "no PyTorch checkpoint"),
        (b"I7\n.", "no PyTorch checkpoint"),
    ],
    ids=["empty", "picture", "page", "pointer", "number"],
)
def test_other_files(path, refused, content, what):
    path.write_bytes(content)
    refused(what)


def test_files_that_are_not_there(path, refused):
    refused("No such file")
    path.mkdir()
    refused("directory")


def test_other_archives(path, refused):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<text/>")
    refused("zip archive, but no PyTorch checkpoint")
    save_zip(path, {"a": NUMBERS}, extra={"code/__torch__.py": b"", "constants.pkl": b""})
    refused("TorchScript", "state_dict")
    save_zip(path, {"a": NUMBERS}, leave_out=["0"])
    refused("lacks the numbers of storage 0")


@pytest.mark.parametrize("order", [lambda keys: keys[1:], lambda keys: []])
def test_an_old_file_without_one_of_its_storages(path, refused, order):
    save_legacy(path, {"a": NUMBERS, "b": NUMBERS + 1}, order=order)
    refused("list of storages does not match")


def test_big_endian_files(path, refused):
    save_zip(path, {"a": NUMBERS}, extra={"byteorder": b"big"})
    refused("big-endian")


def test_a_file_without_tensors(path):
    with pytest.raises(InputError, match="holds no tensors"):
        read_state(save_zip(path, {"epoch": 3}))
