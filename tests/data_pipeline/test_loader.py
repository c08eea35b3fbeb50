"""Batches: aligned to the sample, reproducible, shared out and resumed exactly."""

import json
import threading
import time
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from data_pipeline import loader, records
from data_pipeline.audio import log_mel, mfcc_window, to_float
from data_pipeline.augment import AugmentSpec
from data_pipeline.errors import InputError, TransientError
from data_pipeline.face import sync_box
from data_pipeline.loader import OTHER_MOMENTS, WindowSpec, training_batches
from data_pipeline.records import Source, encode_clip, open_records, write_records

SIZE = 16


class Clip(NamedTuple):
    frames: np.ndarray
    audio: np.ndarray
    landmarks: np.ndarray
    sync_box: np.ndarray
    emotion: int
    identity: str
    clip: str


def make_clip(identity: int, take: int, count: int) -> Clip:
    """Frame t is grey 5 t + 10; in the blue channel 20 times the identity; noise as voice."""
    rng = np.random.default_rng([identity, take])
    frames = np.empty((count, SIZE, SIZE, 3), np.uint8)
    frames[...] = (10 + 5 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    frames[..., 2] = 20 * identity
    return Clip(
        frames=frames,
        audio=rng.integers(-9000, 9000, count * 640, np.int16),
        landmarks=rng.random((count, 68, 2), np.float32),
        sync_box=rng.random(4, np.float32),
        emotion=(5, 4, -1)[take % 3],
        identity=f"p{identity}",
        clip=f"p{identity}_{take:02d}",
    )


def write(path, clips) -> str:
    sources = [Source(c.clip, c.identity, lambda c=c: encode_clip(c)) for c in clips]
    write_records(sources, path, lambda source: "test" if source.identity == "p9" else "train")
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    clips = [make_clip(i, k, 20 + 3 * k) for i in (0, 3, 6) for k in range(4)]
    return write(tmp_path_factory.mktemp("data"), [*clips, make_clip(9, 0, 20), make_clip(9, 1, 9)])


def batches(data, batch=4, spec=None, **options) -> loader.BatchIterator:
    options = {"seed": 1, "threads": 0} | options
    return training_batches({data: 1.0}, "train", batch, spec or WindowSpec(size=SIZE), **options)


def take(iterator, count: int) -> list[dict[str, np.ndarray]]:
    found = [next(iterator) for _ in range(count)]
    iterator.close()
    return found


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def frame_numbers(frames: np.ndarray) -> np.ndarray:
    return np.round((frames[..., 0].mean(axis=(-2, -1)) - 10) / 5).astype(int)


def test_batches_have_their_shapes_and_types(data):
    batch = take(batches(data, 3), 1)[0]
    described = {key: (value.shape, str(value.dtype)) for key, value in batch.items()}
    assert described == {
        "portrait": ((3, SIZE, SIZE, 3), "uint8"),
        "frames": ((3, 5, SIZE, SIZE, 3), "uint8"),
        "audio": ((3, 62 * 640), "float32"),
        "offset": ((3,), "int32"),
        "mel": ((3, 80, 16), "float32"),
        "sync_box": ((3, 4), "float32"),
        "landmarks": ((3, 5, 68, 2), "float32"),
        "emotion": ((3,), "int32"),
        "identity": ((3,), "int32"),
    }


def test_every_sample_is_aligned_with_its_clip(data):
    clips = {tuple(record["sync_box"]): record for record in open_records(data, "train")}
    offsets, starts = Counter(), Counter()
    for batch in take(batches(data, 8), 30):
        for i in range(8):
            record = clips[tuple(batch["sync_box"][i])]
            waveform = to_float(record["audio"])
            numbers = frame_numbers(batch["frames"][i])
            start, offset = numbers[0], batch["offset"][i]
            assert numbers.tolist() == list(range(start, start + 5))
            # The sound of frames[0] begins past + offset frames into what is heard.
            heard = batch["audio"][i]
            begin = (start - offset - 50) * 640
            inside = np.arange(begin, begin + len(heard))
            known = (inside >= 0) & (inside < len(waveform))
            np.testing.assert_array_equal(heard[known], waveform[inside[known]])
            assert not heard[~known].any()
            first = int(80 * start / 25)
            np.testing.assert_array_equal(batch["mel"][i], log_mel(waveform)[:, first : first + 16])
            np.testing.assert_array_equal(
                batch["landmarks"][i], record["landmarks"][start : start + 5]
            )
            assert batch["emotion"][i] == record["emotion"]
            assert 0 <= offset <= 5 and offset <= start
            offsets[int(offset)] += 1
            starts[int(start)] += 1
    assert set(offsets) == set(range(6))
    assert set(starts) >= set(range(16)) and max(starts) == 29 - 5


def test_a_shifted_mel_is_of_another_moment_of_the_same_clip(data):
    clips = {tuple(record["sync_box"]): record for record in open_records(data, "train")}
    for batch in take(batches(data, 8, WindowSpec(size=SIZE, sync_pairs="mel")), 5):
        for i in range(8):
            whole = log_mel(to_float(clips[tuple(batch["sync_box"][i])]["audio"]))
            firsts = [int(80 * t / 25) for t in range((whole.shape[1] - 16) * 25 // 80 + 1)]
            here = [
                t
                for t, first in enumerate(firsts)
                if np.array_equal(batch["shifted_mel"][i], whole[:, first : first + 16])
            ]
            assert len(here) == 1
            assert abs(here[0] - frame_numbers(batch["frames"][i])[0]) >= 3


def test_of_the_mfccs_the_first_is_the_frames_own(data):
    clips = {tuple(record["sync_box"]): record for record in open_records(data, "train")}
    batch = take(batches(data, 8, WindowSpec(size=SIZE, sync_pairs="mfcc")), 1)[0]
    assert batch["mfcc"].shape == (8, 1 + OTHER_MOMENTS, 13, 20)
    for i in range(8):
        waveform = to_float(clips[tuple(batch["sync_box"][i])]["audio"])
        own = frame_numbers(batch["frames"][i])[0]
        known = {t: mfcc_window(waveform, t) for t in range(25)}
        starts = [[t for t in known if np.array_equal(x, known[t])] for x in batch["mfcc"][i]]
        assert starts[0] == [own]
        assert all(len(found) == 1 and abs(found[0] - own) >= 3 for found in starts[1:])


def test_a_portrait_of_a_like_pose_is_of_another_moment():
    landmarks = np.zeros((200, 68, 2), np.float32)
    angle = np.random.default_rng(0).permutation(200)  # of the head, in another order than time
    landmarks[:, 27:48] = angle[:, None, None]
    landmarks[:, 48:] = -3 * angle[:, None, None]  # the mouth does not count
    found = [loader._like_posed(landmarks, 77, np.random.default_rng(i)) for i in range(300)]
    assert min(abs(frame - 77) for frame in found) >= 12 and len(set(found)) > 30
    # The nearest of eight among 200 angles is about 12 away, one at random about 55.
    assert np.mean(np.abs(angle[found] - angle[77])) < 20
    for frames in (1, 5, 20):
        for frame in range(frames):
            at = loader._like_posed(landmarks[:frames], frame, np.random.default_rng(0))
            assert 0 <= at < frames
            assert frames == 1 or at != frame


def test_a_steady_head_stays_where_the_portrait_has_it(tmp_path):
    """A head that walks to the right, one pixel a frame, and does nothing else."""
    clip = make_clip(0, 0, 8)
    face = np.random.default_rng(0).uniform(0.3, 0.6, (68, 2)).astype(np.float32)
    path = np.stack([np.arange(8) / SIZE, np.zeros(8)], -1)[:, None].astype(np.float32)
    clip = clip._replace(landmarks=face + path, frames=np.full_like(clip.frames, 7))
    data = write(tmp_path / "data", [clip])
    for steady in (False, True):
        spec = WindowSpec(size=SIZE, steady=steady)
        for batch in take(batches(data, 2, spec), 3):
            moved = np.ptp(batch["landmarks"][..., 27:36, :], axis=1).max()
            assert moved < 0.01 if steady else moved == pytest.approx(4 / SIZE, abs=1e-5)
            for row, landmarks in enumerate(batch["landmarks"]):
                expected = sync_box(landmarks) if steady else clip.sync_box
                np.testing.assert_allclose(batch["sync_box"][row], expected, atol=1e-6)


def test_without_landmarks_nothing_is_held_still(tmp_path):
    clip = make_clip(0, 0, 8)
    clip = clip._replace(landmarks=np.zeros_like(clip.landmarks))
    data = write(tmp_path / "data", [clip])
    loose, steady = (
        take(batches(data, 2, WindowSpec(size=SIZE, steady=steady)), 2) for steady in (False, True)
    )
    assert all(same(a, b) for a, b in zip(loose, steady, strict=True))


def test_portraits_are_of_the_clip_or_of_the_person(data):
    clips = {tuple(record["sync_box"]): record for record in open_records(data, "train")}
    for portrait in ("clip", "identity", "pose"):
        spec = WindowSpec(size=SIZE, portrait=portrait)
        elsewhere = 0
        for batch in take(batches(data, 8, spec), 15):
            speaker = np.round(batch["portrait"][..., 2].mean(axis=(1, 2)) / 20).astype(int)
            assert speaker.tolist() == (3 * batch["identity"]).tolist()
            for box, number in zip(
                batch["sync_box"], frame_numbers(batch["portrait"]), strict=True
            ):
                elsewhere += number >= len(clips[tuple(box)]["frames"])
        # Numbers beyond the clip's end can only come from a longer clip of the same person.
        assert (elsewhere > 0) == (portrait == "identity")


def test_the_same_seed_gives_the_same_batches(data):
    first, again = take(batches(data), 5), take(batches(data, threads=3), 5)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    other = take(batches(data, seed=2), 5)
    assert not any(same(a, b) for a, b in zip(first, other, strict=True))
    assert not same(first[0], first[1])


def test_an_epoch_has_every_clip_once_and_the_next_another_order(data):
    order = [b["sync_box"][:, 0] for b in take(batches(data, 12), 3)]
    assert len(set(order[0])) == 12
    assert set(order[0]) == set(order[1]) == set(order[2])
    assert order[0].tolist() != order[1].tolist() != order[2].tolist()


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, {}),
        (4, {}),
        (2, {"pair_within": 4, "augment": AugmentSpec(hue=20, crop=0.2, mirror=0.5, gain_db=6)}),
    ],
)
def test_resuming_on_any_number_of_processes_continues_exactly(data, processes, options):
    spec = WindowSpec(size=SIZE, portrait="identity")
    whole = take(batches(data, 8, spec, **options), 6)
    iterator = batches(data, 8, spec, threads=2, **options)
    for _ in range(3):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    assert state == {"global_next_index": 24}
    shares = [
        batches(data, 8, spec, process_index=index, process_count=processes, **options)
        for index in range(processes)
    ]
    for share in shares:
        share.set_state(state)
    for expected in whole[3:]:
        parts = [next(share) for share in shares]
        assert all(len(part["offset"]) == 8 // processes for part in parts)
        union = {key: np.concatenate([part[key] for part in parts]) for key in expected}
        assert same(union, expected)
    assert all(share.get_state() == {"global_next_index": 48} for share in shares)


def test_another_batch_size_goes_on_with_whole_batches(data):
    """So that pairs stay those that were made within a batch."""
    spec = WindowSpec(size=SIZE)
    whole = take(batches(data, 6, spec, pair_within=6), 4)
    iterator = batches(data, 6, spec, pair_within=6)
    iterator.set_state({"global_next_index": 8})
    assert same(next(iterator), whole[2]) and iterator.get_state() == {"global_next_index": 18}


def test_data_sets_are_mixed_by_weight(data, tmp_path):
    other = write(tmp_path / "other", [make_clip(11, k, 12) for k in range(2)])
    mixed = training_batches(
        {data: 3.0, other: 1.0}, "train", 8, WindowSpec(size=SIZE), seed=0, threads=0
    )
    found = Counter(int(i) for batch in take(mixed, 25) for i in batch["identity"])
    assert set(found) == {0, 1, 2, 3}  # Counted on over the data sets.
    assert found[3] == 50


def test_no_identity_takes_more_than_its_share(tmp_path):
    one_man = [make_clip(0, k, 8) for k in range(20)]
    others = [make_clip(i, k, 8) for i in (1, 2, 3) for k in range(2)]
    path = write(tmp_path, [*one_man, *others])

    def shares(limit):
        found = take(batches(path, 10, max_identity_share=limit), 60)
        return np.bincount(np.concatenate([b["identity"] for b in found])) / 600

    np.testing.assert_allclose(shares(1.0), [20 / 26, 2 / 26, 2 / 26, 2 / 26], atol=0.01)
    np.testing.assert_allclose(shares(0.4), [0.4, 0.2, 0.2, 0.2], atol=0.02)
    np.testing.assert_allclose(shares(0.0), [0.25] * 4, atol=0.02)


def test_repetitions_of_a_lopsided_set():
    identity = np.repeat(np.arange(38), [893, *[1] * 29, *[2] * 8])
    counts = np.bincount(identity, loader.repetitions(identity, 0.15))
    share = counts / counts.sum()
    assert abs(share[0] - 0.15) < 0.01
    np.testing.assert_allclose(share[1:30], 0.85 / 45, rtol=0.01)
    np.testing.assert_allclose(share[30:], 2 * 0.85 / 45, rtol=0.01)
    assert (loader.repetitions(identity, 1.0) == 1).all()
    equal = np.bincount(identity, loader.repetitions(identity, 0.0))
    assert equal.max() - equal.min() <= 1
    assert loader.repetitions([0, 0], 0.1).tolist() == [1, 1]  # One identity alone is all.


@pytest.mark.parametrize("counts", [[10, 7], [10, 9, 8], [3, 2], [1, 1], [12, 6]])
def test_repetitions_of_nearly_equal_shares(counts):
    identity = np.repeat(np.arange(len(counts)), counts)
    times = loader.repetitions(identity, 0.0)
    found = np.bincount(identity, times) / times.sum()
    np.testing.assert_allclose(found, 1 / len(counts), rtol=0.04)
    assert times.min() == 1 or len(set(counts)) > 1  # Not more of them than that needs.


def test_frames_are_resized(data):
    batch = take(batches(data, 2, WindowSpec(size=8)), 1)[0]
    assert batch["frames"].shape == (2, 5, 8, 8, 3) and batch["portrait"].shape == (2, 8, 8, 3)


def test_only_the_window_is_decoded(data, monkeypatch):
    decoded = Counter()
    decode = records.decode_jpeg

    def counting(data, size):
        decoded["frames"] += 1
        return decode(data, size)

    monkeypatch.setattr(records, "decode_jpeg", counting)
    take(batches(data, 4), 2)
    assert decoded["frames"] == 8 * 6


def neighbours(values: np.ndarray, share: int) -> np.ndarray:
    """Each row's value and its neighbour's, as the cross-synthesis takes them."""
    shares = values.reshape(-1, share)
    return np.stack([shares, np.roll(shares, 1, axis=1)], -1).reshape(-1, 2)


@pytest.mark.parametrize("share", [2, 4, 8])
def test_neighbours_feel_differently_and_are_different_people(tmp_path, share):
    # A third of the clips of each emotion and of none: they can be parted in any batch of eight.
    data = write(tmp_path, [make_clip(i, k, 8) for i in range(4) for k in range(3)])
    plain, paired = take(batches(data, 8), 6), take(batches(data, 8, pair_within=share), 6)
    for before, batch in zip(plain, paired, strict=True):
        assert set(before["sync_box"][:, 0]) == set(batch["sync_box"][:, 0])
        known = [pair for pair in neighbours(batch["emotion"], share) if (pair >= 0).all()]
        assert all(a != b for a, b in known)
        assert all(a != b for a, b in neighbours(batch["identity"], share))
    alike = [a == b for batch in plain for a, b in neighbours(batch["identity"], share)]
    assert any(alike)


def test_every_pairing_orders_the_same_samples(data):
    """On other devices, and without EDS, a step learns from the very same windows."""
    spec = WindowSpec(size=SIZE, portrait="identity")
    augment = AugmentSpec(brightness=0.2, crop=0.2, gain_db=6)

    def samples(share: int) -> list[list[bytes]]:
        found = take(batches(data, 8, spec, pair_within=share, augment=augment), 3)
        rows = [[b"".join(x[i].tobytes() for x in b.values()) for i in range(8)] for b in found]
        return list(map(sorted, rows))

    assert samples(2) == samples(8) == samples(0)


def test_an_epoch_that_is_paired_has_every_clip_once(data):
    found = np.concatenate([b["sync_box"][:, 0] for b in take(batches(data, 4, pair_within=4), 3)])
    assert len(set(found)) == 12


def test_readers_that_reach_a_batch_together_pair_it_once(data, monkeypatch):
    pair, times = loader._paired_order, Counter()

    def slow(clips, batch_size, share, batch):
        times[batch] += 1
        time.sleep(0.02)  # so that the others come meanwhile
        return pair(clips, batch_size, share, batch)

    monkeypatch.setattr(loader, "_paired_order", slow)
    take(batches(data, 8, pair_within=8, threads=4), 2)
    assert len(times) >= 2 and set(times.values()) == {1}


def test_without_augmentation_nothing_changes(data):
    plain, off = take(batches(data), 3), take(batches(data, augment=AugmentSpec()), 3)
    assert all(same(a, b) for a, b in zip(plain, off, strict=True))
    varied = take(batches(data, augment=AugmentSpec(brightness=0.2, crop=0.2)), 3)
    for a, b in zip(plain, varied, strict=True):
        untouched = ("audio", "offset", "mel", "emotion", "identity")
        assert all(np.array_equal(a[key], b[key]) for key in untouched)
        assert not any(np.array_equal(a[key], b[key]) for key in a.keys() - set(untouched))
        assert {k: (v.shape, v.dtype) for k, v in a.items()} == {
            k: (v.shape, v.dtype) for k, v in b.items()
        }


@pytest.mark.parametrize("threads", [0, 2])
def test_after_a_fault_that_passed_the_same_batch_comes(data, threads, monkeypatch):
    expected = take(batches(data, 4), 2)
    iterator = batches(data, 4, threads=threads)
    read, faults = loader.Clips.read, ["gone for a moment"]

    def once_broken(self, index):
        if index % 2 and faults:
            raise InputError(faults.pop())
        return read(self, index)

    monkeypatch.setattr(loader.Clips, "read", once_broken)
    with pytest.raises(InputError, match="for a moment"):
        next(iterator)
    assert all(same(a, b) for a, b in zip(take(iterator, 2), expected, strict=True))


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_file_is_named_with_its_clip(tmp_path, threads):
    path = write(tmp_path / "set", [make_clip(0, 0, 40)])
    (file,) = (tmp_path / "set" / "records").glob("*.array_record*")
    data = bytearray(file.read_bytes())
    content = np.flatnonzero(np.frombuffer(data, np.uint8))
    middle = content[len(content) // 2]
    data[middle : middle + 64] = bytes(64)
    file.write_bytes(data)
    iterator = batches(path, 2, threads=threads)
    with pytest.raises(InputError, match=rf"clip p0_00 of {path} \(record 0 of .*{file.name}\)"):
        next(iterator)
    iterator.close()


def test_records_that_were_replaced_meanwhile_are_not_taken_for_the_listed_ones(tmp_path):
    write(tmp_path, [make_clip(0, 0, 5), make_clip(0, 1, 5)])
    clips = loader.Clips(tmp_path, "train", WindowSpec())
    write(tmp_path, [make_clip(0, 1, 5), make_clip(0, 2, 5)])
    with pytest.raises(InputError, match=r"clip p0_00 of .* is clip p0_01 by now: .* start again"):
        clips.read(0)


def test_a_damaged_picture_is_named_with_its_clip(tmp_path):
    example = encode_clip(make_clip(0, 0, 5)) | {"frames": [b"no jpeg"] * 5}
    write_records([Source("p0_00", "p0", lambda: example)], tmp_path, lambda source: "train")
    with pytest.raises(InputError, match="clip p0_00 of .* cannot be read"):
        next(batches(tmp_path))
    with pytest.raises(InputError, match="clip p0_00 of .* cannot be read"):
        next(loader.evaluation_clips(tmp_path, "train"))


def test_storage_that_does_not_answer_is_named_and_not_waited_for(data, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(loader, "_PATIENCE", 0.3)
    monkeypatch.setattr(loader, "_FAREWELL", 0.1)
    monkeypatch.setattr(loader.Clips, "read", lambda self, index: answer.wait())
    iterator = batches(data, 4, threads=2)
    with pytest.raises(TransientError, match=r"no answer for 0 s while reading clip p\d_0\d of "):
        next(iterator)
    iterator.close()
    readers = [t for t in threading.enumerate() if t.name.startswith("reader-")]
    assert readers and all(thread.daemon for thread in readers)  # Leaving does not wait for them.
    answer.set()


def test_readers_end_with_their_iterator(data):
    before = set(threading.enumerate())
    iterator = batches(data, 4, threads=3)
    next(iterator)
    readers = set(threading.enumerate()) - before
    assert len(readers) == 3
    del iterator
    for reader in readers:
        reader.join(timeout=60)
    assert not any(reader.is_alive() for reader in readers)


def test_bad_arguments_are_sentences(data, tmp_path):
    with pytest.raises(InputError, match="cannot be shared by 3"):
        batches(data, 4, process_count=3)
    with pytest.raises(InputError, match="no shares of 3"):
        batches(data, 4, pair_within=3)
    with pytest.raises(InputError, match="no prepared data set"):
        batches(str(tmp_path))
    short = write(tmp_path / "short", [make_clip(0, 0, 4)])
    with pytest.raises(InputError, match="fewer than 5 frames"):
        batches(short)


def test_evaluation_yields_whole_clips_with_a_neutral_portrait(data, tmp_path):
    clips = list(loader.evaluation_clips(data, "train"))
    assert [clip.clip for clip in clips] == sorted(clip.clip for clip in clips)
    assert len(clips) == 12
    for clip in clips:
        number = int(clip.clip[-2:])
        count = 20 + 3 * number
        truth = make_clip(int(clip.identity[1:]), number, count)
        assert frame_numbers(clip.frames).tolist() == list(range(count))
        np.testing.assert_array_equal(clip.audio, to_float(truth.audio))
        np.testing.assert_array_equal(clip.landmarks, truth.landmarks)
        assert clip.coefficients.shape == (count, 64)
        assert clip.emotion == truth.emotion
    # Take 0 is the neutral one; without any, a clip gives its own first frame.
    neutral = {clip.identity: clip for clip in clips if clip.clip.endswith("_00")}
    for clip in clips:
        np.testing.assert_array_equal(clip.portrait, neutral[clip.identity].frames[0])
    later = loader.evaluation_clips(data, "train", indices=[3, 7])
    assert [clip.clip for clip in later] == [clips[3].clip, clips[7].clip]
    write(tmp_path, [make_clip(0, 1, 6)._replace(frames=make_clip(0, 1, 9).frames[3:])])
    (alone,) = loader.evaluation_clips(tmp_path, "train", size=8)
    assert alone.frames.shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(alone.portrait, alone.frames[0])


def test_portraits_are_lent_to_clips_of_the_same_view_alone(tmp_path):
    def seen(view: int, take: int, name: str) -> Clip:
        """The blue channel tells the view; take 0 begins with frame 0, take 1 with frame 3."""
        frames = make_clip(view, take, 12 + 3 * take).frames[3 * take :]
        clip = make_clip(view, take, 12)
        return clip._replace(frames=frames, identity="M003", clip=f"M003_{name}_1_001")

    def views(pictures: np.ndarray) -> list[int]:
        return np.round(pictures[..., 2].mean((-2, -1)) / 20).astype(int).tolist()

    takes = {"front_angry": (0, 1), "front_neutral": (0, 0), "top_angry": (6, 1)}
    takes |= {"left_30_angry": (3, 1), "left_30_neutral": (3, 0)}
    data = write(tmp_path, [seen(*take, name) for name, take in takes.items()])
    portraits = {
        clip.clip: (views(clip.portrait), int(frame_numbers(clip.portrait)))
        for clip in loader.evaluation_clips(data, "train")
    }
    assert portraits == {
        "M003_front_angry_1_001": (0, 0),
        "M003_front_neutral_1_001": (0, 0),
        "M003_left_30_angry_1_001": (3, 0),
        "M003_left_30_neutral_1_001": (3, 0),
        "M003_top_angry_1_001": (6, 3),  # Nothing neutral from there: its own.
    }
    for batch in take(batches(data, 8, WindowSpec(size=SIZE, portrait="identity")), 4):
        assert views(batch["portrait"]) == views(batch["frames"][:, 0])
