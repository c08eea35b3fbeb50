"""Pairs of videos by their names, and labels as people write them."""

import pytest

from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from reta_jax.metrics.pairs import Label, find_pairs, read_labels


def test_pairs_have_the_same_name(tmp_path):
    for name in ("made", "real"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="no video is in .*made"):
        find_pairs(tmp_path / "made", tmp_path / "real")
    (tmp_path / "made" / "b.mp4").touch()
    with pytest.raises(InputError, match="no video is in .*real"):
        find_pairs(tmp_path / "made", tmp_path / "real")
    (tmp_path / "real" / "a.mp4").touch()
    with pytest.raises(InputError, match=r"goes with the b\.mp4"):
        find_pairs(tmp_path / "made", tmp_path / "real")
    with pytest.raises(InputError, match="not a directory"):
        find_pairs(tmp_path / "nowhere", tmp_path / "real")


def test_pairs_are_of_one_place_whatever_their_suffix(tmp_path):
    made, real = tmp_path / "made", tmp_path / "real"

    def touch(*paths):
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def pairs():
        return {pair.name: pair.real for pair in find_pairs(made, real)}

    touch(made / "M003" / "001.mp4", real / "M003" / "001.mov", real / "M009" / "001.mp4")
    assert pairs() == {"M003/001": real / "M003" / "001.mov"}
    touch(made / "M009" / "001.mp4", made / "002.mp4", real / "deep" / "002.mp4")
    assert pairs() == {
        "002": real / "deep" / "002.mp4",  # in another place, but there is no other
        "M003/001": real / "M003" / "001.mov",
        "M009/001": real / "M009" / "001.mp4",
    }
    touch(made / "M011" / "001.mp4")  # which of the real 001 is it?
    with pytest.raises(InputError, match="M011/001: which videos of .* cannot be told"):
        pairs()
    (made / "M011" / "001.mp4").unlink()
    touch(real / "M003" / "001.mp4")
    with pytest.raises(InputError, match="M003/001: which videos"):
        pairs()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffid,emotion,identity\r\nM003/a,happy,Ann\r\n",
        "id, emotion, identity\nM003/a , happy , Ann\n\n",
        'id, "emotion", "identity"\nM003/a.mp4, "happy", "Ann"\n',
        "identity,id,emotion,seen\nAnn,M003/a.MOV,happy\n",
    ],
    ids=["Excel's mark", "blanks", "suffix and quotes", "other columns"],
)
def test_labels_are_read_as_people_write_them(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    expected = {"M003/a": Label(EMOTIONS.index("happy"), "Ann")}
    assert read_labels(tmp_path / "labels.csv") == expected


@pytest.mark.parametrize("text", ["", "name,emotion\na,happy\n", "id,mood\na,happy\n", "\x00\xff"])
def test_what_is_no_file_of_labels_is_refused(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text, encoding="latin-1")
    with pytest.raises(
        InputError, match="labels.csv is not a CSV file with columns id, emotion or"
    ):
        read_labels(tmp_path / "labels.csv")


def test_a_name_keeps_what_is_no_videos_suffix(tmp_path):
    (tmp_path / "labels.csv").write_text("id,emotion\ntake.1,happy\n")
    assert set(read_labels(tmp_path / "labels.csv")) == {"take.1"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("id,emotion\na,hungry\n", "no emotion is called 'hungry' of a; take angry"),
        ("id,emotion\n", "labels.csv has no line below its head"),
        (None, "cannot read .*labels.csv: No such file"),
    ],
)
def test_labels_that_say_nothing_are_refused(tmp_path, text, sentence):
    if text:
        (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_labels(tmp_path / "labels.csv")


def test_an_empty_cell_leaves_what_the_path_says(tmp_path):
    (tmp_path / "labels.csv").write_text("id,emotion,identity\na,,Ann\nb,sad,\n")
    labels = read_labels(tmp_path / "labels.csv")
    assert labels == {"a": Label(None, "Ann"), "b": Label(EMOTIONS.index("sad"), "")}
