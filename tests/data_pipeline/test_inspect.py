"""The page and its pictures, of finished, unfinished and awkwardly named sets."""

import re

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import InputError
from data_pipeline.inspect import draw_sample, inspect, main, reasons, spread
from data_pipeline.manifest import write_manifest
from data_pipeline.records import encode_jpeg, list_clips, open_records
from data_pipeline.subset import write_subset
from tests.data_pipeline.faces import EMPTY, save
from tests.data_pipeline.sets import example, row, small_set, write_set


def test_the_page_has_its_pictures_and_needs_nothing_else(tmp_path):
    path = inspect(small_set(tmp_path / "mine"))
    assert path == tmp_path / "mine" / "inspect" / "index.html"
    text = path.read_text()
    pictures = set(re.findall(r'src="([^"]+)"', text))
    assert pictures == {
        "samples-train.png",
        "samples-test.png",
        "minutes.png",
        "histograms.png",
    }
    for name in pictures:
        assert np.asarray(Image.open(path.parent / name).convert("L")).std() > 5
    assert "http" not in text and "<script" not in text
    assert "<td>train</td><td>2</td><td>1</td><td>0.0</td>" in text
    assert "ann has 67% of the minutes" in text and "Nothing was refused" in text


def test_refusals_are_grouped_by_reason_and_shown(tmp_path):
    video = save(tmp_path / "two.mp4", [EMPTY] * 26)
    rows = [
        row("a", "ann"),
        row("x1", "x", "refused", "face lost in 33% of the frames"),
        row("x2", "x", "refused", "face lost in 41% of the frames", source=str(video)),
        row("y", "y", "refused", f"{tmp_path}/y.mp4 is empty", source=f"{tmp_path}/y.mp4"),
        row("m", "m", "missing", "its video is not there: https://example.org/v?x=1"),
    ]
    assert {reason: [r.clip for r in group] for reason, group in reasons(rows).items()} == {
        "face lost in …% of the frames": ["x1", "x2"],
        "the file is empty": ["y"],
        "its video is not there: (address)": ["m"],
    }
    page = inspect(write_set(tmp_path / "out", [example("a", "ann")], rows))
    text = page.read_text()
    assert "<td>2</td><td>40.0%</td><td>refused</td><td>face lost in …% of the frames" in text
    assert "x1: face lost in 33% of the frames; x2: face lost in 41%" in text
    shown = np.asarray(Image.open(page.parent / "refused.png"))
    assert (shown == 90).all(axis=-1).mean() > 0.05  # The grey video.


def test_sets_without_any_record_are_shown_too(tmp_path):
    write_manifest(tmp_path, [row("x", "x", "refused", "no face")])
    text = inspect(tmp_path).read_text()
    assert "No records have been written yet" in text and "<td>no face</td>" in text


def test_names_are_text_and_not_markup(tmp_path):
    examples = [example("<b>ü$1_語", "<i>Ann & 语</i>"), example("c", "$x_1$", emotion=-1)]
    text = inspect(write_set(tmp_path / "<s>", examples)).read_text()
    assert "<b>" not in text and "<i>" not in text and "<s>" not in text
    assert "&lt;i&gt;Ann &amp; 语&lt;/i&gt;" in text


def test_samples_are_of_as_many_people_as_can_be():
    people = {"ann": 5, "bob": 1, "zoe": 3}
    rows = [{"identity": name} for name, count in people.items() for _ in range(count)]
    assert spread(rows, 3) == [0, 5, 8]
    assert len({rows[i]["identity"] for i in spread(rows, 2)}) == 2
    assert spread(rows, 99) == list(range(9))
    assert spread([], 3) == []


def test_a_sample_shows_landmarks_and_box_where_they_are(tmp_path):
    points = np.full((30, 68, 2), 0.5, np.float32)
    points[:, :60] = 0.25, 0.75  # x, y: all but the inner lips are left below
    grey = [encode_jpeg(np.full((32, 32, 3), 100, np.uint8))] * 30
    small_set(tmp_path, frames=grey, landmarks=points)
    picture = draw_sample(open_records(tmp_path, "train")[1]).astype(int)
    frame = picture[22 : 22 + 176, :176]
    assert (frame[132, 44] > 200).all() and (frame[44, 132] < 150).all()
    red, green, blue = frame[88, 88]
    assert red > green > blue
    rows = np.flatnonzero((frame[:, 60, 1] - frame[:, 60, 0]) > 60)
    np.testing.assert_allclose(rows[[0, -1]], [0.2 * 176, 0.8 * 176], atol=2)


def test_bad_places_are_sentences(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "has no prepared data set" in capsys.readouterr().err
    small_set(tmp_path / "mine")
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "mine"), "--out", str(tmp_path / "file" / "x")]) == 2
    assert "give another --out" in capsys.readouterr().err


def test_damaged_records_are_a_sentence(tmp_path, capsys):
    (path,) = (small_set(tmp_path) / "records").glob("*train.array_record*")
    path.write_bytes(path.read_bytes()[:-1000])
    assert main([str(tmp_path)]) == 2
    assert "data_pipeline.verify says where" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 3])
def test_clips_of_a_few_frames_can_be_drawn(tmp_path, count):
    write_set(tmp_path, [example("a", "ann", count=count)])
    assert inspect(tmp_path).is_file()


def test_a_damaged_picture_is_told_with_its_clip(tmp_path, capsys):
    small_set(tmp_path, frames=[b"damaged"] * 30)
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    names = [row["clip"] for row in list_clips(tmp_path, "train")]
    assert any(f"clip {name}: a picture cannot be read" in said for name in names)
    with pytest.raises(InputError, match="clip .+: a picture cannot be read"):
        write_subset(tmp_path, tmp_path / "part", 1, size=16)
