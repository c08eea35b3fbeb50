"""Protocol files: what they fix, what they refuse, and what a recorded run must match."""

import dataclasses

import pytest

from data_pipeline.errors import InputError
from reta_jax.metrics.protocol import (
    Protocol,
    changed_versions,
    check_same,
    load_suite,
    read_protocol,
    versions,
    write_protocol,
)


def test_the_full_suite_is_the_default_and_the_paper_has_its_columns():
    assert load_suite("full") == Protocol()
    paper = load_suite("paper")
    assert paper.figures == ("image", "fid", "sync", "emotion", "mesh")
    assert dataclasses.replace(paper, name="full", figures=Protocol().figures) == Protocol()


def test_every_field_is_in_the_hash():
    changes = {
        "name": "x", "split": "train", "clips": 3, "frames": 9, "source": "own", "size": 64,
        "codec": "h264", "figures": ("image",), "sync_crops": ("whole",), "fid_frames": 5,
        "seed": 1,
    }  # fmt: skip
    assert set(changes) == {field.name for field in dataclasses.fields(Protocol)}
    hashes = {dataclasses.replace(Protocol(), **{k: v}).sha256 for k, v in changes.items()}
    assert len(hashes | {Protocol().sha256}) == len(changes) + 1


def test_a_file_comes_back_with_what_it_was_run_on(tmp_path):
    path, run = tmp_path / "protocol.yaml", {"sha256": {"data": "ab"}, "versions": versions()}
    protocol = Protocol(clips=4, figures=("image", "fid"))
    write_protocol(path, protocol, run)
    assert read_protocol(path) == (protocol, run)
    assert protocol.sha256 in path.read_text()


def test_a_protocol_that_was_changed_since_its_report_is_refused(tmp_path):
    path, run = tmp_path / "protocol.yaml", {"sha256": {"data": "ab"}}
    write_protocol(path, Protocol(clips=4), run)
    whole = path.read_text()
    for changed in (whole.replace("clips: 4", "clips: 5"), whole.replace("seed: 0\n", "")):
        assert changed != whole
        path.write_text(changed)
        with pytest.raises(InputError, match="changed since its report .* take `run` out"):
            read_protocol(path)
    bare = whole.replace("clips: 4", "clips: 5")[: whole.index("run:")]
    path.write_text(bare)
    assert read_protocol(path) == (Protocol(clips=5), {})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("crop: tight", "no field crop"),
        ("codec: hevc", "codec has no 'hevc'; take none, h264"),
        ("figures: [image, beauty]", "figures has no 'beauty'"),
        ("clips: 0", "leaves nothing to judge: give 1 or more"),
        ("size: 6", "size 6 leaves nothing to judge: give 7 or more"),
        ("clips: true", "clips True must be a whole number"),
        ("frames: 2.5", "frames 2.5 must be a whole number"),
        ("seed: null", "seed None must be a whole number"),
        ("figures: [image, 3]", "must be a list of words"),
        ("seed: -1", "seed -1 must be a whole number"),
        ("seed: x", "seed 'x' must be a whole number"),
        ("split: 3", "split 3 must be a word"),
        ("name: [a]", "must be a word"),
        ("figures: []", "figures names none; take image"),
        ("name: 2026-11-31", "cannot read the protocol .* day"),
        ("clips: !!int x", "cannot read the protocol"),
        ("figures: image", "figures 'image' must be a list"),
        ("1: 2", "no field 1"),
        ("run: 5", "run must be as a report leaves it"),
        ("run: {places: 5}", "run must be as a report leaves it"),
        ("run: {places: {data: 5}}", "run must be as a report leaves it"),
        ("- a list", "is no protocol"),
        ("a: b: c", "cannot read the protocol"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path, text, what):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=what):
        read_protocol(path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(InputError, match="cannot read the protocol"):
        read_protocol(path)


def test_other_weights_are_refused_and_other_versions_noted():
    check_same({"data": "a"}, {"data": "a", "model": "b"})
    with pytest.raises(InputError, match="data, sync judge: not what"):
        check_same({"data": "a", "sync judge": "c"}, {"data": "b"})
    assert changed_versions({"jax": "0.1", "av": "2"}, {"jax": "0.2", "av": "2"}) == [
        "jax is 0.2, the protocol was run with 0.1"
    ]
