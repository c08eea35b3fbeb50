"""Reads PyTorch checkpoints (.pt, .pth, .bin, .model) without torch, and without running them.

A checkpoint is a pickle, which may call anything. The unpickler here knows the few names that
tensors and plain containers are made of, gives each a harmless stand-in, and refuses any other by
name. Both layouts are read: the zip archive of torch 1.6 and later, and the older sequence of
pickles followed by the numbers. Numbers stay in the mapped file until they are looked at.

Nor may a small file fill the memory or take for ever. A few bytes can name a place in a memo of
gigabytes, unpack to a thousand times themselves, or make a value of 2^60 parts that are one: such a
value is neither hashed, compared nor shown.
"""

import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from data_pipeline.errors import InputError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
ZIP_MAGIC, LOCAL_HEADER = b"PK\x03\x04", 30

DTYPES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4",
    "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "?", "uint16": "<u2", "uint32": "<u4",
    "uint64": "<u8", "complex64": "<c8", "complex128": "<c16", "bfloat16": ml_dtypes.bfloat16,
}  # fmt: skip
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}  # fmt: skip

# Opcodes that no checkpoint needs: one reserves what it likes, sets and the oldest dicts hash what
# they are given, extensions are looked up elsewhere than in the names known here.
REFUSED = (
    pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.DICT, pickle.EMPTY_SET,
    pickle.ADDITEMS, pickle.FROZENSET, pickle.EXT1, pickle.EXT2, pickle.EXT4,
)  # fmt: skip
MOST_UNPACKED = 20  # times the size of an archive that somebody has compressed, or
ALWAYS_UNPACKED = 4 << 20  # bytes
MOST_REPEATED = 1 << 28  # numbers of a tensor that says some of its own several times (`expand`)
LONGEST_NAME = 1000  # characters of a tensor's dotted key

# What a broken archive makes zipfile raise.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, RuntimeError)
# What a broken or hostile pickle makes the unpickler raise.
_PICKLE_ERRORS = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, RecursionError, MemoryError, struct.error,
)  # fmt: skip


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote: containers and numbers, with NumPy arrays in place of tensors.

    Arrays are read-only views of the mapped file; bfloat16 is `ml_dtypes.bfloat16`.

    Raises:
      InputError: no checkpoint, a damaged one, or one that holds more than tensors and containers.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(ZIP_MAGIC))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not size:
        raise InputError(f"{path} is empty: fetch it again")
    try:
        return _read_zip(path) if start == ZIP_MAGIC else _read_legacy(path)
    except InputError:
        raise
    except _PICKLE_ERRORS as error:
        raise InputError(f"{path} is no PyTorch checkpoint, or a damaged one: {error}") from error
    except _ZIP_ERRORS as error:
        raise InputError(f"{path} is not whole ({error}): fetch it again") from error


def find_tensors(value: Any) -> dict[str, np.ndarray]:
    """The arrays of nested dicts, by dotted key.

    A dict that stands in several places is entered at the first of them only: a small file could
    otherwise name more keys than there is memory.

    Raises InputError for a key that is too long to be one.
    """
    found, entered, waiting = {}, set(), [("", value)]
    while waiting:
        name, part = waiting.pop()
        if len(name) > LONGEST_NAME:
            raise InputError(f"a tensor's name starts with {name[:40]}, and is endless")
        if isinstance(part, np.ndarray):
            found[name] = part
        elif isinstance(part, Mapping) and id(part) not in entered:
            entered.add(id(part))
            children = [(f"{name}.{key}" if name else str(key), part[key]) for key in part]
            waiting += reversed(children)
    return found


# The two layouts.


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        _check_unpacked(archive, path)
        names = archive.namelist()
        pickles = [name for name in names if name.split("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise InputError(f"{path} is a zip archive, but no PyTorch checkpoint")
        root = pickles[0].removesuffix("data.pkl")
        if any(name.startswith(f"{root}code/") for name in names):
            raise InputError(f"{path} is a TorchScript program: save its state_dict instead")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise InputError(
                f"{path} was written on a big-endian machine: save it again on another"
            )
        mapped = np.memmap(path, np.uint8, "r")

        def read_storage(storage: "Storage") -> np.ndarray:
            name = f"{root}data/{storage.key}"
            if name not in names:
                raise InputError(f"{path} lacks the numbers of storage {storage.key}")
            return _zip_entry(archive.getinfo(name), archive, mapped, path)

        body = io.BytesIO(archive.read(pickles[0]))  # at once, so that its checksum is compared
        return _Unpickler(body, path, read_storage).load()


def _check_unpacked(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises InputError where compressed entries are out of proportion to the file."""
    packed = (x for x in archive.infolist() if x.compress_type != zipfile.ZIP_STORED)
    size, unpacked = path.stat().st_size, sum(info.file_size for info in packed)
    if unpacked > max(MOST_UNPACKED * size, ALWAYS_UNPACKED):
        raise InputError(
            f"{path} unpacks from {size} bytes to {unpacked}: it is not read; save it again "
            "without compression"
        )


def _zip_entry(
    info: zipfile.ZipInfo, archive: zipfile.ZipFile, mapped: np.ndarray, path: Path
) -> np.ndarray:
    """Bytes of one entry, checked; a view of the file unless somebody has packed it again."""
    if info.compress_type != zipfile.ZIP_STORED:
        return np.frombuffer(archive.read(info), np.uint8)
    header = mapped[info.header_offset : info.header_offset + LOCAL_HEADER].tobytes()
    if len(header) < LOCAL_HEADER or header[:4] != ZIP_MAGIC:
        raise InputError(f"{path} is not whole (no entry {info.filename}): fetch it again")
    name, extra = struct.unpack("<HH", header[26:30])
    start = info.header_offset + LOCAL_HEADER + name + extra
    data = mapped[start : start + info.file_size]
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise InputError(f"{path} is damaged (entry {info.filename}): fetch it again")
    return data


def _read_legacy(path: Path) -> Any:
    """Three headers, the pickle, the keys of its storages, then each storage's length and numbers.

    The pickle comes before the numbers it speaks of, so it is read twice.
    """
    with path.open("rb") as file:
        load = lambda: _Unpickler(file, path, None).load()
        if load() != LEGACY_MAGIC:
            raise pickle.UnpicklingError("unknown beginning")
        if load() != LEGACY_PROTOCOL:
            raise InputError(f"{path} has an unknown version of PyTorch's old format")
        system = load()
        if not system.get("little_endian", True):
            raise InputError(
                f"{path} was written on a big-endian machine: save it again on another"
            )
        body = file.tell()
        first = _Unpickler(file, path, None)
        first.load()
        keys = load()
        data = _legacy_storages(path, file.tell(), keys, first.item_sizes)
        file.seek(body)
        return _Unpickler(file, path, lambda storage: data[storage.key]).load()


def _legacy_storages(
    path: Path, start: int, keys: list[str], sizes: dict[str, int]
) -> dict[str, np.ndarray]:
    """Bytes of each storage; they follow one another from `start` on, each after its length."""
    mapped, storages = np.memmap(path, np.uint8, "r"), {}
    is_list = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not is_list or set(keys) != set(sizes):
        raise InputError(f"{path} is damaged: its list of storages does not match its tensors")
    for key in keys:
        count = int.from_bytes(mapped[start : start + 8].tobytes(), "little", signed=True)
        end = start + 8 + count * sizes[key]
        if count < 0 or end > len(mapped) or start + 8 > len(mapped):
            raise InputError(f"{path} is not whole (storage {key} is cut off): fetch it again")
        storages[key] = mapped[start + 8 : end]
        start = end
    return storages


# The pickle.


class Storage(NamedTuple):
    """A run of numbers that tensors are views of."""

    key: str
    kind: str  # a key of DTYPES
    count: int
    data: np.ndarray | None  # (bytes,) uint8; None while only the structure is read

    @property
    def item_size(self) -> int:
        return np.dtype(DTYPES[self.kind]).itemsize


def _refuse(unpickler: "_Unpickler") -> None:
    raise pickle.UnpicklingError("an opcode that no checkpoint has")


class _Unpickler(pickle._Unpickler):  # the one in Python: that in C reserves what a file asks for
    """Knows the names below and no others. Stand-ins are new for each file: none can be spoiled.

    read_storage: gives a storage's bytes, or None to read the structure alone.
    """

    dispatch = dict.fromkeys(range(256), _refuse) | pickle._Unpickler.dispatch
    dispatch |= dict.fromkeys((opcode[0] for opcode in REFUSED), _refuse)
    dispatch[pickle.EMPTY_DICT[0]] = lambda self: self.append(_Dict())

    def __init__(self, file: Any, path: Path, read_storage: Callable[[Storage], np.ndarray] | None):
        super().__init__(file, encoding="latin1")  # Python 2 wrote some of the published files
        self._path, self._read_storage = path, read_storage
        self._storages: dict[str, Storage] = {}
        self._known = _stand_ins()

    @property
    def item_sizes(self) -> dict[str, int]:
        """Bytes per number of each storage that was met."""
        return {key: storage.item_size for key, storage in self._storages.items()}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._known[f"{module}.{name}"]
        except KeyError:
            raise InputError(
                f"{self._path} refers to {module}.{name}, which is neither a tensor nor a plain "
                "container: it is not read, because it could run code"
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or not pid:
            raise pickle.UnpicklingError(f"a persistent {_told(pid)}")
        if len(pid) < 5 or not isinstance(pid[0], str) or pid[0] != "storage":
            raise InputError(
                f"{self._path} holds a {_told(pid[0])}, not only tensors: it is not read"
            )
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, str) or kind not in DTYPES or (view and view[0] is not None):
            raise InputError(f"{self._path} holds a storage of an unknown kind: it is not read")
        if not isinstance(key, str) or not isinstance(count, int):
            raise pickle.UnpicklingError("a storage without a name or a length")
        if key not in self._storages:
            storage = Storage(key, kind, count, None)
            if self._read_storage is not None:
                data, size = self._read_storage(storage), storage.count * storage.item_size
                if len(data) < size:
                    raise InputError(
                        f"{self._path} is damaged: storage {key} has {len(data)} of {size} bytes"
                    )
                storage = storage._replace(data=data)
            self._storages[key] = storage
        return self._storages[key]


def _told(value: Any) -> str:
    """A text, or what kind of thing it is: the repr of a small one may fill the memory."""
    return repr(value[:40]) if isinstance(value, str) else type(value).__name__


class _Dict(dict):
    """A dict whose keys are hashed at once: no tuples of tuples, each of which may stand twice."""

    __slots__ = ()

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()):
        super().__init__()
        for key, value in pairs:
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, tuple) and any(isinstance(part, tuple) for part in key):
            raise pickle.UnpicklingError("a key of tuples within a tuple")
        super().__setitem__(key, value)


def _stand_ins() -> dict[str, Any]:
    known: dict[str, Any] = {
        "collections.OrderedDict": type("OrderedDict", (_Dict,), {}),
        "argparse.Namespace": type("Namespace", (), {}),
        "torch._utils._rebuild_tensor": lambda *given: _tensor(*given[:4]),
        "torch._utils._rebuild_tensor_v2": lambda *given: _tensor(*given[:4]),
        "torch._utils._rebuild_tensor_v3": lambda *given: _tensor(*given[:4], kind=given[6]),
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
        "torch.Size": lambda sizes: tuple(sizes),
        "torch.storage.UntypedStorage": "uint8",
        "_codecs.encode": lambda text, encoding="latin1": text.encode("latin1"),
        "numpy.dtype": type("dtype", (), {"__init__": _name_dtype, "__setstate__": _forget}),
    }
    known |= {f"torch.{name}": kind for name, kind in STORAGES.items()}
    known |= {f"torch.{kind}": kind for kind in DTYPES}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        known[f"{module}.scalar"] = lambda kind, data: np.frombuffer(data, kind.numbers)[0]
    return known


def _name_dtype(self: Any, name: Any, *_: Any) -> None:
    if not isinstance(name, str) or np.dtype(name).kind not in "biufc":
        raise pickle.UnpicklingError("a NumPy scalar that is no number")
    self.numbers = np.dtype(name)


def _forget(self: Any, _: Any) -> None:
    """Byte order and alignment of a plain dtype say nothing new on a little-endian machine."""


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, kind: Any = "") -> np.ndarray:
    """A read-only view of the storage, never beyond its end.

    Args:
      storage: a Storage, unless the file is hostile; as little is known of the others.
      offset, size, stride: integers, counted in numbers.
      kind: a key of DTYPES, if it is not the storage's.
    """
    if not isinstance(storage, Storage):  # a look-alike could claim to be longer than it is
        raise pickle.UnpicklingError("a tensor without a storage")
    if not isinstance(kind, str) or not all(type(n) is int for n in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor of an impossible shape")
    dtype = np.dtype(DTYPES[kind or storage.kind])
    numbers = storage.count * storage.item_size // dtype.itemsize
    if len(size) != len(stride) or min((offset, *size, *stride)) < 0:
        raise pickle.UnpicklingError("a tensor of an impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and (last >= numbers or math.prod(size) > max(numbers, MOST_REPEATED)):
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    if storage.data is None or 0 in size:
        return np.empty(0 if storage.data is None else size, dtype)
    flat = storage.data[: numbers * dtype.itemsize].view(dtype)
    strides = tuple(step * dtype.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(flat[offset:], size, strides, writeable=False)
