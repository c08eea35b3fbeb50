"""Plots of a report, as matplotlib figures without a window."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import LogLocator, NullFormatter

from data_pipeline.audio import FPS, SAMPLE_RATE
from reta_jax.files import write_whole
from reta_jax.report import Picture

DPI = 110
FEW = 30  # points of a curve that are marked


def save(folder: Path, name: str, figure: Figure, caption: str) -> Picture:
    """Writes a figure as a PNG, cut to what is drawn, and names it for the report."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    write_whole(folder / name, buffer.getvalue())
    return Picture(name, caption)


def picture_grid(
    rows: Sequence[Sequence[np.ndarray | None]],
    columns: Sequence[str],
    titles: Sequence[str],
    tile: float = 1.35,
) -> Figure:
    """Pictures (h, w, 3) under the names of their columns, beside those of their rows.

    Pixels stay squares, so that coarse maps look coarse. None leaves a blank. `tile` is in inches.
    """
    figure = Figure(figsize=(tile * len(columns), tile * len(rows)))
    axes = figure.subplots(
        len(rows), len(columns), squeeze=False, gridspec_kw={"wspace": 0.04, "hspace": 0.04}
    )
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            show(axes[r, c], picture)
        axes[r, 0].set_ylabel(titles[r], rotation=0, ha="right", va="center", fontsize=9)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=9, pad=4)
    return figure


def show(axis, picture: np.ndarray | None) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if picture is not None:
        axis.imshow(picture, interpolation="nearest")


def with_voice(
    rows: Sequence[Sequence[np.ndarray | None]],
    titles: Sequence[str],
    moments: Sequence[int],
    waveform: np.ndarray,
    sounds: Sequence[str] | None,
) -> Figure:
    """Videos as rows of their frames at `moments`, tied to where they lie in the voice.

    Args:
      rows: of each video, a picture a moment.
      moments: frame numbers; frame k is heard during [k, k + 1) / 25 s.
      waveform: 16 kHz, from frame 0 on.
      sounds: name of the sound in each frame of the clip, if known.
    """
    figure = Figure(figsize=(1.25 * len(moments), 1.25 * (len(rows) + 1.5)))
    grid = figure.add_gridspec(
        len(rows) + 2, len(moments), height_ratios=[1] * len(rows) + [0.3, 1.1], hspace=0.04,
        wspace=0.04,
    )  # fmt: skip
    voice = figure.add_subplot(grid[-1, :])
    draw_voice(voice, waveform, sounds)
    for r, row in enumerate(rows):
        for c, (moment, picture) in enumerate(zip(moments, row, strict=True)):
            axis = figure.add_subplot(grid[r, c])
            show(axis, picture)
            if r == 0:
                sound = f"  {sounds[moment]}" if sounds else ""
                axis.set_title(f"{moment / FPS:.2f} s{sound}", fontsize=9, pad=4)
            if c == 0:
                axis.set_ylabel(titles[r], rotation=0, ha="right", va="center", fontsize=9)
            if r == len(rows) - 1:
                tie = ConnectionPatch(
                    (0.5, 0), ((moment + 0.5) / FPS, voice.get_ylim()[1]),
                    axis.transAxes, voice.transData, color="tab:red", linewidth=0.8,
                )  # fmt: skip
                figure.add_artist(tie)
    for moment in moments:
        voice.axvspan(moment / FPS, (moment + 1) / FPS, color="tab:red", alpha=0.25, linewidth=0)
    return figure


def draw_voice(axis, waveform: np.ndarray, sounds: Sequence[str] | None) -> None:
    """The waveform over seconds, with the name of every sound where it begins and ends."""
    seconds = np.arange(len(waveform)) / SAMPLE_RATE
    axis.plot(seconds, waveform, linewidth=0.4, color="0.3")
    limit = 1.1 * max(float(np.abs(waveform).max()), 1e-3)
    axis.set(xlim=(0, len(waveform) / SAMPLE_RATE), ylim=(-limit, 1.35 * limit), yticks=[])
    axis.set_xlabel("s", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["left", "right", "top"]].set_visible(False)
    for name, first, end in spans(sounds or []):
        axis.axvline(first / FPS, color="0.85", linewidth=0.6, zorder=0)
        if name != "sil":
            middle = (first + end) / 2 / FPS
            axis.text(middle, 1.12 * limit, name, fontsize=7, ha="center", va="bottom")


def spans(names: Sequence[str]) -> list[tuple[str, int, int]]:
    """Stretches of equal names: (name, first, end)."""
    found: list[tuple[str, int, int]] = []
    for i, name in enumerate(names):
        if found and found[-1][0] == name:
            found[-1] = name, found[-1][1], i + 1
        else:
            found.append((name, i, i + 1))
    return found


def over_time(curves: dict[str, np.ndarray], dashed: np.ndarray, dashed_name: str) -> Figure:
    """One curve a panel, each over the same dashed one; all without unit, over 25 fps frames."""
    figure = Figure(figsize=(8, 1.05 * len(curves) + 0.4))
    axes = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, values) in zip(axes, curves.items(), strict=True):
        seconds = np.arange(len(values)) / FPS
        axis.plot(seconds, dashed, "--", color="0.5", linewidth=1, label=dashed_name)
        axis.plot(seconds, values, color="tab:blue", linewidth=1.5)
        axis.set(yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.95))
    axes[-1].set_xlabel("s", fontsize=9)
    return figure


def bars_by_level(
    levels: Sequence[str], facts: dict[str, np.ndarray], marks: Sequence[str]
) -> Figure:
    """For each fact (levels, k) a panel of bars: the k components of every level side by side."""
    figure = Figure(figsize=(3.6 * len(facts), 2.6), layout="constrained")
    for axis, (title, values) in zip(
        figure.subplots(1, len(facts), squeeze=False)[0], facts.items(), strict=True
    ):
        count = values.shape[1]
        for i in range(count):
            places = np.arange(len(levels)) + (i - (count - 1) / 2) * 0.8 / count
            axis.bar(places, np.nan_to_num(values[:, i]), 0.8 / count, label=marks[i])
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(len(levels)), levels, fontsize=8)
        axis.set_ylim(0, 1)
        axis.tick_params(axis="y", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        if not np.isfinite(values).any():
            axis.text(0.5, 0.5, "not known", transform=axis.transAxes, ha="center", color="0.5")
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


def curves(
    series: dict[str, list[tuple[np.ndarray, np.ndarray]]], boundaries: Sequence[int]
) -> Figure:
    """Small panels, one a name: its stretches (steps, values), with lines between stages."""
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    end = max(steps[-1] for stretches in series.values() for steps, _ in stretches)
    for axis, (name, stretches) in zip(axes, series.items(), strict=False):
        values = np.concatenate([v for _, v in stretches])
        axis.set_xlim(0, end)
        for steps, stretch in stretches:
            marker = "." if len(steps) <= FEW else None  # one alone would not be seen
            axis.plot(steps, stretch, color="tab:blue", linewidth=1, marker=marker)
        if (values > 0).all() and values.max() > 8 * values.min():
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
        for boundary in boundaries:
            axis.axvline(boundary, color="0.8", linewidth=0.8, zorder=0)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(series) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(series) - columns) : len(series)]:
        axis.set_xlabel("step", fontsize=8)
    return figure


def metric_bars(
    rows: dict[str, dict[str, float]],
    intervals: dict[str, dict[str, Sequence[float]]],
    titles: dict[str, str],
) -> Figure:
    """One panel a figure with its title, one bar a row, with the interval where there is one.

    A truth that would dwarf the others runs out of the panel; its number stands by.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    columns = min(3, len(names))
    height = 0.28 * len(rows) + 0.6 + 0.15 * max(title.count("\n") for title in titles.values())
    figure = Figure(
        figsize=(3.8 * columns, height * -(-len(names) // columns)), layout="constrained"
    )
    axes = figure.subplots(-(-len(names) // columns), columns, squeeze=False, sharey=True).ravel()
    for axis, name in zip(axes, names, strict=False):
        spread = {
            title: (row[name], *intervals.get(title, {}).get(name, ()))
            for title, row in rows.items()
            if name in row
        }
        low, high = _extent(spread)
        for place, title in enumerate(rows):
            if title not in spread:
                continue
            value, *interval = spread[title]
            axis.barh(place, value, color="tab:blue" if place == 0 else "0.7")
            if interval:
                axis.plot(interval, [place, place], color="black", linewidth=1.2)
            end = min(high, max(0.0, *spread[title])) if interval else min(high, max(0.0, value))
            axis.text(end, place, f" {value:.3g}", va="center", fontsize=7)
        axis.set_title(titles[name], fontsize=8)
        axis.set_xlim(low, high + 0.22 * (high - low))
        axis.set_yticks(range(len(rows)), list(rows), fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return figure


def _extent(spread: dict[str, tuple[float, ...]]) -> tuple[float, float]:
    """What a panel shows: everything, but for a truth that would dwarf the others (PSNR)."""
    others = [x for title, values in spread.items() if title != "truth" for x in values]
    truth = spread.get("truth", ())
    if others and max(others) > 0 and max(truth, default=0.0) > 2 * max(others):
        truth = (1.15 * max(others),)
    shown = [0.0, *others, *truth]
    return min(shown), max(max(shown), min(shown) + 1e-9)
