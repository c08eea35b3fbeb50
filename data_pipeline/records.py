"""Clips on disk: a TFDS data set of ArrayRecord files, written and read without TensorFlow.

One clip is one record. Its frames stay JPEG bytes until a reader wants them, so that a training
sample decodes only its window. Every data set of the project has this one schema; what a data set
does not know (the synthetic world's coefficients, a real clip's phonemes) is zeros.

    out/records/{dataset_info.json, features.json, clips.json, talking_heads-train.array_record-…}
"""

import contextlib
import errno
import functools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TFDS_LOG_LEVEL", "error")

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from data_pipeline.errors import InputError, system_error
from data_pipeline.files import sync_folder, write_whole
from data_pipeline.video import resized

JPEG_QUALITY = 95
COEFFICIENTS = 64
NAME, VERSION = "talking_heads", "1.0.0"
CLIPS_PER_SHARD = 256  # of five seconds at 256 px: some 650 megabytes
_FOLDER = "records"
_RAW = tfds.features.Encoding.BYTES  # Else every number is a 64-bit varint, slow to parse.


def features() -> tfds.features.FeaturesDict:
    """The schema of a clip of T frames; landmarks, boxes and coefficients are one row a frame."""
    tensor = tfds.features.Tensor
    return tfds.features.FeaturesDict(
        {
            # T JPEG files, RGB, all of one square size.
            "frames": tfds.features.Sequence(tensor(shape=(), dtype=np.object_)),
            # 640 T samples at 16 kHz.
            "audio": tensor(shape=(None,), dtype=np.int16, encoding=_RAW),
            # 68 iBUG points, x and y in [0, 1] of the frame.
            "landmarks": tensor(shape=(None, 68, 2), dtype=np.float32, encoding=_RAW),
            # y0, x0, y1, x1 in [0, 1]: the tight face box that the sync expert sees.
            "sync_box": tensor(shape=(4,), dtype=np.float32, encoding=_RAW),
            # Centre x, y and side of the crop in the source video, in pixels.
            "boxes": tensor(shape=(None, 3), dtype=np.float32, encoding=_RAW),
            # Index into EMOTIONS, -1 if unknown.
            "emotion": tensor(shape=(), dtype=np.int32),
            "identity": tfds.features.Text(),
            "clip": tfds.features.Text(),
            # The synthetic world's truth.
            "coefficients": tensor(shape=(None, COEFFICIENTS), dtype=np.float32, encoding=_RAW),
            "phonemes": tensor(shape=(None,), dtype=np.int32, encoding=_RAW),
        }
    )


class Source(NamedTuple):
    """A clip that is not in memory yet: `load` gives its example (a dict as of `encode_clip`)."""

    clip: str
    identity: str
    load: Callable[[], dict[str, Any]]


def encode_clip(clip: Any) -> dict[str, Any]:
    """A clip in memory as an example of the schema.

    Args:
        clip: has `frames` uint8 (T,S,S,3), `audio` int16 (640 T,), `landmarks`, `sync_box`,
            `emotion`, `identity` and `clip`; and `boxes`, `coefficients`, `phonemes` if known.
    """
    count = len(clip.frames)
    unknown = {
        "boxes": np.zeros((count, 3)),
        "coefficients": np.zeros((count, COEFFICIENTS)),
        "phonemes": np.zeros(count),
    }
    return {
        "frames": [encode_jpeg(frame) for frame in clip.frames],
        "audio": np.asarray(clip.audio, np.int16),
        "landmarks": np.asarray(clip.landmarks, np.float32),
        "sync_box": np.asarray(clip.sync_box, np.float32),
        "boxes": np.asarray(getattr(clip, "boxes", unknown["boxes"]), np.float32),
        "emotion": np.int32(clip.emotion),
        "identity": clip.identity,
        "clip": clip.clip,
        "coefficients": np.asarray(
            getattr(clip, "coefficients", unknown["coefficients"]), np.float32
        ),
        "phonemes": np.asarray(getattr(clip, "phonemes", unknown["phonemes"]), np.int32),
    }


def encode_jpeg(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """JPEG without chroma subsampling: at 128 px the lips' colour is a handful of pixels."""
    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def decode_jpeg(data: bytes, size: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of a record's JPEG, resized to `size` square if it has another.

    Raises:
        InputError: it is damaged; of which clip it is, `decode_picture` and `of_clip` say.
    """
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise InputError("a picture cannot be read: copy the data set again or prepare it anew.")
    if size is not None:
        bgr = resized(bgr, size, size)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def of_clip(clip: str) -> Iterator[None]:
    """Around what is done with a clip: what is wrong with it is told with its name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"clip {clip}: {error}") from error


def save_example(path: Path, example: dict[str, Any]) -> None:
    """Keeps one finished clip in a file of its own until the records are written."""
    frames = example["frames"]
    arrays = {
        **{k: v for k, v in example.items() if k != "frames"},
        "jpegs": np.frombuffer(b"".join(frames), np.uint8),
        "lengths": np.array([len(frame) for frame in frames]),
    }
    write_whole(path, lambda file: np.savez(file, **arrays))


def list_examples(parts: Path) -> dict[str, Path]:
    """Files of `save_example` by their clips' names; those that a crash left in pieces are none."""
    return {path.stem: path for path in parts.glob("*.npz") if zipfile.is_zipfile(path)}


def load_example(path: Path) -> dict[str, Any]:
    """Reads what `save_example` wrote."""
    with np.load(path) as file:
        example = dict(file)
    jpegs, ends = example.pop("jpegs").tobytes(), np.cumsum(example.pop("lengths"))
    example["frames"] = [jpegs[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return {
        **example,
        "identity": str(example["identity"]),
        "clip": str(example["clip"]),
        "emotion": np.int32(example["emotion"]),
    }


def write_records(
    sources: Sequence[Source], out_dir: str | os.PathLike, split_of: Callable[[Source], str]
) -> None:
    """Writes a data set to `out_dir`/records, replacing the one that is there.

    Nothing stands under the final name before all of it is written.

    Args:
        sources: the clips; loaded one at a time, in the order of their names.
        out_dir: the data set's directory, made if missing.
        split_of: "train" or "test", for each clip; how, is the data set's affair.

    Raises:
        InputError: there is no clip, or the place cannot be written to.
    """
    if not sources:
        raise InputError(f"no clip was accepted for {out_dir}: see its manifest for the reasons.")
    splits: dict[str, list[Source]] = {}
    for source in sorted(sources, key=lambda source: source.clip):
        splits.setdefault(split_of(source), []).append(source)
    final = Path(out_dir) / _FOLDER
    building, replaced = final.with_name(f".{_FOLDER}.building"), _replaced(final)
    try:
        recover_records(out_dir)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        _build(splits, building)
        sync_folder(building)  # What it was made of may be deleted next.
        if final.exists():
            final.rename(replaced)
        building.rename(final)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise system_error(
            f"cannot write {final} ({error.strerror}): give a place that may be written to and "
            "has room.",
            error,
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def recover_records(out_dir: str | os.PathLike) -> None:
    """Clears up after a `write_records` that was killed while it replaced a data set."""
    final = Path(out_dir) / _FOLDER
    replaced = _replaced(final)
    if replaced.exists() and not final.exists():  # Killed between the two renames.
        replaced.rename(final)
    elif replaced.exists():  # Killed while it was deleted.
        shutil.rmtree(replaced)


def _replaced(final: Path) -> Path:
    return final.with_name(f".{final.name}.replaced")


def _build(splits: dict[str, list[Source]], building: Path) -> None:
    """Clip by clip, so that memory holds one of them, and row i of clips.json is record i."""
    identity = tfds.core.DatasetIdentity(
        name=NAME, version=VERSION, data_dir=os.fspath(building), module_name=__name__
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features(), disable_shuffling=True)
    writer = tfds.core.SequentialWriter(info, CLIPS_PER_SHARD, file_format="array_record")
    writer.initialize_splits(list(splits))
    rows: dict[str, list[dict]] = {name: [] for name in splits}
    for split, sources in splits.items():
        for source in sources:
            example = source.load()
            with _os_errors():
                writer.add_examples({split: [example]})
            rows[split].append(
                {
                    "clip": example["clip"],
                    "identity": example["identity"],
                    "emotion": int(example["emotion"]),
                    "frames": len(example["frames"]),
                }
            )
    with _os_errors():
        writer.close_all()
    (building / "clips.json").write_text(json.dumps(rows))


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """What array_record tells of a full disk as a RuntimeError is an OSError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error).partition(";")[0]) from error


def open_records(dir: str | os.PathLike, split: str) -> Sequence[dict[str, Any]]:
    """The clips of a split as a random-access, picklable data source (NumPy, frames as JPEG).

    Raises:
        InputError: there is no such data set or split.
    """
    list_clips(dir, split)
    return tfds.builder_from_directory(Path(dir) / _FOLDER).as_data_source(split)


def list_clips(dir: str | os.PathLike, split: str) -> list[dict[str, Any]]:
    """Clip, identity, emotion and number of frames of every record, in the records' order."""
    splits = list_splits(dir)
    if split not in splits:
        raise InputError(
            f"{dir} has no split {split!r}, only {', '.join(sorted(splits))}: say to prepare who "
            "is for judging by --test-identities FILE, or take each file for another person by "
            "--identity-from file and another --out."
        )
    return splits[split]


def list_splits(dir: str | os.PathLike) -> dict[str, list[dict[str, Any]]]:
    """`list_clips` of every split; there may be no "test", as in a data set of one person."""
    splits = read_clips(dir)
    if not splits:
        raise InputError(
            f"{dir} has no prepared data set: make one with python -m data_pipeline.prepare."
        )
    return splits


def read_clips(dir: str | os.PathLike) -> dict[str, list[dict[str, Any]]]:
    """As `list_splits`, but empty if nothing has been written yet.

    Raises:
        InputError: the list is damaged, or cannot be read.
    """
    path = Path(dir) / _FOLDER / "clips.json"
    try:
        splits = json.loads(path.read_text())
        for row in (row for rows in splits.values() for row in rows):
            row["clip"], row["identity"], row["emotion"], row["frames"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise system_error(
            f"{path} cannot be read ({error.strerror}): put that right.", error
        ) from error
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}): copy the data set again, or prepare it "
            "anew with another --out."
        ) from error
    return splits


def split_of_clips(dir: str | os.PathLike) -> dict[str, str]:
    """The split of every clip; empty if there is no data set."""
    return {row["clip"]: split for split, rows in read_clips(dir).items() for row in rows}


def trained_people(dirs: Sequence[str | os.PathLike]) -> list[str]:
    """Identities of the training split of data sets."""
    return sorted({row["identity"] for dir in dirs for row in list_clips(dir, "train")})


def iterate_sources(dir: str | os.PathLike) -> Iterator[Source]:
    """The clips that a data set already holds, as sources for writing it anew with more."""
    for split, rows in read_clips(dir).items():
        records = open_records(dir, split)
        for index, row in enumerate(rows):
            reread = functools.partial(_reread, records, index, row["clip"])
            yield Source(row["clip"], row["identity"], reread)


def _reread(records: Sequence[dict[str, Any]], index: int, clip: str) -> dict[str, Any]:
    """A record as the example it was written from."""
    record = read_record(records, index, clip)
    text = {key: record[key].decode() for key in ("identity", "clip")}
    return {**record, **text, "frames": list(record["frames"])}


def read_record(records: Sequence[dict[str, Any]], index: int, clip: str) -> dict[str, Any]:
    """A record of `open_records`, which was listed as `clip`.

    Raises:
        InputError: it cannot be read, or is another clip by now; says which it is and in which
            file.
    """
    try:
        record = records[index]
        found = record["clip"].decode()
    except Exception as error:  # Checksum, framing, protocol buffer: each has its own.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{describe_record(records, index, clip)} cannot be read ({reason}): copy the data set "
            "again or prepare it anew."
        ) from error
    if found != clip:
        raise InputError(
            f"{describe_record(records, index, clip)} is clip {found} by now: the data set was "
            "prepared anew meanwhile; start again."
        )
    return record


def decode_picture(
    records: Sequence[dict[str, Any]], index: int, clip: str, jpeg: bytes, size: int | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """`decode_jpeg` of a picture of a record; raises InputError as `read_record` does."""
    try:
        return decode_jpeg(jpeg, size)
    except InputError as error:
        raise InputError(f"{describe_record(records, index, clip)}: {error}") from error


def describe_record(records: Sequence[dict[str, Any]], index: int, clip: str) -> str:
    """Where a record of `open_records` is, for a person."""
    info = records.dataset_info.splits[records.split]
    ends = np.cumsum(info.shard_lengths)
    shard = int(np.searchsorted(ends, index, side="right"))
    record = index - int(ends[shard]) + info.shard_lengths[shard]
    file = Path(info.filepaths[shard])
    return f"clip {clip} of {file.parents[1]} (record {record} of {file})"
