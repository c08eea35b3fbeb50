"""What is broken on purpose is found, and told in one line each."""

import hashlib
import json
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

from data_pipeline.manifest import write_manifest
from data_pipeline.records import encode_jpeg, open_records
from data_pipeline.verify import _judge, main, verify
from tests.data_pipeline.sets import SIZE, example, row, small_set, write_set


def faults(out: Path, **options) -> list[str]:
    return verify(out, workers=1, **options).faults


def edit(out: Path, change) -> None:
    path = out / "records" / "clips.json"
    splits = json.loads(path.read_text())
    change(splits)
    path.write_text(json.dumps(splits))


def test_a_good_set_has_no_faults(tmp_path, capsys):
    report = verify(small_set(tmp_path), raw=True)
    assert report.faults == [] and report.notes == []
    assert [split[:3] for split in report.splits] == [("train", 2, 1), ("test", 1, 1)]
    assert report.splits[0].minutes == pytest.approx(2 * 30 / 25 / 60)
    assert main([str(tmp_path)]) == 0
    assert "no faults" in capsys.readouterr().out


def test_faults_are_lines_and_exit_code_1(tmp_path, capsys):
    small_set(tmp_path, emotion=np.int32(99))
    assert main([str(tmp_path), "--workers", "1"]) == 1
    *_, fault, last = capsys.readouterr().out.splitlines()
    assert fault == "train record 1 (b): emotion 99 is none" and last.endswith("1 faults")


JPEG = encode_jpeg(np.zeros((SIZE, SIZE, 3), np.uint8))
NOISE = encode_jpeg(np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), np.uint8))
NAN = np.full((30, 68, 2), np.nan, np.float32)
BROKEN = {
    "audio of shape (19200,) for 29 frames": {"frames": [JPEG] * 29},
    "audio of shape (19199,) for 30 frames": {"audio": np.zeros(19199, np.int16)},
    "landmarks of shape (29, 68, 2) for": {"landmarks": np.zeros((29, 68, 2), np.float32) + 0.5},
    "boxes of shape (1, 3) for 30": {"boxes": np.ones((1, 3), np.float32)},
    "coefficients of shape (2, 64)": {"coefficients": np.zeros((2, 64), np.float32)},
    "phonemes of shape (31,) for 30": {"phonemes": np.zeros(31, np.int32)},
    "landmarks with values that are not numbers": {"landmarks": NAN},
    "landmarks far outside": {"landmarks": np.full((30, 68, 2), 1.5, np.float32)},
    "a mouth outside": {"landmarks": np.full((30, 68, 2), 1.1, np.float32)},
    "a sync_box that is empty": {"sync_box": np.array([0.8, 0.2, 0.2, 0.8], np.float32)},
    "boxes without a size": {"boxes": np.full((30, 3), -1, np.float32)},
    "frame 3 cannot be decoded": {"frames": [JPEG] * 3 + [NOISE[:900]] + [JPEG] * 26},
    "frame 0 is a JPEG of 8x8 pixels": {
        "frames": [encode_jpeg(np.zeros((8, 8, 3), np.uint8))] + [JPEG] * 29
    },
    "frame 29 is a JPEG of 40x32": {
        "frames": [JPEG] * 29 + [encode_jpeg(np.zeros((32, 40, 3), np.uint8))]
    },
}


@pytest.mark.parametrize("told", BROKEN)
def test_a_record_that_does_not_hold_together(tmp_path, told):
    found = faults(small_set(tmp_path, **BROKEN[told]))
    assert all(fault.startswith("train record 1 (b): ") for fault in found)
    assert any(told in fault for fault in found)


def test_flipped_bytes_in_the_records_do_not_go_unnoticed(tmp_path):
    (path,) = (small_set(tmp_path) / "records").glob("*train.array_record*")
    whole, noticed = path.read_bytes(), 0
    before = [repr(record) for record in open_records(tmp_path, "train")]
    used = len(whole.rstrip(b"\0"))
    for place in np.random.default_rng(0).integers(0, used, 16):
        data = bytearray(whole)
        data[place] ^= 0xFF
        path.write_bytes(data)
        if any(fault.startswith("train") for fault in faults(tmp_path)):
            noticed += 1
        else:  # A byte that readers do not need.
            assert [repr(record) for record in open_records(tmp_path, "train")] == before
    assert noticed > 8


def test_a_truncated_record_file(tmp_path):
    (path,) = (small_set(tmp_path) / "records").glob("*train.array_record*")
    path.write_bytes(path.read_bytes()[:-1000])
    assert any("train" in fault for fault in faults(tmp_path))


def test_names_that_do_not_match_the_list(tmp_path):
    small_set(tmp_path)
    edit(tmp_path, lambda splits: splits["train"][0].update(clip="c", emotion=1, frames=31))
    found = faults(tmp_path)
    assert "train record 0 (c): clip is 'a', but clips.json says 'c'" in found
    assert "train record 0 (c): emotion is 5, but clips.json says 1" in found
    assert "train record 0 (c): frames is 30, but clips.json says 31" in found
    assert "a: accepted by the manifest, but not in the records" in found
    assert "c: in the records, but not accepted by the manifest" in found


def test_a_list_that_is_shorter_than_the_records(tmp_path):
    small_set(tmp_path)
    edit(tmp_path, lambda splits: splits["train"].pop())
    assert faults(tmp_path) == [
        "train: 2 records, but clips.json lists 1",
        "b: accepted by the manifest, but not in the records",
    ]


def test_people_and_clips_on_both_sides(tmp_path):
    small_set(tmp_path)
    edit(tmp_path, lambda splits: splits["test"][0].update(identity="ann", clip="a"))
    found = faults(tmp_path)
    assert "identity ann is in train and test" in found and "clip a is there 2 times" in found
    (tmp_path / "settings.json").write_text(json.dumps({"split": "edtalk", "size": SIZE}))
    report = verify(tmp_path)
    assert not any("identity ann is in" in fault for fault in report.faults)
    assert report.notes == ["1 identities are in several splits: edtalk was published so"]


@pytest.mark.parametrize("late", [0, 2, 9])
def test_a_voice_beside_the_lips(tmp_path, late):
    rng = np.random.default_rng(3)
    opening = scipy.ndimage.gaussian_filter1d(rng.uniform(0, 1, 150), 2)
    opening = np.maximum(opening - opening.mean(), 0) * 0.6
    landmarks = np.tile(example("a", "ann")["landmarks"][:1], (150, 1, 1))
    landmarks[:, 60:] = 0.5
    landmarks[:, [65, 66, 67], 1] += opening[:, None]
    loudness = np.repeat(np.roll(opening, late), 640)
    voice = (rng.normal(0, 40000, 96000) * loudness).clip(-32768, 32767).astype(np.int16)
    # Two clips of one video, neither of which is long enough to be judged alone.
    halves = [
        example(name, "ann", 75, landmarks=landmarks[part], audio=voice[640 * first : 640 * last])
        for name, first, last in (("v#000", 0, 75), ("v#001", 75, 150))
        for part in [slice(first, last)]
    ]
    rows = [
        row("v#000", "ann", job="v", start=0.0, end=3.0),
        row("v#001", "ann", job="v", start=3.0, end=6.0),
    ]
    found = faults(write_set(tmp_path, halves, rows))
    assert len(found) == (late == 9)
    assert all(re.search(r"\(v#000\): the voice is (9|10) frames late", fault) for fault in found)


def test_a_long_run_is_judged_without_its_pictures_in_memory():
    class Picture:
        pass

    class Records:
        alive = weakref.WeakSet()
        most = 0

        def __getitem__(self, index):
            pictures = [Picture() for _ in range(30)]
            self.alive.update(pictures)
            self.most = max(self.most, len(self.alive))
            return example("a", "ann", frames=pictures)

    records = Records()
    assert _judge(records, list(range(5))) == ""
    assert records.most <= 2 * 30


def test_clips_that_wait_for_a_run_to_end_are_no_fault(tmp_path):
    small_set(tmp_path)
    write_manifest(tmp_path, [row(name, "ann") for name in ("a", "b", "z", "new")])
    assert faults(tmp_path) == ["new: accepted by the manifest, but not in the records"]
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts" / "new.npz").touch()
    report = verify(tmp_path)
    assert report.faults == [] and "1 clips wait" in report.notes[0]


def test_raw_files_that_changed_or_are_gone(tmp_path):
    raw = tmp_path / "raw.mp4"
    raw.write_bytes(b"first")
    source = {"source": str(raw), "sha256": hashlib.sha256(b"first").hexdigest()}
    rows = [row("a", "ann", **source), row("a2", "ann", "refused", "no face", **source)]
    out = write_set(tmp_path / "out", [example("a", "ann")], rows)
    assert faults(out, raw=True) == []
    raw.write_bytes(b"other")
    assert faults(out) == []
    (fault,) = faults(out, raw=True)
    assert fault.startswith(f"source {raw} has changed") and "if its size has changed too" in fault
    raw.unlink()
    (fault,) = faults(out, raw=True)
    assert "cannot be read (No such file" in fault


def test_no_data_set_is_a_sentence(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "has no prepared data set" in capsys.readouterr().err
    small_set(tmp_path)
    (tmp_path / "records" / "clips.json").write_text('{"train": [3]}')
    assert main([str(tmp_path)]) == 2
    assert "is damaged" in capsys.readouterr().err
    small_set(tmp_path)
    for text in ('{"size": 3', "[3]"):
        (tmp_path / "settings.json").write_text(text)
        assert main([str(tmp_path)]) == 2
        assert "settings.json is damaged: delete it" in capsys.readouterr().err
