"""Figures of files: the curves of a training's metrics.jsonl, an evaluation's report as bars."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.errors import InputError
from reta_jax import plots
from reta_jax.report import Section, Table, decimals

NOT_LOSSES = "step", "stage", "clips_per_second", "data_wait_share", "eta_minutes"


class Stage(NamedTuple):
    """Lines of one training, by step."""

    name: str
    lines: list[dict[str, Any]]


def read_metrics(path: Path) -> list[Stage]:
    """A metrics.jsonl as its stages in order; a line per step, the later one if it was redone.

    Raises InputError if there is no such file, or a line of it, but for a last one that is still
    being written, is no JSON object with a step.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    stages: dict[str, dict[int, dict[str, Any]]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            stages.setdefault(str(values.get("stage", "")), {})[int(values["step"])] = values
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if number == len(lines):
                break
            raise InputError(f"line {number} of {path} is no line of metrics") from error
    if not stages:
        raise InputError(f"{path} has no line of metrics yet")
    return [Stage(name, [by_step[s] for s in sorted(by_step)]) for name, by_step in stages.items()]


def losses_section(out: Path, path: Path) -> Section:
    """Curves of every loss, the stages one after the other."""
    stages = read_metrics(path)
    starts = np.cumsum([0, *(stage.lines[-1]["step"] for stage in stages)])
    series: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for start, stage in zip(starts, stages, strict=False):
        names = dict.fromkeys(name for line in stage.lines for name in line)
        for name in names:
            points = [(line["step"], line[name]) for line in stage.lines if is_figure(line, name)]
            if name not in NOT_LOSSES and points:
                steps, values = np.array(points, np.float64).T
                series.setdefault(name, []).append((start + steps, values))
    if not series:
        raise InputError(f"{path} has steps, but no losses")
    order = sorted(series, key=lambda name: (name != "total", name == "grad_norm", name))
    figure = plots.curves({name: series[name] for name in order}, starts[1:-1].tolist())
    text = f"{path.name}: {starts[-1]:,} steps"
    if len(stages) > 1:
        text += f" in {len(stages)} stages, whose losses may be weighted differently:\n\n"
        text += "; ".join(f"{stage.name} ({stage.lines[-1]['step']:,} steps)" for stage in stages)
    last = stages[-1].lines[-1]
    rows = [[name, f"{last[name]:.4g}"] for name in order if is_figure(last, name)]
    picture = plots.save(out, "losses.png", figure, "Losses and gradient norm over the steps.")
    return Section("Training", text + ".", [picture], Table(["at the end", ""], rows))


def is_figure(line: dict[str, Any], name: str) -> bool:
    value = line.get(name)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_evaluation(path: Path) -> dict[str, Any]:
    """An evaluation's report: the file, or report.json in the folder.

    Raises InputError if it is not there, or has no rows of figures.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(file.read_text())
        rows = {
            title: {name: float(row[name]) for name in row if is_figure(row, name)}
            for title, row in report["rows"].items()
        }
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is no report of reta_jax.evaluate") from error
    if not any(rows.values()):
        raise InputError(f"{file} has no figures in it")
    return report | {"rows": rows}


def metrics_section(out: Path, path: Path) -> Section:
    """Bars of an evaluation with their intervals."""
    report = read_evaluation(path)
    rows, intervals = report["rows"], report.get("intervals") or {}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table(
        ["", *(name.replace("_", " ") for name in names)],
        [
            [title, *(decimals(row.get(name, np.nan)) for name in names)]
            for title, row in rows.items()
        ],
    )
    of = [f"{report[key]} {key}" for key in ("clips", "identities") if key in report]
    text = f"{path.name}: " + (", ".join(of) or "an evaluation") + "."
    for objection in report.get("objections", ()):
        text += f" {objection[0].upper()}{objection[1:]}."
    if digest := report.get("protocol_sha256"):
        text += f" Protocol {digest[:16]}."
    if intervals:
        text += " Lines are the intervals of 95 % of the sets of clips drawn from these."
    figure = plots.metric_bars(rows, intervals)
    picture = plots.save(out, "metrics.png", figure, "Mean over the clips, row by row.")
    return Section("Evaluation", text, [picture], table)
