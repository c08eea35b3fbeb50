"""A page on what a prepared data set holds, and what was refused, to look at before training:

    python -m data_pipeline.inspect data/mine        writes data/mine/inspect/index.html

Sheets of samples show the pictures with their landmarks and sync box above the voice and the
opening of the mouth; charts show minutes, lengths and scores; refused sources are listed by reason.
"""

import argparse
import collections
import html
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from data_pipeline.audio import FPS, to_float
from data_pipeline.commands import at_least_0, exit_code
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.face import MOUTH, lip_gap
from data_pipeline.files import refuse_address
from data_pipeline.manifest import Row, by_job, read_journal, read_manifest
from data_pipeline.records import decode_jpeg, of_clip, open_records, read_clips
from data_pipeline.video import iterate_frames

SAMPLES = 12
MEASURED = 300  # clips of a split that are read for the histograms, evenly spread
PEOPLE = 40  # bars in the chart of identities; the page's table has all
EXAMPLES = 4  # of each reason for refusal
_SIDE, _GAP, _WAVE = 176, 6, 84  # pixels: a picture, the room between two, the waveform's height
_PICTURES = 5  # of a sample
_SHOT = 132  # pixels: height of a refused video's picture
_FIRST_INNER_LIP = 60  # of the iBUG points
_INK, _MUTED, _PAPER = "#1d2530", "#7d8896", "#ffffff"
_BLUE, _ORANGE, _GREEN = "#2f6fb3", "#d9772b", "#2e9f6e"
_QUIETEST_DB = -60.0


class Page(NamedTuple):
    """What the page is made of."""

    name: str  # of the data set
    clips: dict[str, list[dict[str, Any]]]  # rows of clips.json by split
    manifest: list[Row]
    folder: Path  # where the pictures go


def inspect(
    dir: str | os.PathLike, out: str | os.PathLike | None = None, samples: int = SAMPLES
) -> Path:
    """Writes the page and its pictures; returns the page's path.

    Args:
        dir: a data set, finished or not, as given to `prepare`.
        out: folder for the page; `dir`/inspect if None.
        samples: clips of each split to show.

    Raises:
        InputError: there is no data set, it is damaged, or `out` cannot be written to.
    """
    dir, folder = Path(dir), Path(out or Path(dir) / "inspect")
    clips, manifest = read_clips(dir), _manifest(dir)
    if not clips and not manifest:
        raise InputError(
            f"{dir} has no prepared data set: make one with python -m data_pipeline.prepare."
        )
    refuse_address(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page = Page(dir.resolve().name, clips, manifest, folder)
        parts = [_overview(page)]
        parts += [_samples(page, dir, split, samples) for split in clips]
        parts += [_minutes(page), _histograms(page, dir), _refused(page)]
        path = folder / "index.html"
        text = _PAGE.format(name=html.escape(page.name), body="\n".join(parts))
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror}): give another --out."
        ) from error
    return path


def _manifest(dir: Path) -> list[Row]:
    """The manifest's rows, and those of a run that has not come to its end."""
    jobs = by_job(read_manifest(dir)) | read_journal(dir / ".parts")
    return [row for rows in jobs.values() for row in rows]


def _overview(page: Page) -> str:
    splits = [
        (
            name,
            len(rows),
            len({row["identity"] for row in rows}),
            f"{_total_minutes(rows):.1f}",
        )
        for name, rows in page.clips.items()
    ]
    states = collections.Counter(row.state for row in page.manifest)
    told = ", ".join(f"{count} {state}" for state, count in states.most_common())
    sources = f"<p>In the manifest: {html.escape(told)}.</p>" if told else ""
    if not page.clips:
        return f"<p>No records have been written yet.</p>{sources}"
    return _table(("split", "clips", "identities", "minutes"), splits) + sources


def _total_minutes(rows: Sequence[dict[str, Any]]) -> float:
    return sum(row["frames"] for row in rows) / FPS / 60


# Samples


def _samples(page: Page, dir: Path, split: str, count: int) -> str:
    picked = spread(page.clips[split], count)
    drawn = [draw_sample(record) for record in _read(dir, split, picked)]
    if not drawn:
        return ""
    picture = _save(page, f"samples-{split}.png", _stack(drawn))
    return (
        f"<h2>Samples: {html.escape(split)}</h2>"
        "<p>Landmarks (inner lips orange), the sync expert's box (green); below, the voice (grey) "
        "and the opening of the mouth (orange), which should rise together; ticks are where the "
        f"pictures are from.</p>{picture}"
    )


def _read(dir: Path, split: str, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
    try:
        records = open_records(dir, split)
        for index in indices:
            yield records[index]
    except InputError:
        raise
    except Exception as error:  # Whatever readers raise of a damaged file.
        raise InputError(
            f"the {split} records of {dir} are damaged: python -m data_pipeline.verify says where."
        ) from error


def spread(rows: Sequence[dict[str, Any]], count: int) -> list[int]:
    """Indices of `count` clips, of as many identities as can be, and of another turn in each."""
    clips = collections.defaultdict(list)
    for index, row in enumerate(rows):
        clips[row["identity"]].append(index)
    people = list(clips.values())
    if len(people) > count:
        people = [people[i] for i in np.linspace(0, len(people) - 1, count).round().astype(int)]
    picked = [
        own[(turn + number) % len(own)]
        for turn in range(max(map(len, people), default=0))
        for number, own in enumerate(people)
        if turn < len(own)
    ]
    return sorted(picked[:count])


def draw_sample(record: dict[str, Any]) -> UInt8[np.ndarray, "h w 3"]:
    """A record as a picture: what it is, frames with landmarks and box, its voice and its mouth.

    Args:
        record: as `open_records` gives it.
    """
    count = len(record["frames"])
    shown = np.linspace(0, count - 1, min(_PICTURES, count)).round().astype(int)
    width = _PICTURES * (_SIDE + _GAP) - _GAP
    canvas = Image.new("RGB", (width, _SIDE + _WAVE + 34), _PAPER)
    draw = ImageDraw.Draw(canvas)
    emotion = int(record["emotion"])
    words = [
        record["clip"].decode(errors="replace"),
        record["identity"].decode(errors="replace"),
        EMOTIONS[emotion] if 0 <= emotion < len(EMOTIONS) else "emotion unknown",
        f"{count / FPS:.2f} s",
    ]
    draw.text((0, 2), "  ·  ".join(words), _INK, _font(13))
    for place, index in enumerate(shown):
        with of_clip(words[0]):
            frame = _draw_frame(
                record["frames"][index], record["landmarks"][index], record["sync_box"]
            )
        canvas.paste(frame, (place * (_SIDE + _GAP), 22))
    wave = _draw_wave(record["audio"], lip_gap(record["landmarks"][:, MOUTH]), shown, width)
    canvas.paste(wave, (0, 22 + _SIDE + _GAP))
    return np.asarray(canvas)


def _draw_frame(data: bytes, points: np.ndarray, box: np.ndarray) -> Image.Image:
    image = Image.fromarray(decode_jpeg(data, _SIDE))
    draw = ImageDraw.Draw(image)
    top, left, bottom, right = (box * _SIDE).tolist()
    if top < bottom and left < right:
        draw.rectangle((left, top, right, bottom), outline=_GREEN, width=2)
    for number, (x, y) in enumerate((points * _SIDE).tolist()):
        colour = _ORANGE if number >= _FIRST_INNER_LIP else _PAPER
        draw.ellipse((x - 1.2, y - 1.2, x + 1.2, y + 1.2), fill=colour)
    return image


def _draw_wave(samples: np.ndarray, mouth: np.ndarray, shown: np.ndarray, width: int):
    image = Image.new("RGB", (width, _WAVE), "#f4f6f8")
    draw = ImageDraw.Draw(image)
    ends = np.linspace(0, len(samples), width + 1).astype(int)
    loudest = max(int(np.abs(samples.astype(np.int32)).max(initial=0)), 1)
    middle = _WAVE / 2
    for x, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
        piece = samples[start : max(end, start + 1)].astype(np.float64) / loudest * (middle - 4)
        if piece.size:
            draw.line((x, middle - piece.max(), x, middle - piece.min()), fill="#aab3bf")
    scale = (width - 1) / max(len(mouth), 1)
    for index in shown:
        draw.line(((index + 0.5) * scale, _WAVE - 7, (index + 0.5) * scale, _WAVE), fill=_INK)
    height = mouth / max(mouth.max(initial=0), 1e-6) * (_WAVE - 12)
    points = [((t + 0.5) * scale, _WAVE - 6 - y) for t, y in enumerate(height.tolist())]
    draw.line(points, fill=_ORANGE, width=2, joint="curve")
    return image


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def _stack(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures under each other; in two columns if they are many."""
    columns = 2 if len(pictures) > 3 else 1
    width = max(picture.shape[1] for picture in pictures)
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    return np.concatenate([_side_by_side(row, columns * (width + 24)) for row in rows])


def _side_by_side(pictures: Sequence[np.ndarray], width: int) -> np.ndarray:
    row = np.full((max(picture.shape[0] for picture in pictures) + 14, width, 3), 255, np.uint8)
    x = 12
    for picture in pictures:
        row[7 : 7 + picture.shape[0], x : x + picture.shape[1]] = picture
        x += picture.shape[1] + 24
    return row


# Charts


def _minutes(page: Page) -> str:
    """Minutes of each identity and of each emotion, by split."""
    if not page.clips:
        return ""
    people = _sums(page.clips, lambda row: row["identity"])
    feelings = _sums(
        page.clips,
        lambda row: EMOTIONS[row["emotion"]] if 0 <= row["emotion"] < len(EMOTIONS) else "unknown",
    )
    shown = dict(list(people.items())[:PEOPLE])
    total = sum(map(sum, people.values()))
    first = next(iter(people))
    told = (
        f"<p>{len(people)} identities; {html.escape(first)} has {sum(people[first]) / total:.0%} "
        "of the minutes.</p>"
    )
    rows = [
        (name, *(f"{part:.2f}" for part in parts), f"{sum(parts) / total:.1%}")
        for name, parts in people.items()
    ]
    names = ("identity", *(f"{split}, minutes" for split in page.clips), "share")
    chart = _bars([(f"identity ({len(shown)} of {len(people)})", shown), ("emotion", feelings)])
    return (
        "<h2>Minutes</h2>"
        + told
        + _save_chart(page, "minutes.png", chart(list(page.clips)))
        + f"<details><summary>All identities</summary>{_table(names, rows)}</details>"
    )


def _sums(clips: dict[str, list[dict]], key: Callable[[dict], str]) -> dict[str, list[float]]:
    """Minutes in each split of whatever `key` says of a row, the most first."""
    sums: dict[str, list[float]] = {}
    for number, rows in enumerate(clips.values()):
        for row in rows:
            sums.setdefault(key(row), [0.0] * len(clips))[number] += row["frames"] / FPS / 60
    return dict(sorted(sums.items(), key=lambda item: -sum(item[1])))


def _bars(panels: list[tuple[str, dict[str, list[float]]]]) -> Callable[[list[str]], Figure]:
    """Stacked horizontal bars, one panel beside the other."""

    def draw(splits: list[str]) -> Figure:
        tallest = max(len(bars) for _, bars in panels)
        figure = Figure(figsize=(11, 1.2 + 0.22 * max(tallest, 4)), layout="constrained")
        for axes, (title, bars) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            names, start = [_plain(name, 28) for name in bars], np.zeros(len(bars))
            for number, split in enumerate(splits):
                lengths = np.array([parts[number] for parts in bars.values()])
                colour = (_BLUE, _ORANGE, _GREEN)[number % 3]
                axes.barh(range(len(bars)), lengths, left=start, color=colour, label=split)
                start += lengths
            axes.set_yticks(range(len(bars)), names, fontsize=8, parse_math=False)
            axes.set_ylim(max(tallest, 4) - 0.4, -0.6)  # Bars of one width in all panels.
            axes.set_xlabel("minutes")
            _quiet(axes, title)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        return figure

    return draw


def _histograms(page: Page, dir: Path) -> str:
    """Lengths of all clips, what is measured on some, and every score of the manifest."""
    if not page.clips and not page.manifest:
        return ""
    values: dict[str, dict[str, np.ndarray]] = {}
    for split, rows in page.clips.items():
        values.setdefault("length in seconds", {})[split] = np.array(
            [row["frames"] / FPS for row in rows]
        )
        for name, numbers in _measure(dir, split, len(rows)).items():
            values.setdefault(name, {})[split] = numbers
    for name, groups in _scores(page.manifest).items():
        values[_TITLES.get(name, name)] = groups
    figure = Figure(figsize=(11, 2.2 * -(-len(values) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(values) // 3), 3, squeeze=False).flat
    for panel in panels[len(values) :]:
        panel.set_axis_off()
    for panel, (name, groups) in zip(panels[: len(values)], values.items(), strict=True):
        known = {label: numbers for label, numbers in groups.items() if len(numbers)}
        colours = [_COLOURS.get(label, _GREEN) for label in known]
        panel.hist(list(known.values()), bins=24, stacked=True, color=colours, label=list(known))
        panel.legend(frameon=False, fontsize=7)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        _quiet(panel, name)
    return (
        "<h2>Lengths and scores</h2><p>Loudness, mouth and face are measured on up to "
        f"{MEASURED} clips of a split; scores are of all rows of the manifest.</p>"
        + _save_chart(page, "histograms.png", figure)
    )


_TITLES = {
    "sharpness": "sharpness of the face",
    "dark": "black pixels of the face, share",
    "bright": "white pixels of the face, share",
    "face_pixels": "side of the face in the source, pixels",
    "yaw": "head turned to the side, degrees",
    "lost": "frames without the face, share",
    "others": "frames with another face, share",
    "movement": "movement of the lips, distances of the eyes",
    "sync": "correlation of lips and voice",
    "sync_offset": "offset at which it is best, frames",
}
_COLOURS = {"train": _BLUE, "test": _ORANGE, "accepted": _BLUE, "refused": "#c0392b"}


def _measure(dir: Path, split: str, count: int) -> dict[str, np.ndarray]:
    """What can be told of any record: loudness, the mouth's movement, the size of the face."""
    picked = np.linspace(0, count - 1, min(count, MEASURED)).round().astype(int)
    rows = []
    for record in _read(dir, split, picked.tolist()):
        sound = to_float(record["audio"])
        power = np.square(sound).mean() if sound.size else 0.0
        box = record["sync_box"]
        rows.append(
            (
                10 * np.log10(max(power, 10 ** (_QUIETEST_DB / 10))),
                100 * lip_gap(record["landmarks"][:, MOUTH]).std(),
                100 * (box[2] - box[0]),
            )
        )
    names = (
        "loudness in dB of full scale",
        "movement of the mouth, % of the side",
        "height of the face, % of the side",
    )
    return dict(zip(names, np.array(rows, np.float64).reshape(-1, 3).T, strict=True))


def _scores(manifest: list[Row]) -> dict[str, dict[str, np.ndarray]]:
    """The manifest's scores, for accepted rows and the others."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in manifest:
        state = "accepted" if row.state == "accepted" else "refused"
        for name, value in row.scores._asdict().items():
            if value is not None and np.isfinite(value):
                found.setdefault(name, {"accepted": [], "refused": []})[state].append(value)
    return {
        name: {state: np.array(numbers) for state, numbers in groups.items()}
        for name, groups in found.items()
    }


def _quiet(axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left", color=_INK)
    axes.tick_params(labelsize=8, colors=_MUTED)
    axes.spines[["top", "right"]].set_visible(False)


# Refusals


def reasons(manifest: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that were not accepted, by reason without its figures and names, the most first."""
    groups = collections.defaultdict(list)
    for row in manifest:
        if row.state != "accepted":
            said = row.reason.replace(row.source or "\0", "the file")
            said = re.sub(r"https?://\S+", "(address)", said)
            groups[re.sub(r"\d+(\.\d+)?", "…", said) or "no reason is given"].append(row)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _refused(page: Page) -> str:
    groups = reasons(page.manifest)
    if not groups:
        return "<h2>Refused</h2><p>Nothing was refused.</p>"
    total = len(page.manifest)
    shown = {reason: list(_pictures_of(rows)) for reason, rows in groups.items()}
    table = [
        (
            len(rows),
            f"{len(rows) / total:.1%}",
            rows[0].state,
            reason,
            "; ".join(f"{row.clip}: {row.reason}" for row in rows[:EXAMPLES]),
        )
        for reason, rows in groups.items()
    ]
    strips = [_draw_refused(reason, shots) for reason, shots in shown.items() if shots]
    picture = ""
    if strips:
        picture = "<p>From the middle of what was refused:</p>" + _save(
            page, "refused.png", _stack(strips)
        )
    return (
        "<h2>Refused</h2>"
        + _table(("rows", "of all", "state", "reason", "examples"), table)
        + picture
    )


def _pictures_of(rows: Sequence[Row]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and picture of the first few of the videos that can be opened."""
    for row in rows[:EXAMPLES]:
        if not Path(row.source).is_file():
            continue
        try:
            frame = next(
                iterate_frames(row.source, 1 / FPS, ((row.start or 0) + (row.end or 0)) / 2)
            )
        except InputError:
            continue
        width = min(max(round(_SHOT * frame.shape[1] / frame.shape[0]), 40), 2 * _SHOT)
        yield row.clip, cv2.resize(frame, (width, _SHOT), interpolation=cv2.INTER_AREA)


def _draw_refused(reason: str, shots: list[tuple[str, np.ndarray]]) -> UInt8[np.ndarray, "h w 3"]:
    canvas = Image.new("RGB", (EXAMPLES * (2 * _SHOT + _GAP), _SHOT + 40), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 2), _plain(reason, 130), _INK, _font(13))
    x = 0
    for name, shot in shots:
        canvas.paste(Image.fromarray(shot), (x, 22))
        draw.text((x, _SHOT + 24), _plain(name, shot.shape[1] // 6), _MUTED, _font(10))
        x += shot.shape[1] + _GAP
    return np.asarray(canvas)


# Writing


def _plain(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _save(page: Page, name: str, picture: np.ndarray) -> str:
    Image.fromarray(picture).save(page.folder / name)
    return f'<p><img src="{name}" alt="{name}"></p>'


def _save_chart(page: Page, name: str, figure: Figure) -> str:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # The page's tables have the names.
        figure.savefig(page.folder / name, dpi=110)
    return f'<p><img src="{name}" alt="{name}"></p>'


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2530; background: #fff;
  max-width: 1180px; margin: 2em auto; padding: 0 1em; }}
h1, h2 {{ font-weight: 600; }} h2 {{ margin-top: 2em; border-top: 1px solid #dde2e8; }}
img {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; vertical-align: top; padding: .2em 1em .2em 0;
  border-bottom: 1px solid #e8ecf0; overflow-wrap: anywhere; }}
</style>
<h1>{name}</h1>
{body}
</html>
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.inspect", description="A page on what a data set holds."
    )
    parser.add_argument("dir", type=Path, help="directory of the data set")
    parser.add_argument("--out", type=Path, help="folder for the page; DIR/inspect without")
    parser.add_argument(
        "--samples", type=at_least_0, default=SAMPLES, help="clips to show of each split"
    )
    args = parser.parse_args(arguments)
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    print(inspect(args.dir, args.out, args.samples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
