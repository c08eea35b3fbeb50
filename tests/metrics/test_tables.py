"""Tables of figures."""

from data_pipeline.emotions import EMOTIONS
from reta_jax.metrics.statistics import NAMED
from reta_jax.metrics.tables import (
    DOWN,
    UNITS,
    UP,
    figures_table,
    head_of,
    interval_table,
    title_of_report,
)
from reta_jax.report import Table, markdown_table


def test_rows_have_a_column_a_figure_and_a_dash_where_they_have_none():
    rows = {"generated": {"psnr": 20.0, "mouth_jitter": 0.5}, "truth": {"psnr": 100.0}}
    assert figures_table(rows, {"truth": {"psnr": 3}}) == Table(
        ["", "psnr ↑", "mouth jitter"],
        [["generated", "20.000", "0.500"], ["truth", "100.000 (n = 3)", "–"]],
    )


def test_clips_are_counted_in_whole_numbers():
    assert figures_table({"sad": {"clips": 6.0, "psnr": 20.0}}).rows == [["sad", "6", "20.000"]]


def test_a_files_name_ends_no_cell():
    head, _, line = markdown_table(figures_table({"a|b": {"psnr": 20.0}})).splitlines()
    assert line == r"| a\|b | 20.000 |"
    assert head.count("|") == line.replace(r"\|", "").count("|")


def test_an_emotion_has_its_name():
    row = {NAMED: float(EMOTIONS.index("fear"))}
    assert figures_table({"a": row}).rows == [["a", "fear"]]


def test_a_figure_without_an_interval_leaves_it_empty():
    table = interval_table({"fid": 3.0, "kid": 0.25}, {"kid": [0.1, 0.4]})
    assert table.head == ["figure", "mean", "95 %, by people drawn anew", ""]
    assert [row[:3] for row in table.rows] == [
        ["fid ↓", "3.000", ""],
        ["kid ↓", "0.250", "0.100 to 0.400"],
    ]
    assert [row[3] for row in table.rows] == [UNITS["fid"], UNITS["kid"]]


def test_figures_point_to_what_is_better():
    assert set(UP) | set(DOWN) <= set(UNITS) and not set(UP) & set(DOWN)
    assert head_of("lip_vertex_error_mm2") == "lip vertex error mm2 ↓"
    assert head_of("sync_c_whole") == "sync c whole ↑"
    assert head_of("blinks_per_minute") == "blinks per minute"  # the truth has some
    assert head_of("ACC_e", "emotion_accuracy") == "ACC_e ↑"


def test_a_report_says_what_was_judged_as_far_as_it_knows():
    report = {"clips": 12, "identities": 4}
    assert title_of_report(report) == "12 clips of 4 people"
    assert title_of_report({"clips": 1, "identities": 1}) == "1 clip of 1 person"
    assert title_of_report({"clips": 12, "judged": "made"}) == "`made` on 12 clips"
