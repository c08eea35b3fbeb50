"""Records to batches: Grain reads, cuts windows and shuffles; resuming gives the same next batch.

Sample i of a run depends on (seed, i) alone, and global batch k is samples [k B, (k + 1) B), of
which each process has a stretch. So a run continues exactly from one number, on any process count,
and every device has the same rows whoever feeds it. Pairing for EDS reorders the samples within a
batch, as the number of devices has it; they are the same ones.
"""

import collections
import dataclasses
import functools
import itertools
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple, SupportsIndex

import grain
import numpy as np
from jaxtyping import Float32, Int, UInt8

from data_pipeline.audio import SAMPLES_PER_FRAME, mel_window, mfcc_window, to_float, window
from data_pipeline.augment import Augment, AugmentSpec
from data_pipeline.commands import usable_cores
from data_pipeline.datasets.mead import view_of
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError, TransientError
from data_pipeline.face import sync_box
from data_pipeline.pairing import pair_neighbours
from data_pipeline.records import (
    decode_picture,
    describe_record,
    list_clips,
    open_records,
    read_record,
)
from data_pipeline.steady import hold_still

_NEUTRAL = EMOTIONS.index("neutral")
_MAX_EPOCH = 1_000_000
_MAX_COPIES = 16  # of the clip that comes most rarely in an epoch
_SHIFT = 3
OTHER_MOMENTS = 7  # among which SyncNet v2 has to find the right one
_PATIENCE = 600.0  # seconds for one sample; storage that answers later is taken for dead
_FAREWELL = 5.0  # seconds for the readers to end what they have in hand
_BATCHES_AHEAD = 3
_MOST_READERS = 16  # A third of their work is Python's, which they do one after another.
_POSES, _APART = 8, 12  # frames to choose a like pose from, and how far away they are at least


@dataclasses.dataclass(frozen=True)
class WindowSpec:
    """What is cut from a clip for one training sample; all but `size` in frames (40 ms)."""

    frames: int = 5  # consecutive frames; the sync expert needs five
    size: int = 256  # side of the pictures in pixels
    past: int = 50  # what the audio encoder hears before the chunk
    chunk: int = 10  # what it encodes at once; the sample's frames lie in it
    look_ahead: int = 2  # what it hears after the chunk
    # A frame of this "clip", of any of its speaker from its view ("identity"), or of the clip in a
    # like "pose".
    portrait: Literal["clip", "identity", "pose"] = "clip"
    steady: bool = False  # frames are the portrait with their faces, held still
    # Also the sound of other moments, as the sync expert ("mel") or SyncNet v2 ("mfcc") hears it.
    sync_pairs: Literal["", "mel", "mfcc"] = ""

    def __post_init__(self):
        if not 1 <= self.frames <= self.chunk:
            raise InputError(
                f"windows of {self.frames} frames do not lie in a chunk of {self.chunk}: choose 1 "
                f"to {self.chunk}, or a longer chunk."
            )

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
    pair_within: int = 0,
    augment: AugmentSpec = AugmentSpec(),
    threads: int | None = None,
) -> "BatchIterator":
    """Endless shuffled batches of this process's share of the global batch.

    Each batch is a dict of NumPy arrays, b = batch_size / process_count, T = window.frames,
    S = window.size:

        portrait uint8 (b,S,S,3) | frames uint8 (b,T,S,S,3) | audio float32 (b,W) past + chunk +
        look-ahead, zeros outside the clip | offset int32 (b,) frames[0] inside the chunk |
        mel float32 (b,80,16) of the five frames from frames[0] on | sync_box float32 (b,4) |
        landmarks float32 (b,T,68,2) in [0, 1] | emotion int32 (b,) | identity int32 (b,)

    and, with window.sync_pairs, shifted_mel float32 (b,80,16), or mfcc float32 (b,8,13,20) of which
    the first is that of the frames: the others are three frames or more away.

    What stops a reader (a damaged record, a file that is gone, storage that no longer answers) is
    raised by `next` as an InputError that names the data set, the clip and the file: for storage
    that no longer answers, a TransientError.

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
        pair_within: rows of a batch that one device holds: within them neighbours are put together
            that feel differently and are different people (`pair_neighbours`); 0 leaves the order.
        augment: how samples are varied.
        threads: readers that work ahead; 0 reads in the caller's thread. By default one a core that
            may be used, `_MOST_READERS` at most.

    Raises:
        InputError: a data set or split is missing, or a batch cannot be shared out evenly.
    """
    if batch_size % process_count:
        raise InputError(
            f"a batch of {batch_size} cannot be shared by {process_count} processes: "
            "choose a multiple."
        )
    if pair_within and batch_size % pair_within:
        raise InputError(
            f"a batch of {batch_size} has no shares of {pair_within} to pair in: choose a multiple."
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
    if augment != AugmentSpec():
        samples = samples.random_map(Augment(augment))
    if threads is None:
        threads = min(usable_cores(), _MOST_READERS)
    place = _Pairing(mixed, batch_size, pair_within).place if pair_within else int
    return BatchIterator(
        read=lambda index: samples[place(index)],
        describe=lambda index: mixed[place(index)].describe(),
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
        threads=threads,
    )


class BatchIterator:
    """Iterates over batches; its whole state is the index of the next global sample."""

    def __init__(
        self,
        read: Callable[[int], dict[str, np.ndarray]],
        describe: Callable[[int], str],
        batch_size: int,
        process_index: int,
        process_count: int,
        threads: int,
    ):
        self._readers: _Readers | None = None
        self._read, self._describe, self._batch_size = read, describe, batch_size
        self._share = batch_size // process_count
        self._first = process_index * self._share
        self._threads = threads
        self.set_state({"global_next_index": 0})

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            samples = list(itertools.islice(self._share_of_samples, self._share))
        except Exception:
            self.set_state(self.get_state())  # Whoever asks again gets the batch from its begin.
            raise
        if not samples:
            raise StopIteration  # It was closed.
        self._next_index += self._batch_size
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}

    def get_state(self) -> dict[str, int]:
        """The position, as JSON; the same on every process."""
        return {"global_next_index": self._next_index}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues from a position, whatever the number of processes that reached it.

        Reached with another batch size, it is that of the next whole batch, as pairs are made in.
        """
        self.close()
        size, share = self._batch_size, self._share
        self._next_index = -(-state["global_next_index"] // size) * size
        # No reference to this object in what the threads hold, or they would keep it alive.
        first = self._next_index + self._first
        indices = (batch + row for batch in itertools.count(first, size) for row in range(share))
        if not self._threads:
            self._share_of_samples = map(self._read, indices)
            return
        self._readers = _Readers(
            self._read,
            indices,
            threads=self._threads,
            ahead=_BATCHES_AHEAD * self._share,
            describe=self._describe,
        )
        self._share_of_samples = self._readers
        # At the latest when the interpreter leaves: it must not find them inside of native code.
        weakref.finalize(self, self._readers.close)

    def close(self) -> None:
        """Stops the readers; what they have in hand is dropped."""
        self._share_of_samples = iter(())
        if self._readers is not None:
            self._readers.close()
            self._readers = None


class _Readers:
    """As `map(read, indices)`, by threads that work ahead.

    Grain's own threads are waited for without end, also by the interpreter when it leaves; these
    are not, so that a read that never returns ends a run with a sentence.
    """

    def __init__(
        self,
        read: Callable[[int], Any],
        indices: Iterable[int],
        threads: int,
        ahead: int,
        describe: Callable[[int], str],
    ):
        self._read, self._describe, self._ahead = read, describe, max(ahead, threads)
        self._indices = iter(indices)
        self._wanted: queue.SimpleQueue[tuple[int, Future] | None] = queue.SimpleQueue()
        self._coming: collections.deque[tuple[int, Future]] = collections.deque()
        self._threads = [
            threading.Thread(target=self._work, name=f"reader-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (task := self._wanted.get()) is not None:
            index, future = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._read(index))
            except BaseException as error:
                future.set_exception(error)

    def __iter__(self) -> "_Readers":
        return self

    def __next__(self) -> Any:
        while len(self._coming) < self._ahead:
            task = next(self._indices), Future()
            self._coming.append(task)
            self._wanted.put(task)
        index, future = self._coming.popleft()
        try:
            return future.result(_PATIENCE)
        except TimeoutError as error:
            if future.done():
                raise  # It is the reader's own.
            raise TransientError(
                f"no answer for {_PATIENCE:.0f} s while reading {self._describe(index)}, or "
                "another of its speaker: see whether the storage still answers."
            ) from error

    def close(self) -> None:
        """Drops what was read ahead; waits a little for what is in hand."""
        for _, future in self._coming:
            future.cancel()
        self._coming.clear()
        for _ in self._threads:
            self._wanted.put(None)
        latest = time.monotonic() + _FAREWELL
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, latest - time.monotonic()))


class _Pairing:
    """Every `batch_size` samples in the order of `pair_neighbours`, which knows them by `clips`."""

    def __init__(self, clips: grain.MapDataset, batch_size: int, share: int):
        self._batch_size = batch_size
        self._order = functools.lru_cache(maxsize=2 * _BATCHES_AHEAD)(
            functools.partial(_paired_order, clips, batch_size, share)
        )
        self._one_at_a_time = threading.Lock()  # Several readers reach a new batch together.

    def place(self, index: int) -> int:
        """Which sample comes at `index`."""
        batch, row = divmod(index, self._batch_size)
        with self._one_at_a_time:
            order = self._order(batch)
        return batch * self._batch_size + int(order[row])


def _paired_order(
    clips: grain.MapDataset, batch_size: int, share: int, batch: int
) -> Int[np.ndarray, " b"]:
    drawn = [clips[batch * batch_size + row] for row in range(batch_size)]
    emotion = np.array([clip.clips.emotion[clip.index] for clip in drawn])
    return pair_neighbours(emotion, np.array([clip.identity for clip in drawn]), share)


class Clips:
    """A split of a data set, with the clips of each identity at hand."""

    def __init__(
        self, dir: str | os.PathLike, split: str, window: WindowSpec, first_identity: int = 0
    ):
        rows = list_clips(dir, split)
        short = [row["clip"] for row in rows if row["frames"] < window.frames]
        if short:
            raise InputError(f"{short[0]} in {dir} has fewer than {window.frames} frames.")
        self.names = [row["clip"] for row in rows]
        self.emotion = np.array([row["emotion"] for row in rows])
        self._records = open_records(dir, split)
        self.identities, self.identity = np.unique(
            [row["identity"] for row in rows], return_inverse=True
        )
        self._alike: dict[tuple[int, str], list[int]] = collections.defaultdict(list)
        for index in range(len(rows)):
            self._alike[self._look(index)].append(index)
        self._first_identity = first_identity

    def __len__(self) -> int:
        return len(self.identity)

    def __getitem__(self, index: SupportsIndex) -> "ClipRecord":
        identity = int(self.identity[index])
        return ClipRecord(self, int(index), self._first_identity + identity)

    def read(self, index: int) -> dict[str, Any]:
        """The record of clip `index`.

        Raises:
            InputError: it cannot be read, or was replaced; says which it is and in which file.
        """
        return read_record(self._records, index, self.names[index])

    def decode(self, index: int, jpeg: bytes, size: int | None) -> UInt8[np.ndarray, "s s 3"]:
        """A picture of clip `index`; raises InputError as `read` does."""
        return decode_picture(self._records, index, self.names[index], jpeg, size)

    def describe(self, index: int) -> str:
        """Where clip `index` is, for a person."""
        return describe_record(self._records, index, self.names[index])

    def alike(self, index: int) -> list[int]:
        """The clips that may lend clip `index` a portrait: of its identity, from its view."""
        return self._alike[self._look(index)]

    def _look(self, index: int) -> tuple[int, str]:
        return int(self.identity[index]), view_of(self.names[index])


class ClipRecord(NamedTuple):
    """A clip that is not read yet, and its identity's number among all data sets."""

    clips: Clips
    index: int
    identity: int

    def describe(self) -> str:
        return self.clips.describe(self.index)


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
    for copies in range(1, _MAX_COPIES + 1):  # As few as give the shares.
        wanted = weight * min(copies / weight.min(), _MAX_EPOCH)
        times = np.maximum(1, np.round(wanted))
        if np.abs(times / wanted - 1).max() <= 1 / (2 * _MAX_COPIES):
            break
    return times.astype(int)


@dataclasses.dataclass(frozen=True)
class CutWindow(grain.transforms.RandomMap):
    """A clip to a training sample: a random window, its sound, and a portrait."""

    window: WindowSpec

    def random_map(self, element: ClipRecord, rng: np.random.Generator) -> dict[str, np.ndarray]:
        spec, (clips, index, identity) = self.window, element
        record = clips.read(index)
        frames = record["frames"]
        start = int(rng.integers(len(frames) - spec.frames + 1))
        # A chunk never begins before the clip: neither does one when a voice is rendered.
        offset = int(rng.integers(min(spec.chunk - spec.frames, start) + 1))
        heard = (start - offset - spec.past) * SAMPLES_PER_FRAME
        source, shown = index, record
        if spec.portrait == "identity":
            source = int(rng.choice(clips.alike(index)))
            shown = record if source == index else clips.read(source)
        if spec.portrait == "pose":
            chosen = _like_posed(record["landmarks"], start + spec.frames // 2, rng)
        else:
            chosen = int(rng.integers(len(shown["frames"])))
        waveform = to_float(record["audio"])
        cut = slice(start, start + spec.frames)
        pictures = np.stack([clips.decode(index, jpeg, spec.size) for jpeg in frames[cut]])
        portrait = clips.decode(source, shown["frames"][chosen], spec.size)
        landmarks, box = record["landmarks"][cut], record["sync_box"]
        if spec.steady and landmarks.any():
            there = shown["landmarks"][chosen]
            pictures, landmarks = hold_still(pictures, landmarks, portrait, there)
            box = sync_box(landmarks)
        sample = {
            "portrait": portrait,
            "frames": pictures,
            "audio": window(waveform, heard, spec.audio_samples),
            "offset": np.int32(offset),
            "mel": mel_window(waveform, start),
            "sync_box": box,
            "landmarks": landmarks,
            "emotion": np.int32(record["emotion"]),
            "identity": np.int32(identity),
        }
        another = functools.partial(_another_start, start, len(frames), rng)
        if spec.sync_pairs == "mel":
            sample["shifted_mel"] = mel_window(waveform, another())
        if spec.sync_pairs == "mfcc":
            starts = start, *(another() for _ in range(OTHER_MOMENTS))
            sample["mfcc"] = np.stack([mfcc_window(waveform, at) for at in starts])
        return sample


def _like_posed(
    landmarks: Float32[np.ndarray, "t 68 2"], frame: int, rng: np.random.Generator
) -> int:
    """Of a few frames drawn, the one in which eyes and nose lie most as in `frame`.

    No voice tells how a head is turned; what the portrait leaves of it only blurs the answer.
    Frames near in time are left out if the clip has others: they show the mouth that is asked for.
    """
    numbers = np.arange(len(landmarks))
    apart = numbers[np.abs(numbers - frame) >= min(_APART, max(frame, len(numbers) - 1 - frame))]
    drawn = rng.choice(apart, _POSES)
    upper = landmarks[:, 27:48]
    return int(drawn[((upper[drawn] - upper[frame]) ** 2).sum((1, 2)).argmin()])


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
    dir: str | os.PathLike,
    split: str,
    size: int | None = None,
    indices: Iterable[int] | None = None,
) -> Iterator[EvaluationClip]:
    """Yields the clips of a split, in order, with the portrait to render each from.

    The portrait is the first frame of a neutral clip of the same identity, from the same view, as
    the published MEAD protocols have it; without one, the clip's own first frame. `size` resizes
    the pictures.

    Args:
        indices: of the clips that are wanted; None: each one once.

    Raises:
        InputError: there is no such data set or split, or a clip cannot be read; says which.
    """
    clips = Clips(dir, split, WindowSpec(frames=1))
    for index in range(len(clips)) if indices is None else indices:
        record = clips.read(index)
        neutral = (other for other in clips.alike(index) if clips.emotion[other] == _NEUTRAL)
        source = next(neutral, index)
        shown = record if source == index else clips.read(source)
        yield EvaluationClip(
            portrait=clips.decode(source, shown["frames"][0], size),
            frames=np.stack([clips.decode(index, jpeg, size) for jpeg in record["frames"]]),
            audio=to_float(record["audio"]),
            landmarks=record["landmarks"],
            sync_box=record["sync_box"],
            coefficients=record["coefficients"],
            emotion=int(record["emotion"]),
            identity=record["identity"].decode(),
            clip=record["clip"].decode(),
        )
