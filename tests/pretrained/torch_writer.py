"""Writes PyTorch's two file formats without torch, whole or with chosen faults.

NumPy arrays become tensors. Arrays that are views of one array share its storage, with their own
offset and strides, as tensors do.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage", "int64": "LongStorage", "int32": "IntStorage",
    "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage", "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
}  # fmt: skip
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Global:
    """A name of another program's module; nothing of the kind needs to be installed here."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self, *_: Any) -> None:
        """Only so that it may stand first in a `Reduce`."""


class Reduce:
    """A call that the reader of the file is asked to make, and a state to give to its result."""

    def __init__(self, function: Any, arguments: tuple, state: Any = None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


class Storage:
    """Numbers that tensors are views of, or whatever `kind` and `count` say in a hostile file."""

    def __init__(self, key: str, array: np.ndarray, count: int | None = None, kind: Any = None):
        self.key, self.data = key, array.tobytes()
        self.count = array.size if count is None else count
        self.kind = kind or Global("torch", STORAGES[array.dtype.name])


def tensor(storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int]) -> Reduce:
    """A tensor as its file describes it, sensible or not."""
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Reduce(rebuild, (storage, offset, tuple(size), tuple(stride), False, OrderedDict()))


def parameter(array: np.ndarray) -> Reduce:
    return Reduce(Global("torch._utils", "_rebuild_parameter"), (array, True, OrderedDict()))


class _Pickler(pickle._Pickler):  # the one in Python, because the one in C checks every name
    def __init__(self, file: io.BytesIO, persistent: Callable[[Storage], tuple], protocol: int):
        super().__init__(file, protocol)
        self.storages: dict[str, Storage] = {}
        self._bases: dict[int, Storage] = {}
        self._persistent, self._alive = persistent, []

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global) and self.proto >= 4:
            super().save(obj.module)
            super().save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        elif isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Storage):
            self.storages[obj.key] = obj
            return self._persistent(obj)
        return obj.value if isinstance(obj, Persistent) else None

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        base = obj
        while isinstance(base.base, np.ndarray):
            base = base.base
        if id(base) not in self._bases:
            self._bases[id(base)] = Storage(str(len(self._bases)), base.ravel(order="K"))
            self._alive.append(base)
        offset = obj.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        strides = [step // obj.itemsize for step in obj.strides]
        storage = self._bases[id(base)]
        return tensor(storage, offset // obj.itemsize, obj.shape, strides).__reduce__()


class Persistent:
    """Any other persistent id."""

    def __init__(self, value: Any):
        self.value = value


def _pickled(value: Any, protocol: int, *view: None) -> tuple[bytes, dict[str, Storage]]:
    describe = lambda s: ("storage", s.kind, s.key, "cpu", s.count, *view)
    file = io.BytesIO()
    pickler = _Pickler(file, describe, protocol)
    pickler.dump(value)
    return file.getvalue(), pickler.storages


def save_zip(
    path: Path,
    value: Any,
    *,
    compression: int = zipfile.ZIP_STORED,
    protocol: int = 2,
    extra: dict[str, bytes] | None = None,
    leave_out: Sequence[str] = (),
) -> Path:
    """The format of torch 1.6 and later. `extra`: more entries; `leave_out`: storages to forget."""
    body, storages = _pickled(value, protocol)
    entries = {"data.pkl": body, "byteorder": b"little"}
    entries |= {f"data/{key}": s.data for key, s in storages.items() if key not in leave_out}
    entries |= {"version": b"3\n"} | (extra or {})
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(f"{path.stem}/{name}")
            info.compress_type = compression
            info.extra = b"FB" + struct.pack("<H", 5) + b"Z" * 5  # torch aligns entries with such
            archive.writestr(info, data)
    return path


def save_legacy(
    path: Path, value: Any, *, order: Callable[[list[str]], list[str]] = sorted, protocol: int = 2
) -> Path:
    """The format before torch 1.6. `order`: of the storages, or a choice among them."""
    body, storages = _pickled(value, protocol, None)
    keys = order(list(storages))
    system = {
        "protocol_version": LEGACY_PROTOCOL,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    heads = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, system)]
    with path.open("wb") as file:
        file.write(b"".join([*heads, body, pickle.dumps(keys, 2)]))
        for key in keys:
            file.write(struct.pack("<q", storages[key].count) + storages[key].data)
    return path
