"""The benchmark reads a real data set and says what it found."""

import json

import pytest

from data_pipeline.benchmark import main
from data_pipeline.records import Source, encode_clip, write_records
from data_pipeline.synthetic import synthesize_clip


def test_the_benchmark_fills_its_table_and_its_file(tmp_path, capsys):
    clip = synthesize_clip(1, "happy", 0, 0.6, size=32)
    write_records(
        [Source(clip.clip, clip.identity, lambda: encode_clip(clip))], tmp_path, lambda _: "train"
    )
    out = tmp_path / "speed.json"
    command = [str(tmp_path), "--batch", "2", "--readers", "0", "1", "--size", "32"]
    command += ["--seconds", "0.05", "--step-ms", "1", "--augment", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "1 clips" in printed and "clips/s" in printed and "waiting at 1.0 ms/step" in printed
    figures = json.loads(out.read_text())
    assert [speed["readers"] for speed in figures["speeds"]] == [0, 1]
    assert all(speed["clips_per_second"] > 0 for speed in figures["speeds"])
    assert all(0 < speed["waiting"] < 1 for speed in figures["speeds"])
    assert figures["storage"]["hours"] == pytest.approx(15 / 25 / 3600)
    size = sum(file.stat().st_size for file in tmp_path.glob("records/*.array_record*"))
    assert figures["storage"]["megabytes"] == pytest.approx(size / 1e6)


def test_a_wrong_place_is_a_sentence(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no prepared data set" in capsys.readouterr().err
    assert main([str(tmp_path), "--frames", "16"]) == 2
    assert "windows of 16 frames do not lie in a chunk of 10" in capsys.readouterr().err
