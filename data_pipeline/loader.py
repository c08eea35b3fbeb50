"""Records to batches: Grain reads, cuts windows and shuffles; resuming gives the same next batch.

Sample i of a run depends on (seed, i) alone, and global batch k is samples [k B, (k + 1) B) dealt
out to the processes in turn. So a run continues exactly from one number, on any process count.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, SupportsIndex

import grain
import numpy as np
from jaxtyping import Float32, UInt8

from data_pipeline.audio import SAMPLES_PER_FRAME, mel_window, to_float, window
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.records import decode_jpeg, list_clips, open_records

_NEUTRAL = EMOTIONS.index("neutral")
_MAX_EPOCH = 1_000_000
_SHIFT = 3


@dataclasses.dataclass(frozen=True)
class WindowSpec:
    """What is cut from a clip for one training sample; all but `size` in frames (40 ms)."""

    frames: int = 5  # consecutive frames; the sync expert needs five
    size: int = 256  # side of the pictures in pixels
    past: int = 50  # what the audio encoder hears before the chunk
    chunk: int = 10  # what it encodes at once; the sample's frames lie in it
    look_ahead: int = 2  # what it hears after the chunk
    portrait: Literal["clip", "identity"] = "clip"  # a frame of this clip, or of any of its speaker
    shifted_mel: bool = False  # also the sound of another moment: what a sync expert learns to tell

    @property
    def audio_samples(self) -> int:
        """Length of a sample's audio at 16 kHz."""
        return (self.past + self.chunk + self.look_ahead) * SAMPLES_PER_FRAME


def training_batches(
    dirs_and_weights: Mapping[str | os.PathLike, float],
    split: str,
    batch_size: int,
    window: WindowSpec,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    max_identity_share: float = 1.0,
    threads: int = 4,
) -> "BatchIterator":
    """Endless shuffled batches of this process's share of the global batch.

    Each batch is a dict of NumPy arrays, b = batch_size / process_count, T = window.frames,
    S = window.size:

        portrait uint8 (b,S,S,3) | frames uint8 (b,T,S,S,3) | audio float32 (b,W) past + chunk +
        look-ahead, zeros outside the clip | offset int32 (b,) frames[0] inside the chunk |
        mel float32 (b,80,16) of the five frames from frames[0] on | sync_box float32 (b,4) |
        landmarks float32 (b,T,68,2) in [0, 1] | emotion int32 (b,) | identity int32 (b,)

    and, with window.shifted_mel, shifted_mel float32 (b,80,16): three frames or more away.

    Args:
        dirs_and_weights: prepared data sets and how often each is drawn from.
        split: "train" or "test".
        batch_size: the global batch over all processes.
        window: what a sample holds.
        seed: of the order and the windows.
        process_index: which of the processes this is.
        process_count: how many processes share the batch.
        max_identity_share: the most that one identity may make up of its data set's samples: at 1
            every clip is drawn equally often, at 0 every identity.
        threads: readers that work ahead; 0 reads in the caller's thread.

    Raises:
        InputError: a data set or split is missing, or a batch cannot be shared out evenly.
    """
    if batch_size % process_count:
        raise InputError(
            f"a batch of {batch_size} cannot be shared by {process_count} processes: "
            "choose a multiple."
        )
    datasets, first_identity = [], 0
    for dir in dirs_and_weights:
        clips = Clips(dir, split, window, first_identity)
        first_identity += len(clips.identities)
        order = np.repeat(np.arange(len(clips)), repetitions(clips.identity, max_identity_share))
        datasets.append(grain.MapDataset.source(_Reordered(clips, order)).seed(seed).shuffle())
    mixed = grain.MapDataset.mix(
        [dataset.repeat() for dataset in datasets], list(dirs_and_weights.values())
    )
    samples = mixed.seed(seed).random_map(CutWindow(window))
    return BatchIterator(samples, batch_size, process_index, process_count, threads)


class BatchIterator:
    """Iterates over batches; its whole state is the index of the next global sample."""

    def __init__(
        self,
        samples: grain.MapDataset,
        batch_size: int,
        process_index: int,
        process_count: int,
        threads: int,
    ):
        self._samples, self._batch_size = samples, batch_size
        self._process_index, self._process_count = process_index, process_count
        self._options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=3 * batch_size // process_count
        )
        self.set_state({"global_next_index": 0})

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        self._next_index += self._batch_size
        return batch

    def get_state(self) -> dict[str, int]:
        """The position, as JSON; the same on every process."""
        return {"global_next_index": self._next_index}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues from a position, whatever the number of processes that reached it."""
        self.close()
        self._next_index = state["global_next_index"]
        share = self._samples[self._next_index + self._process_index :: self._process_count]
        self._batches = iter(
            share.to_iter_dataset(self._options).batch(self._batch_size // self._process_count)
        )

    def close(self) -> None:
        """Stops the readers."""
        batches = getattr(self, "_batches", None)
        if batches is not None:
            batches.close()


class Clips:
    """A split of a data set, with the clips of each identity at hand."""

    def __init__(
        self, dir: str | os.PathLike, split: str, window: WindowSpec, first_identity: int = 0
    ):
        rows = list_clips(dir, split)
        short = [row["clip"] for row in rows if row["frames"] < window.frames]
        if short:
            raise InputError(f"{short[0]} in {dir} has fewer than {window.frames} frames.")
        self.records = open_records(dir, split)
        self.identities, self.identity = np.unique(
            [row["identity"] for row in rows], return_inverse=True
        )
        self._by_identity = [
            np.flatnonzero(self.identity == i) for i in range(len(self.identities))
        ]
        self._first_identity = first_identity

    def __len__(self) -> int:
        return len(self.identity)

    def __getitem__(self, index: SupportsIndex) -> "ClipRecord":
        identity = int(self.identity[index])
        return ClipRecord(self, int(index), self._first_identity + identity)

    def of_same_identity(self, index: int, rng: np.random.Generator) -> int:
        """A random clip of the identity of clip `index`, perhaps itself."""
        return int(rng.choice(self._by_identity[self.identity[index]]))


class ClipRecord(NamedTuple):
    """A clip that is not read yet, and its identity's number among all data sets."""

    clips: Clips
    index: int
    identity: int


class _Reordered:
    """`clips` with some of them several times."""

    def __init__(self, clips: Clips, order: np.ndarray):
        self._clips, self._order = clips, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: SupportsIndex) -> ClipRecord:
        return self._clips[self._order[index]]


def repetitions(identity: Sequence[int], max_share: float) -> np.ndarray:
    """How often each clip comes in an epoch so that no identity has more than `max_share` of it.

    Identities over the share are cut to it, the others grow in proportion, and so on; where not
    even equal shares are small enough, they are equal.

    Args:
        identity: the identity's number of each clip.
        max_share: in [0, 1].
    """
    counts = np.bincount(identity)
    share, capped = counts / counts.sum(), np.zeros(len(counts), bool)
    limit = max(max_share, 1 / len(counts))
    while np.any(over := ~capped & (share > limit)):
        capped |= over
        rest = 1 - limit * capped.sum()
        share = np.where(capped, limit, counts / max(counts[~capped].sum(), 1) * rest)
    weight = (share / counts)[identity]
    return np.maximum(1, np.round(weight * min(1 / weight.min(), _MAX_EPOCH))).astype(int)


@dataclasses.dataclass(frozen=True)
class CutWindow(grain.transforms.RandomMap):
    """A clip to a training sample: a random window, its sound, and a portrait."""

    window: WindowSpec

    def random_map(self, element: ClipRecord, rng: np.random.Generator) -> dict[str, np.ndarray]:
        spec = self.window
        record = element.clips.records[element.index]
        frames = record["frames"]
        start = int(rng.integers(len(frames) - spec.frames + 1))
        # A chunk never begins before the clip: neither does one when a voice is rendered.
        offset = int(rng.integers(min(spec.chunk - spec.frames, start) + 1))
        heard = (start - offset - spec.past) * SAMPLES_PER_FRAME
        portraits = frames
        if spec.portrait == "identity":
            other = element.clips.of_same_identity(element.index, rng)
            portraits = frames if other == element.index else element.clips.records[other]["frames"]
        portrait = portraits[int(rng.integers(len(portraits)))]
        waveform = to_float(record["audio"])
        sample = {
            "portrait": decode_jpeg(portrait, spec.size),
            "frames": np.stack(
                [decode_jpeg(data, spec.size) for data in frames[start : start + spec.frames]]
            ),
            "audio": window(waveform, heard, spec.audio_samples),
            "offset": np.int32(offset),
            "mel": mel_window(waveform, start),
            "sync_box": record["sync_box"],
            "landmarks": record["landmarks"][start : start + spec.frames],
            "emotion": np.int32(record["emotion"]),
            "identity": np.int32(element.identity),
        }
        if spec.shifted_mel:
            sample["shifted_mel"] = mel_window(waveform, _another_start(start, len(frames), rng))
        return sample


def _another_start(start: int, frames: int, rng: np.random.Generator) -> int:
    """A start of five frames at least `_SHIFT` frames away; the farthest one in a short clip."""
    starts = np.arange(max(frames - 4, 1))
    away = np.abs(starts - start)
    return int(rng.choice(starts[away >= min(_SHIFT, away.max())]))


class EvaluationClip(NamedTuple):
    """A whole clip of T frames for judging."""

    portrait: UInt8[np.ndarray, "s s 3"]
    frames: UInt8[np.ndarray, "t s s 3"]
    audio: Float32[np.ndarray, " n"]  # n = 640 T at 16 kHz, in [-1, 1)
    landmarks: Float32[np.ndarray, "t 68 2"]  # in [0, 1]
    sync_box: Float32[np.ndarray, "4"]
    coefficients: Float32[np.ndarray, "t 64"]
    emotion: int
    identity: str
    clip: str


def evaluation_clips(
    dir: str | os.PathLike, split: str, size: int | None = None
) -> Iterator[EvaluationClip]:
    """Yields every clip of a split once, in order, with the portrait to render it from.

    The portrait is the first frame of a neutral clip of the same identity, as the published MEAD
    protocols have it; without one, the clip's own first frame. `size` resizes the pictures.
    """
    records = open_records(dir, split)
    neutral: dict[str, int] = {}
    for index, row in enumerate(list_clips(dir, split)):
        if row["emotion"] == _NEUTRAL:
            neutral.setdefault(row["identity"], index)
    for index, record in enumerate(records):
        identity = record["identity"].decode()
        source = records[neutral.get(identity, index)]
        yield EvaluationClip(
            portrait=decode_jpeg(source["frames"][0], size),
            frames=np.stack([decode_jpeg(data, size) for data in record["frames"]]),
            audio=to_float(record["audio"]),
            landmarks=record["landmarks"],
            sync_box=record["sync_box"],
            coefficients=record["coefficients"],
            emotion=int(record["emotion"]),
            identity=identity,
            clip=record["clip"].decode(),
        )
