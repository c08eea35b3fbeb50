"""What is written is what is read, whole or not at all, and without TensorFlow."""

import pickle
import resource
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from data_pipeline import records
from data_pipeline.errors import InputError


class Clip(NamedTuple):
    frames: np.ndarray
    audio: np.ndarray
    landmarks: np.ndarray
    sync_box: np.ndarray
    emotion: int
    identity: str
    clip: str


class SyntheticClip(NamedTuple):
    frames: np.ndarray
    audio: np.ndarray
    landmarks: np.ndarray
    sync_box: np.ndarray
    coefficients: np.ndarray
    phonemes: np.ndarray
    emotion: int
    identity: str
    clip: str


def make_clip(identity: int, take: int, count: int = 6, size: int = 32) -> Clip:
    rng = np.random.default_rng([identity, take])
    coarse = rng.integers(0, 255, (count, 4, 4, 3), np.uint8)
    return Clip(
        frames=coarse.repeat(size // 4, 1).repeat(size // 4, 2),
        audio=rng.integers(-20_000, 20_000, count * 640, np.int16),
        landmarks=rng.random((count, 68, 2), np.float32),
        sync_box=np.array([0.1, 0.2, 0.9, 0.8], np.float32),
        emotion=take - 1,
        identity=f"person{identity}",
        clip=f"person{identity}_{take}",
    )


def sources(clips) -> list[records.Source]:
    return [
        records.Source(clip.clip, clip.identity, lambda clip=clip: records.encode_clip(clip))
        for clip in clips
    ]


def split_of(source: records.Source) -> str:
    return "test" if source.identity == "person2" else "train"


CLIPS = [make_clip(identity, take) for identity in range(3) for take in range(3)]


def test_round_trip(tmp_path):
    records.write_records(sources(CLIPS), tmp_path, split_of)
    train, test = (records.open_records(tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (6, 3)
    for record, clip in zip([*train, *test], CLIPS, strict=True):
        assert record["clip"].decode() == clip.clip
        assert record["identity"].decode() == clip.identity
        assert record["emotion"] == clip.emotion
        np.testing.assert_array_equal(record["audio"], clip.audio)
        np.testing.assert_array_equal(record["landmarks"], clip.landmarks)
        np.testing.assert_array_equal(record["sync_box"], clip.sync_box)
        frames = np.stack([records.decode_jpeg(data) for data in record["frames"]])
        assert np.abs(frames.astype(int) - clip.frames).mean() < 1
        # What a real clip does not know is zeros of the shape that it would have.
        assert record["boxes"].shape == (6, 3) and not record["boxes"].any()
        assert record["coefficients"].shape == (6, 64) and not record["coefficients"].any()
        assert record["phonemes"].shape == (6,) and not record["phonemes"].any()


def test_the_synthetic_world_keeps_its_truth(tmp_path):
    clip = SyntheticClip(
        **CLIPS[0]._asdict(),
        coefficients=np.random.default_rng(0).random((6, 64), np.float32),
        phonemes=np.arange(6, dtype=np.int32),
    )
    records.write_records(sources([clip]), tmp_path, split_of)
    record = records.open_records(tmp_path, "train")[0]
    np.testing.assert_array_equal(record["coefficients"], clip.coefficients)
    np.testing.assert_array_equal(record["phonemes"], clip.phonemes)


def test_the_list_of_clips_is_in_the_records_order(tmp_path):
    records.write_records(sources(CLIPS[::-1]), tmp_path, split_of)
    rows = records.list_clips(tmp_path, "train")
    opened = records.open_records(tmp_path, "train")
    assert [row["clip"] for row in rows] == [record["clip"].decode() for record in opened]
    assert rows[0] == {"clip": "person0_0", "identity": "person0", "emotion": -1, "frames": 6}


def test_a_data_source_travels_to_another_process(tmp_path):
    records.write_records(sources(CLIPS), tmp_path, split_of)
    copied = pickle.loads(pickle.dumps(records.open_records(tmp_path, "train")))
    assert copied[3]["clip"] == b"person1_0"


def test_records_can_be_written_anew_with_more(tmp_path):
    records.write_records(sources(CLIPS[:4]), tmp_path, split_of)
    before = [records.open_records(tmp_path, "train")[i] for i in range(4)]
    kept = list(records.iterate_sources(tmp_path))
    records.write_records([*kept, *sources(CLIPS[4:])], tmp_path, split_of)
    after = records.open_records(tmp_path, "train")
    assert len(after) == 6
    for old, new in zip(before, after, strict=False):
        assert old["frames"] == new["frames"]  # The very bytes: not encoded a second time.
        np.testing.assert_array_equal(old["audio"], new["audio"])


def test_a_finished_clip_is_kept_in_a_file(tmp_path):
    example = records.encode_clip(CLIPS[5])
    records.save_example(tmp_path / "a.npz", example)
    back = records.load_example(tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert back.keys() == example.keys()
    for key, value in example.items():
        assert type(back[key]) is type(value), key
        np.testing.assert_array_equal(back[key], value)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_what_was_there(tmp_path, error):
    def fail():
        raise error

    broken = [*sources(CLIPS), records.Source("zz", "person0", fail)]
    with pytest.raises(error):
        records.write_records(broken, tmp_path, split_of)
    assert list(tmp_path.iterdir()) == []
    records.write_records(sources(CLIPS[:2]), tmp_path, split_of)
    with pytest.raises(error):
        records.write_records(broken, tmp_path, split_of)
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
    assert len(records.open_records(tmp_path, "train")) == 2


def test_killed_between_two_renames_nothing_is_lost(tmp_path):
    records.write_records(sources(CLIPS[:2]), tmp_path, split_of)
    (tmp_path / "records").rename(tmp_path / ".records.replaced")
    with pytest.raises(KeyError):
        records.write_records(
            [records.Source("zz", "person0", lambda: {}["nothing"])], tmp_path, split_of
        )
    assert len(records.open_records(tmp_path, "train")) == 2


def test_killed_while_the_old_records_were_deleted_the_next_are_written(tmp_path):
    records.write_records(sources(CLIPS[:2]), tmp_path, split_of)
    (tmp_path / ".records.replaced").mkdir()
    (tmp_path / ".records.replaced" / "features.json").touch()
    records.write_records(sources(CLIPS[:3]), tmp_path, split_of)
    assert len(records.open_records(tmp_path, "train")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_a_clip_whose_file_is_in_pieces_is_none(tmp_path):
    for name in ("a", "b", "c"):
        records.save_example(tmp_path / f"{name}.npz", records.encode_clip(CLIPS[5]))
    (tmp_path / "a.npz").write_bytes(b"")
    whole = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[: len(whole) // 2])
    assert list(records.list_examples(tmp_path)) == ["c"]


def test_what_is_missing_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="no clip was accepted"):
        records.write_records([], tmp_path, split_of)
    with pytest.raises(InputError, match="no prepared data set"):
        records.open_records(tmp_path, "train")
    records.write_records(sources(CLIPS[:2]), tmp_path, split_of)
    with pytest.raises(InputError, match="no split 'test', only train: .* --test-identities FILE"):
        records.open_records(tmp_path, "test")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        records.write_records(sources(CLIPS[:1]), tmp_path / "file", split_of)


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(tmp_path):
    records.write_records(sources(CLIPS[:1]), tmp_path, split_of)
    noise = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8)
    large = CLIPS[0]._replace(frames=noise, clip="large")
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
        with pytest.raises(InputError, match=r"cannot write .*records \(.*File too large\): give"):
            records.write_records(sources([large]), tmp_path, split_of)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
    assert records.list_clips(tmp_path, "train")[0]["clip"] == "person0_0"


def test_a_damaged_list_is_a_sentence_for_every_reader(tmp_path):
    records.write_records(sources(CLIPS[:2]), tmp_path, split_of)
    path = tmp_path / "records" / "clips.json"
    whole = path.read_text()
    for text in ("", whole[:-9], '{"train": [3]}', '{"train": [{"clip": "a"}]}', "[]"):
        path.write_text(text)
        for reader in (records.list_splits, records.split_of_clips, records.trained_people):
            with pytest.raises(InputError, match=f"{path} is damaged .*: copy the data set again"):
                reader([tmp_path] if reader is records.trained_people else tmp_path)
        with pytest.raises(InputError, match=f"{path} is damaged"):
            next(records.iterate_sources(tmp_path))


def test_a_damaged_record_is_named_by_whoever_takes_it_over(tmp_path):
    records.write_records(sources(CLIPS[:2]), tmp_path, split_of)
    (path,) = (tmp_path / "records").glob("*.array_record*")
    data = bytearray(path.read_bytes())
    used = np.flatnonzero(np.frombuffer(data, np.uint8))
    data[used[len(used) // 4]] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"clip person0_0 of .* \(record 0 of .*cannot be read"):
        records.write_records(list(records.iterate_sources(tmp_path)), tmp_path, split_of)
    assert path.exists()


def test_jpegs_are_resized_by_area():
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    frame = np.repeat(checkers[..., None], 3, 2).astype(np.uint8)
    small = records.decode_jpeg(records.encode_jpeg(frame), 32)
    assert small.shape == (32, 32, 3)
    assert np.abs(small.astype(int) - 127).max() < 6  # Sampled points would be black or white.
    assert records.decode_jpeg(records.encode_jpeg(frame), 96).shape == (96, 96, 3)


def test_jpegs_keep_thin_colour():
    lips = np.full((32, 32, 3), 180, np.uint8)
    lips[15] = (200, 60, 60)
    back = records.decode_jpeg(records.encode_jpeg(lips))
    assert np.abs(back[15].astype(int) - (200, 60, 60)).max() < 12


def test_tensorflow_is_not_needed(tmp_path):
    records.write_records(sources(CLIPS), tmp_path, split_of)
    code = """
import sys
from data_pipeline import records
from data_pipeline.loader import WindowSpec, training_batches
source = next(records.iterate_sources(sys.argv[1]))
records.write_records([source], sys.argv[2], lambda source: "train")
batches = training_batches({sys.argv[2]: 1.0}, "train", 2, WindowSpec(size=32))
print(next(batches)["frames"].shape)
batches.close()
assert not {"tensorflow", "torch", "reta_jax"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path), str(tmp_path / "again")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2, 5, 32, 32, 3)\n"
    assert done.stderr == ""
