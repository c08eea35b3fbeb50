"""Tables of figures as Markdown."""

from data_pipeline.emotions import EMOTIONS
from reta_jax.metrics.statistics import NAMED
from reta_jax.metrics.tables import interval_table, markdown_table


def test_clips_are_counted_in_whole_numbers():
    rows = {"sad": {"clips": 6.0, "psnr": 20.0}}
    assert markdown_table(rows).splitlines()[-1] == "| sad | 6 | 20.000 |"


def test_a_files_name_ends_no_cell():
    head, _, line = markdown_table({"a|b": {"psnr": 20.0}}).splitlines()
    assert line == r"| a\|b | 20.000 |"
    assert head.count("|") == line.replace(r"\|", "").count("|")


def test_an_emotion_has_its_name():
    row = {NAMED: float(EMOTIONS.index("fear"))}
    assert markdown_table({"a": row}).splitlines()[-1] == "| a | fear |"


def test_a_figure_without_an_interval_leaves_it_empty():
    lines = interval_table({"fid": 3.0, "kid": 0.25}, {"kid": [0.1, 0.4]}).splitlines()
    assert lines[:2] == [
        "| figure | mean | 95 %, by people drawn anew | |",
        "|---|---|---|---|",
    ]
    assert lines[2].startswith("| fid | 3.000 |  | Fréchet")
    assert lines[3].startswith("| kid | 0.250 | 0.100 to 0.400 | kernel")
