"""Sections of files: a training's metrics.jsonl as curves, judged models as bars and tables."""

import itertools
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from reta_jax import ablate, plots, robustness
from reta_jax.metrics.statistics import NAMED, Figures
from reta_jax.metrics.tables import UNITS
from reta_jax.observe import RATES
from reta_jax.preview import HELD_OUT
from reta_jax.report import Section, Table, decimals

NOT_LOSSES = ("step", "stage", HELD_OUT, *RATES)  # what their names begin with
GROUPS = ("by_emotion", "by_identity", "by_clip")
# Of which more, or less, is better. Of what the truth does as well (jitter, blinks, the head's
# way), neither is: the nearer to the truth's row.
UP = (
    *("psnr", "psnr_clip", "ssim", "mouth_correlation", "emotion_accuracy", "faces_seen"),
    *("identity_similarity", "sync_c"),
)
DOWN = (
    *("mouth_opening_error", "mouth_landmark_distance", "mouth_landmark_distance_px"),
    *("lip_vertex_error_mm2", "lip_vertex_distance_mm", "lip_landmark_error_mm2"),
    *("lip_landmark_distance_mm", "face_landmark_distance", "face_landmark_distance_px"),
    *("fid", "kid", "sync_d", "sync_offset"),
)
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
    try:
        rows = figures_of(report["rows"])
        groups = {group: figures_of(report.get(group) or {}) for group in GROUPS}
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no report of reta_jax.evaluate") from error
    if not any(rows.values()):
        raise InputError(f"{file} has no figures in it")
    return report | groups | {"rows": rows}


def evaluation_sections(out: Path, path: Path) -> list[Section]:
    """Bars of an evaluation with their intervals; its figures by emotion, identity and clip.

    Raises InputError if it is not there, or not as `reta_jax.evaluate` writes it.
    """
    report = read_evaluation(path)
    try:
        return _evaluation_sections(out, path, report)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no report of reta_jax.evaluate") from error


def _evaluation_sections(out: Path, path: Path, report: dict[str, Any]) -> list[Section]:
    rows, intervals = report["rows"], report.get("intervals") or {}
    of = [f"{report[key]} {key}" for key in ("clips", "identities") if key in report]
    text = f"{path.name}: " + (", ".join(of) or "an evaluation") + "."
    if digest := report.get("protocol_sha256"):
        text += f" Protocol {digest[:16]}."
    if intervals:
        text += " Lines are intervals of 95 %, by people drawn anew with all their clips."
    text = "\n\n".join([text, *objections_of(report)])
    figure = plots.metric_bars(rows, intervals, {name: title_of(name) for name in names_of(rows)})
    picture = plots.save(out, "metrics.png", figure, "Mean over the clips, row by row.")
    table = figures_table(rows, report.get("counts") or {})
    groups = [
        Section(f"Evaluation {group.replace('_', ' ')}", "Of the generated clips.", [], table_of)
        for group in GROUPS
        if (table_of := figures_table(report[group])).rows
    ]
    return [Section("Evaluation", text, [picture], table), *groups, *emotion_sections(report)]


def emotion_sections(report: Mapping[str, Any]) -> list[Section]:
    """What each emotion's clips were named, and how far their pictures are from the true ones."""
    sections = []
    for row, found in (report.get("emotions_named") or {}).items():
        counts = found["counts"]
        named = list(next(iter(counts.values())))
        text = f"Clips, by the emotion judge; blind naming would be right of {found['chance']:.3f}."
        rows = [[true, *(str(theirs[name]) for name in named)] for true, theirs in counts.items()]
        title = f"Emotions, true and named: {row}"
        sections.append(Section(title, text, [], Table(["", *named], rows)))
    if kid := report.get("kid_by_emotion"):
        rows = [
            [emotion, str(found["clips"]), figure_cell("kid", found["kid"], found["interval"])]
            for emotion, found in kid.items()
        ]
        table = Table(["", "clips", head_of("kid")], rows)
        sections.append(Section("KID by emotion", "Of the generated clips.", [], table))
    return sections


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
    try:
        rows, claims = ablation_table(study), claims_table(study["claims"])
        figure = ablation_bars(study)
        text = f"{study['steps']} steps each at {study['size']} px."
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is no ablation.json of this reta_jax.ablate") from error
    text += (
        " Mean ± standard deviation over the seeds; (the paper's figure). Mouth is the correlation "
        "of the lips' opening with the truth's, ACC_e is in percent; data and judges differ from "
        "the paper's: compare directions."
    )
    text = "\n\n".join([text, *objections_of(study)])
    verdicts = (
        f'"Stays" means that the figure falls by less than {100 * ablate.STAYS:.0f} %. Differences '
        "are to the full model of the same seeds, ± half of their 95 % interval. Each verdict is "
        "for itself: of so many, one or another may be chance."
    )
    caption = "Mean over the seeds; lines are one standard deviation to either side."
    picture = plots.save(out, "ablation.png", figure, caption)
    return [
        Section("Ablations", text, [picture], rows),
        Section("Ablations: the paper's claims", verdicts, [], claims),
    ]


def ablation_table(study: Mapping[str, Any]) -> Table:
    head = ["row", "seeds", *(head_of(*names) for names in ablate.FIGURES.items())]
    rows = []
    for row, runs in study["figures"].items():
        title, *published = ablate.PAPER[row]
        cells = [
            over_seeds(runs, name) + ("" if paper is None else f" ({paper})")
            for name, paper in itertools.zip_longest(ablate.FIGURES, published)
        ]
        rows.append([title, str(len(runs)), *cells])
    for title, figures in study["known"].items():
        cells = [decimals(figures.get(name, math.nan)) for name in ablate.FIGURES]
        rows.append([title, "", *cells])
    return Table(head, rows)


def over_seeds(runs: Mapping[str, Figures], name: str) -> str:
    mean, spread = mean_and_spread(runs, name)
    return decimals(mean) + (f" ± {decimals(spread)}" if len(runs) > 1 else "")


def mean_and_spread(runs: Mapping[str, Figures], name: str) -> tuple[float, float]:
    """A figure's mean over the seeds and its standard deviation, 0 of one seed."""
    values = [run[name] for run in runs.values()]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def ablation_bars(study: Mapping[str, Any]) -> Figure:
    means: dict[str, Figures] = {}
    spreads: dict[str, dict[str, list[float]]] = {}
    for row, runs in study["figures"].items():
        title = ablate.PAPER[row].title
        found = {name: mean_and_spread(runs, name) for name in ablate.FIGURES}
        means[title] = {name: mean for name, (mean, _) in found.items()}
        spreads[title] = {name: [mean - sd, mean + sd] for name, (mean, sd) in found.items()}
    still = {title: row for title, row in study["known"].items() if title == "still portrait"}
    titles = {name: title_of(name, figure) for name, figure in ablate.FIGURES.items()}
    return plots.metric_bars(means | figures_of(still), spreads, titles)


def claims_table(claims: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            f"{ablate.PAPER[claim['row']].title}: {claim['figure']} {claim['direction']}",
            f"{claim['difference']:+.3f} ± {claim['spread']:.3f}",
            claim["word"],
        ]
        for claim in claims
    ]
    return Table(["the paper's claim", "difference", "verdict"], rows)


# ------------------------------------------------------------------------------------------------
# Of disturbed inputs
# ------------------------------------------------------------------------------------------------


def robustness_sections(out: Path, path: Path) -> list[Section]:
    """Conditions of reta_jax.robustness with their intervals, and its figures by identity.

    Args:
      path: the file, or the folder with robustness.json.

    Raises InputError if it is not there, or has no such conditions.
    """
    file = file_in(path, robustness.REPORT)
    report = read_json(file)
    try:
        rows, intervals = figures_of(report["rows"]), report["intervals"]
        table = figures_table(rows, report["counts"], intervals)
        people = figures_table(figures_of(report["by_identity"]))
        share = f"{100 * report['own_voice_wins']:.0f} % of {report['own_voice_clips']} clips"
        titles = {name: title_of(name) for name in names_of(rows)}
        figure = plots.metric_bars(rows, intervals, titles)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is no report of reta_jax.robustness") from error
    text = (
        f"{share} follow their own voice better than another's. In brackets, and "
        "as lines: intervals of 95 %, by people drawn anew with all their clips. PSNR and SSIM of "
        "portraits in another light or frame say nothing: the truth is as filmed."
    )
    caption = "Mean over the clips, condition by condition."
    picture = plots.save(out, "robustness.png", figure, caption)
    return [
        Section("Disturbed inputs", text, [picture], table),
        Section("Inputs as filmed, by identity", "Means over a person's clips.", [], people),
    ]


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


def objections_of(report: Mapping[str, Any]) -> list[str]:
    """What is to be said against the judges, each a bold paragraph."""
    return [f"**{text[0].upper()}{text[1:]}.**" for text in report.get("objections", ())]


def names_of(rows: Mapping[str, Figures]) -> list[str]:
    return list(dict.fromkeys(name for row in rows.values() for name in row))


def figures_table(
    rows: Mapping[str, Figures],
    counts: Mapping[str, Mapping[str, int]] = {},
    intervals: Mapping[str, Mapping[str, Sequence[float]]] = {},
) -> Table:
    """A column a figure: "0.611 [0.500, 0.700] (n = 12)".

    Args:
      counts: of how many clips a figure is, where it is not of all.
      intervals: in which it lies, where that is known.
    """
    names = names_of(rows)
    cells = [
        [
            figure_cell(
                name,
                row.get(name, math.nan),
                intervals.get(title, {}).get(name),
                counts.get(title, {}).get(name),
            )
            for name in names
        ]
        for title, row in rows.items()
    ]
    return Table(
        ["", *map(head_of, names)], [[t, *row] for t, row in zip(rows, cells, strict=True)]
    )


def figure_cell(
    name: str, value: float, interval: Sequence[float] | None, count: int | None = None
) -> str:
    if name == NAMED and math.isfinite(value):
        return EMOTIONS[int(value)]
    text = f"{value:.0f}" if name == "clips" else decimals(value)
    if interval is not None:
        low, high = interval
        text += f" [{low:.3f}, {high:.3f}]"
    return text if count is None else f"{text} (n = {count})"


def head_of(name: str, figure: str | None = None) -> str:
    """A figure's name with an arrow to the better side, where it has one: "sync d ↓".

    Args:
      figure: what reta_jax.evaluate calls it, if `name` is another table's.
    """
    known = (figure or name).removesuffix("_whole")
    arrow = " ↑" if known in UP else " ↓" if known in DOWN else ""
    return (name if figure else name.replace("_", " ")) + arrow


def title_of(name: str, figure: str | None = None) -> str:
    """The same with the unit below, as far as reta_jax.evaluate states one."""
    unit = UNITS.get((figure or name).removesuffix("_whole"), "")
    return "\n".join([head_of(name, figure), *textwrap.wrap(unit, TITLE_WIDTH)])
