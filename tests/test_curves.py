"""Sections of files: what is read of them, how it is shown, and what is refused."""

import json
import re

import pytest

from data_pipeline.errors import InputError
from reta_jax import ablate, plots
from reta_jax.curves import (
    ablation_sections,
    evaluation_sections,
    read_evaluation,
    read_metrics,
    robustness_sections,
    title_of,
    training_sections,
)
from reta_jax.metrics.tables import UNITS
from reta_jax.report import Table


def write_lines(path, lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


def test_metrics_are_read_by_stage_and_step(tmp_path):
    lines = [
        {"step": 1, "total": 3.0},
        {"step": 3, "total": 9.0},
        {"step": 2, "total": 2.0},  # resumed from an earlier checkpoint
        {"step": 3, "total": 1.0},
        {"stage": "next", "step": 1, "l1": 0.5},
        '{"stage": "next", "st',  # being written
    ]
    first, second = read_metrics(write_lines(tmp_path / "metrics.jsonl", lines))
    assert [line["total"] for line in first.lines] == [3.0, 2.0, 1.0]
    assert second.name == "next" and second.lines == [lines[4]]


@pytest.mark.parametrize(
    "lines", [["nothing", {"step": 1}], [{"total": 1.0}, {"step": 1}], ["[1]", {"step": 1}], [""]]
)
def test_broken_metrics_are_refused(tmp_path, lines):
    path = write_lines(tmp_path / "metrics.jsonl", lines)
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_metrics(path)
    path.write_bytes(b"\xff\xfe\x00events")
    with pytest.raises(InputError, match=f"{re.escape(str(path))} is no text"):
        read_metrics(path)


def test_times_and_metrics_are_no_losses(tmp_path):
    """What a lap adds to a step's line is no figure of the model; what a preview adds, no loss."""
    lap = {"clips_per_second": 9.0, "step_seconds": 0.5, "data_wait_share": 0.1, "eta_minutes": 2.0,
           "device_peak_gb": 3.0, "own_seconds/0": 0.1, "own_seconds/11": 0.1,
           "data_seconds/0": 0.1, "data_seconds/11": 0.1}  # fmt: skip
    lines = [
        {"step": 2, "l1": 0.5, "total": 3.0, "held_out/psnr": 20.0, "held_out/ssim": 0.5} | lap,
        {"step": 4, "l1": 0.4, "total": 2.0} | lap,
        {"stage": "next", "step": 2, "l1": 0.3, "total": 1.0, "held_out/psnr": 21.0} | lap,
        {"stage": "next", "step": 3, "l1": 0.2, "total": 0.5} | lap,
    ]
    path = write_lines(tmp_path / "metrics.jsonl", lines)
    losses, metrics = training_sections(tmp_path, path)
    assert losses.table.rows == [["total", "0.5"], ["l1", "0.2"]]
    assert metrics.title == "Metrics on held-out clips"
    assert metrics.table.rows == [["psnr ↑", "21.000", "6"], ["ssim ↑", "0.500", "2"]]
    assert [picture.file for picture in metrics.pictures] == ["held_out.png"]
    assert (tmp_path / "held_out.png").stat().st_size > 5_000
    write_lines(path, [{"step": 1, "total": 1.0}])
    assert [section.title for section in training_sections(tmp_path, path)] == ["Training"]
    write_lines(path, [{"step": 1} | lap])
    with pytest.raises(InputError, match="no losses"):
        training_sections(tmp_path, path)


def test_evaluations_are_read_as_they_come(tmp_path):
    row = {"psnr": 20.0, "note": "x", "missing": float("nan"), "good": True}
    (tmp_path / "report.json").write_text(json.dumps({"rows": {"generated": row}, "new": []}))
    for path in (tmp_path, tmp_path / "report.json"):
        assert read_evaluation(path)["rows"] == {"generated": {"psnr": 20.0}}
    wrong = '{"rows": {"generated": {"psnr": 20}}, "by_clip": [1]}'
    for text in ("{}", "[]", "{", '{"rows": {"generated": {}}}', '{"rows": [1]}', wrong):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(InputError, match="report.json"):
            read_evaluation(tmp_path)
    row = {"rows": {"generated": {"psnr": 20.0}}}
    for name, value in (
        ("emotions_named", {"generated": {}}),
        ("kid_by_emotion", [1]),
        ("notes", 1),
    ):
        (tmp_path / "report.json").write_text(json.dumps(row | {name: value}))
        with pytest.raises(InputError, match="is no report of reta_jax.evaluate"):
            evaluation_sections(tmp_path, tmp_path)


def test_evaluations_are_shown_whole_by_group_and_with_what_is_against_them(tmp_path):
    report = {
        "clips": 3,
        "rows": {"generated": {"psnr": 20.0, "sync_d": 7.5}},
        "counts": {"generated": {"sync_d": 2}},
        "by_emotion": {"happy": {"clips": 2.0, "psnr": 21.0}, "sad": {"clips": 1.0, "sync_d": 8.0}},
        "by_identity": {},
        "by_clip": {"one": {"psnr": 22.0, "emotion_named": 4.0}},
        "objections": ["the judge taught the model", "it knows the people"],
        "notes": ["psnr does not rank what is known"],
        "emotions_named": {
            "generated": {
                "counts": {"happy": {"happy": 2, "sad": 0}, "sad": {"happy": 1, "sad": 0}},
                "chance": 2 / 3,
            }
        },
        "kid_by_emotion": {"happy": {"clips": 2, "kid": 1.5, "interval": [1.0, 2.0]}},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    whole, generated, emotions, clips, named, kid = evaluation_sections(tmp_path, tmp_path)
    bold = ["**The judge taught the model.**", "**It knows the people.**"]
    assert whole.text.split("\n\n")[1:] == [*bold, "Note: psnr does not rank what is known."]
    assert whole.table == Table(
        ["", "psnr ↑", "sync d ↓"], [["generated", "20.000", "7.500 (n = 2)"]]
    )
    assert generated.table.rows[1][:3] == ["sync d ↓", "7.500 (n = 2)", ""]
    assert emotions.title == "Evaluation by emotion"
    assert emotions.table.rows == [["happy", "2", "21.000", "–"], ["sad", "1", "–", "8.000"]]
    assert clips.title == "Evaluation by clip"
    assert clips.table.rows == [["one", "22.000", "happy"]]
    assert named.table == Table(
        ["true, named", "happy", "sad"], [["happy", "2", "0"], ["sad", "1", "0"]]
    )
    assert "0.667" in named.text
    assert kid.table == Table(["", "clips", "kid ↓"], [["happy", "2", "1.500 [1.000, 2.000]"]])


def test_panels_state_their_unit():
    assert title_of("psnr") == f"psnr ↑\n{UNITS['psnr']}"
    assert title_of("new_figure") == "new figure"


def runs(*psnr):
    rest = {"SSIM": 0.5, "Sync_c": 4.0, "ACC_e": 30.0, "Mouth": 0.75}
    return {seed: {"PSNR": value} | rest for seed, value in enumerate(psnr)}


def test_ablations_stand_beside_the_papers(tmp_path, monkeypatch):
    """As reta_jax.ablate writes them."""
    study = {
        "steps": 300, "size": 64, "objections": ["the judge knows the people"],
        "figures": {"full": runs(20.0, 22.0), "no_style": runs(15.0, 17.0), "no_tvm": runs(19.0)},
        "known": {"still portrait": runs(12.0)[0], "truth": {"PSNR": 100.0}},
    }  # fmt: skip
    ablate.write_tables(tmp_path, study)
    bars, drawn = plots.metric_bars, []
    monkeypatch.setattr(plots, "metric_bars", lambda *of: drawn.append(bars(*of)) or drawn[-1])
    rows, claims = ablation_sections(tmp_path, tmp_path)
    assert rows.table.head[:4] == ["row", "seeds", "PSNR ↑", "SSIM ↑"]
    assert [row[:3] for row in rows.table.rows] == [
        ["full model", "2", "21.00 ± 1.41 (22.19)"],
        ["B.2 w/o f_STY", "2", "16.00 ± 1.41 (21.63)"],
        ["C.2 w/o TVM", "1", "19.00 (21.93)"],
        ["still portrait", "", "12.00"],
        ["truth", "", "100.00"],
    ]
    assert rows.table.rows[0][-1] == "0.750 ± 0.000" and rows.table.rows[-1][-1] == "–"
    assert rows.text.endswith("\n\n**The judge knows the people.**")
    assert ["B.2 w/o f_STY: PSNR falls", "-5.000 ± 0.000", "reproduced"] in claims.table.rows
    psnr = drawn[0].axes[0]
    assert [bar.get_width() for bar in psnr.patches] == [21, 16, 19, 12]
    assert list(psnr.lines[0].get_xdata()) == pytest.approx([21 - 2**0.5, 21 + 2**0.5])


def test_what_a_study_was_not_judged_by_leaves_a_blank(tmp_path, monkeypatch):
    """Without a SyncNet no run has Sync_c; with a new one, the runs that were judged since."""
    study = {"steps": 300, "size": 64, "known": {}}
    full, tvm = runs(20.0, 22.0), runs(19.0)
    del full[0]["Sync_c"], tvm[0]["Sync_c"]
    ablate.write_tables(tmp_path, study | {"figures": {"full": full, "no_tvm": tvm}})
    bars, drawn = plots.metric_bars, []
    monkeypatch.setattr(plots, "metric_bars", lambda *of: drawn.append(bars(*of)) or drawn[-1])
    rows, _ = ablation_sections(tmp_path, tmp_path)
    assert [row[4] for row in rows.table.rows] == ["4.00 (5.84)", "– (5.77)"]
    (sync,) = (axis for axis in drawn[0].axes if axis.get_title().startswith("Sync_c"))
    assert [bar.get_width() for bar in sync.patches] == [4] and not sync.lines


def robustness_report():
    rows = {"as filmed": {"mouth_correlation": 0.6, "psnr": 20.0}, "grain": {"psnr": 19.0}}
    return {
        "rows": rows | {"still portrait": {"psnr": 21.0}},
        "counts": {"as filmed": {"mouth_correlation": 12}, "grain": {}},
        "intervals": {
            "as filmed": {"mouth_correlation": [0.5, 0.7]},
            "grain": {"psnr": [18.0, 20.0]},
        },
        "own_voice_wins": 0.92,
        "own_voice_clips": 13,
        "by_identity": {"anna": {"clips": 3.0, "psnr": 20.5}},
    }


def test_disturbed_inputs_have_their_intervals(tmp_path):
    (tmp_path / "robustness.json").write_text(json.dumps(robustness_report()))
    conditions, people = robustness_sections(tmp_path, tmp_path / "robustness.json")
    assert conditions.table == Table(
        ["", "mouth correlation ↑", "psnr ↑"],
        [
            ["as filmed", "0.600 [0.500, 0.700] (n = 12)", "20.000"],
            ["grain", "–", "19.000 [18.000, 20.000]"],
            ["still portrait", "–", "21.000"],
        ],
    )
    assert conditions.text.startswith("92 % of 13 clips follow their own voice")
    assert (tmp_path / conditions.pictures[0].file).stat().st_size > 5_000
    assert people.table.rows == [["anna", "3", "20.500"]]


@pytest.mark.parametrize("sections", [ablation_sections, robustness_sections])
@pytest.mark.parametrize(
    "text", ["{}", "[]", "{", '{"figures": {"new_row": {}}}', '{"rows": {"as filmed": 1}}']
)
def test_other_files_are_refused(tmp_path, sections, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="x.json is no"):
        sections(tmp_path, tmp_path / "x.json")
    with pytest.raises(InputError, match=r"cannot read .*(ablation|robustness)\.json"):
        sections(tmp_path, tmp_path)


def test_a_folder_that_cannot_be_written_is_not_the_files_fault(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"rows": {"generated": {"psnr": 20.0}}}))
    out = tmp_path / "missing"
    with pytest.raises(InputError, match="cannot write .*missing/metrics.png"):
        evaluation_sections(out, tmp_path)
