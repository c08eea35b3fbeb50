"""Sections of files: a training's metrics.jsonl as curves, judged models as bars and tables."""

import contextlib
import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from data_pipeline.errors import InputError
from reta_jax import claims, plots
from reta_jax.metrics import tables
from reta_jax.metrics.statistics import Figures
from reta_jax.metrics.tables import UNITS, head_of
from reta_jax.observe import RATES
from reta_jax.preview import HELD_OUT
from reta_jax.report import Section, Table, decimals

NOT_LOSSES = ("step", "stage", HELD_OUT, *RATES)  # what their names begin with
TITLE_WIDTH = 54  # letters of a panel's title
Series = dict[str, list[tuple[np.ndarray, np.ndarray]]]  # stretches (steps, values) by name

# ------------------------------------------------------------------------------------------------
# Of a training
# ------------------------------------------------------------------------------------------------


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
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: give a run's metrics.jsonl") from error
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


def training_sections(out: Path, path: Path) -> list[Section]:
    """Curves of every loss and, where previews were judged, of their metrics: stage after stage."""
    stages = read_metrics(path)
    starts = np.cumsum([0, *(stage.lines[-1]["step"] for stage in stages)]).tolist()
    series = series_of(stages, starts)
    losses = {name: series[name] for name in series if not name.startswith(NOT_LOSSES)}
    metrics = {
        name.removeprefix(HELD_OUT): series[name] for name in series if name.startswith(HELD_OUT)
    }
    if not losses:
        raise InputError(f"{path} has steps, but no losses")
    sections = [losses_section(out, path, stages, starts, losses)]
    return [*sections, held_out_section(out, starts, metrics)] if metrics else sections


def series_of(stages: Sequence[Stage], starts: Sequence[int]) -> Series:
    """Every figure over the steps, those of the stages before it counted."""
    series: Series = {}
    for start, stage in zip(starts, stages, strict=False):
        for name in dict.fromkeys(name for line in stage.lines for name in line):
            points = [(line["step"], line[name]) for line in stage.lines if is_figure(line, name)]
            if points:
                steps, values = np.array(points, np.float64).T
                series.setdefault(name, []).append((start + steps, values))
    return series


def losses_section(
    out: Path, path: Path, stages: Sequence[Stage], starts: Sequence[int], losses: Series
) -> Section:
    order = sorted(losses, key=lambda name: (name != "total", name == "grad_norm", name))
    figure = plots.curves({name: losses[name] for name in order}, starts[1:-1])
    text = f"{path.name}: {starts[-1]:,} steps"
    if len(stages) > 1:
        text += f" in {len(stages)} stages, whose losses may be weighted differently:\n\n"
        text += "; ".join(f"{stage.name} ({stage.lines[-1]['step']:,} steps)" for stage in stages)
    last = stages[-1].lines[-1]
    rows = [[name, f"{last[name]:.4g}"] for name in order if is_figure(last, name)]
    picture = plots.save(out, "losses.png", figure, "Losses and gradient norm over the steps.")
    return Section("Training", text + ".", [picture], Table(["at the end", ""], rows))


def held_out_section(out: Path, starts: Sequence[int], metrics: Series) -> Section:
    figure = plots.curves({title_of(name): metrics[name] for name in metrics}, starts[1:-1])
    rows = [
        [head_of(name), decimals(values[-1]), f"{steps[-1]:,.0f}"]
        for name, (*_, (steps, values)) in metrics.items()
    ]
    text = (
        "Of the averaged weights, on all frames of the previews' clips. They are few, and the same "
        "at every preview: the curves show the course, an evaluation how good a model is."
    )
    title = "Metrics on held-out clips"
    picture = plots.save(out, "held_out.png", figure, f"{title} over the steps.")
    return Section(title, text, [picture], Table(["", "last", "at step"], rows))


def is_figure(line: Mapping[str, Any], name: str) -> bool:
    value = line.get(name)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ------------------------------------------------------------------------------------------------
# Of an evaluation
# ------------------------------------------------------------------------------------------------


def read_evaluation(path: Path) -> dict[str, Any]:
    """An evaluation's report: the file, or report.json in the folder.

    Raises InputError if it is not there, or has no rows of figures.
    """
    file = file_in(path, "report.json")
    report = read_json(file)
    with as_written_by("reta_jax.evaluate", file):
        rows = figures_of(report["rows"])
        groups = {group: figures_of(report.get(group) or {}) for group in tables.GROUPS}
    if not any(rows.values()):
        raise InputError(f"{file} has no figures in it")
    return report | groups | {"rows": rows}


def evaluation_sections(out: Path, path: Path) -> list[Section]:
    """Bars of an evaluation with their intervals; its figures by emotion, identity and clip.

    Beside them stands what the report says against judges and figures.

    Raises InputError if it is not there, or not as `reta_jax.evaluate` writes it.
    """
    report = read_evaluation(path)
    rows, intervals = report["rows"], report.get("intervals") or {}
    of = [f"{report[key]} {key}" for key in ("clips", "identities") if key in report]
    text = f"{path.name}: " + (", ".join(of) or "an evaluation") + "."
    with as_written_by("reta_jax.evaluate", path):
        if digest := report.get("protocol_sha256"):
            text += f" Protocol {digest[:16]}."
        if intervals:
            text += " Lines are intervals of 95 %, by people drawn anew with all their clips."
        whole, *others = tables.evaluation_sections(report)
        figure = plots.metric_bars(rows, intervals, titles_of(rows))
        notes = [f"Note: {note}." for note in report.get("notes", ())]
    picture = plots.save(out, "metrics.png", figure, "Mean over the clips, row by row.")
    text = "\n\n".join(filter(None, [text, whole.text, *notes]))
    return [whole._replace(text=text, pictures=[picture]), *others]


# ------------------------------------------------------------------------------------------------
# Of ablations
# ------------------------------------------------------------------------------------------------


def ablation_sections(out: Path, path: Path) -> list[Section]:
    """Rows of reta_jax.ablate beside the paper's, and the verdicts on its claims.

    Args:
      path: the file, or the folder with ablation.json.

    Raises InputError if it is not there, or has no such rows.
    """
    file = file_in(path, "ablation.json")
    study = read_json(file)
    with as_written_by("reta_jax.ablate", file):
        rows, verdicts = claims.ablation_sections(study)
        figure = ablation_bars(study)
    caption = "Mean over the seeds; lines are one standard deviation to either side."
    picture = plots.save(out, "ablation.png", figure, caption)
    return [rows._replace(pictures=[picture]), verdicts]


def ablation_bars(study: Mapping[str, Any]) -> Figure:
    means: dict[str, Figures] = {}
    spreads: dict[str, dict[str, list[float]]] = {}
    for row, runs in study["figures"].items():
        title = claims.PAPER[row].title
        found = {name: claims.over_seeds(runs, name) for name in claims.FIGURES}
        means[title] = {name: mean for name, (mean, _) in found.items()}
        spreads[title] = {
            name: [mean - sd, mean + sd] for name, (mean, sd) in found.items() if math.isfinite(sd)
        }
    still = {title: row for title, row in study["known"].items() if title == "still portrait"}
    titles = {name: title_of(name, figure) for name, figure in claims.FIGURES.items()}
    return plots.metric_bars(figures_of(means | still), spreads, titles)


# ------------------------------------------------------------------------------------------------
# Of disturbed inputs
# ------------------------------------------------------------------------------------------------


def robustness_sections(out: Path, path: Path) -> list[Section]:
    """Conditions of reta_jax.robustness with their intervals, and its figures by identity.

    Args:
      path: the file, or the folder with robustness.json.

    Raises InputError if it is not there, or has no such conditions.
    """
    file = file_in(path, "robustness.json")
    report = read_json(file)
    with as_written_by("reta_jax.robustness", file):
        report |= {name: figures_of(report[name]) for name in ("rows", "by_identity")}
        conditions, people = tables.robustness_sections(report)
        rows = report["rows"]
        figure = plots.metric_bars(rows, report["intervals"], titles_of(rows))
    caption = "Mean over the clips, condition by condition; lines are the intervals."
    picture = plots.save(out, "robustness.png", figure, caption)
    return [conditions._replace(pictures=[picture]), people]


# ------------------------------------------------------------------------------------------------
# What they share
# ------------------------------------------------------------------------------------------------


def file_in(path: Path, name: str) -> Path:
    """The path, or what has that name in it if it is a folder."""
    return path / name if path.is_dir() else path


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file} is no JSON") from error


def figures_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Figures]:
    """Of each row what is a finite number."""
    return {
        title: {name: float(row[name]) for name in row if is_figure(row, name)}
        for title, row in rows.items()
    }


@contextlib.contextmanager
def as_written_by(command: str, file: Path) -> Iterator[None]:
    """Raises InputError in place of what a file leads to that is not as the command writes it."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is no report of {command}") from error


def titles_of(rows: Mapping[str, Figures]) -> dict[str, str]:
    return {name: title_of(name) for name in tables.names_of(rows)}


def title_of(name: str, figure: str | None = None) -> str:
    """The same with the unit below, as far as reta_jax.evaluate states one."""
    unit = UNITS.get((figure or name).removesuffix("_whole"), "")
    return "\n".join([head_of(name, figure), *textwrap.wrap(unit, TITLE_WIDTH)])
