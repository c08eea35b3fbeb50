"""The figures of reports as tables, and the sections that they stand in."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipeline.emotions import EMOTIONS
from reta_jax.metrics.mouth import BELOW_LOUD
from reta_jax.metrics.statistics import NAMED, Figures
from reta_jax.report import Section, Table, decimals, markdown_page

UNITS = {
    "psnr": "dB, mean over frames, 100 of equal ones",
    "psnr_clip": "dB, of the mean square error over all frames",
    "ssim": "as scikit-image",
    "mouth_correlation": "of the lips' opening with the truth's",
    "mouth_opening_error": "of the inner lips' gap, eye distances (outer corners)",
    "mouth_landmark_distance": "M-LMD in eye distances",
    "mouth_landmark_distance_px": "the same in pixels at 256 px",
    "mouth_jitter": "acceleration per frame², eye distances",
    "voice_correlation": "of the lips' opening with the loudness",
    "movement_in_silence": "standard deviation of the gap where nobody speaks (sound "
    f"{BELOW_LOUD:.0f} dB below the clip's loud frames), eye distances",
    "emotion_accuracy": "ACC_e, by the emotion judge",
    "lip_vertex_error_mm2": "LVE: mean over frames of the worst lip vertex, squared, mm²",
    "lip_vertex_distance_mm": "the same, not squared, mm",
    "face_jitter": "acceleration per frame² of nose bridge and eye corners, eye distances",
    "faces_seen": "share of the frames in which a face is found",
    "face_landmark_distance": "F-LMD in eye distances",
    "face_landmark_distance_px": "the same in pixels at 256 px",
    "lip_landmark_error_mm2": "LVE of the 20 lip landmarks, outer eye corners taken as 90 mm, mm²",
    "lip_landmark_distance_mm": "the same, not squared, mm",
    "head_motion": "RMS of the head's way from its mean place, eye distances",
    "blinks_per_minute": "eyes shut for 0.5 s at most",
    "identity_similarity": "cosine with the true frame",
    "fid": "Fréchet distance of Inception features to the true frames",
    "kid": "kernel distance of the same features, times 1,000; about 0 is no difference; estimated "
    "of pairs: of some hundred frames, an estimate that knows of none is lower, or below 0",
    "sync_c": "Sync_c (LSE-C), high is good",
    "sync_d": "Sync_d (LSE-D), low is good",
    "sync_offset": "frames, late or early, 0 is good; of several clips the mean size",
}
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
GROUPS = ("by_emotion", "by_identity", "by_clip")
INTERVAL = "95 %, by people drawn anew"

# ------------------------------------------------------------------------------------------------
# Reports
# ------------------------------------------------------------------------------------------------


def markdown_report(report: Mapping[str, Any]) -> str:
    """The whole report of an evaluation: its figures, speed, judges, notes, protocol."""
    sections, protocol = evaluation_sections(report), report["protocol"]
    if speed := report.get("speed"):
        text = (
            f"On {report['device']}, from voice to uint8 frames on the host, the machine's other "
            "loads included. The memory is that of judging, too, where the clips were first judged."
        )
        sections.append(Section("Speed", text, [], figures_table({"rendering": speed})))
    sections.append(Section("Judges", table=judges_table(report["judges"])))
    if notes := report["notes"]:
        sections.append(Section("Notes", _bullets(notes)))
    title = f"Protocol `{protocol['name']}`, SHA-256 `{report['protocol_sha256']}`"
    fields = _bullets(f"{name}: {value}" for name, value in protocol.items())
    return markdown_page(title_of_report(report), [*sections, Section(title, fields)])


def title_of_report(report: Mapping[str, Any]) -> str:
    """What was judged, on how many clips of how many people."""
    what = f"`{report['judged']}` on " if "judged" in report else ""
    people = report.get("identities")
    who = "" if people is None else " of 1 person" if people == 1 else f" of {people} people"
    clips = "1 clip" if report["clips"] == 1 else f"{report['clips']} clips"
    return f"{what}{clips}{who}"


def evaluation_sections(report: Mapping[str, Any]) -> list[Section]:
    """Figures row by row, those of the generated one with their intervals, and its groups'."""
    rows = report["rows"]
    counts, intervals = (report.get(name) or {} for name in ("counts", "intervals"))
    generated = [of.get("generated", {}) for of in (rows, intervals, counts)]
    sections = [
        Section("Evaluation", "\n\n".join(objections_of(report)), [], figures_table(rows, counts)),
        Section("Evaluation: generated", table=interval_table(*generated)),
    ]
    sections += [
        Section(f"Evaluation {group.replace('_', ' ')}", "Of the generated clips.", [], table)
        for group in GROUPS
        if (table := figures_table(report.get(group) or {})).rows
    ]
    return sections + emotion_sections(report)


def emotion_sections(report: Mapping[str, Any]) -> list[Section]:
    """What each emotion's clips were named, and how far their pictures are from the true ones."""
    sections = []
    for row, found in (report.get("emotions_named") or {}).items():
        counts = found["counts"]
        named = list(next(iter(counts.values())))
        text = (
            "Clips, and what the emotion judge named them. Of names given as often, but blindly, "
            f"{found['chance']:.3f} would be right: chance."
        )
        rows = [[true, *(str(theirs[name]) for name in named)] for true, theirs in counts.items()]
        table = Table(["true, named", *named], rows)
        sections.append(Section(f"Emotions, true and named: {row}", text, [], table))
    if kid := report.get("kid_by_emotion"):
        text = f"Of the generated clips; in brackets: {INTERVAL}."
        rows = [
            [emotion, str(found["clips"]), figure_cell("kid", found["kid"], found["interval"])]
            for emotion, found in kid.items()
        ]
        table = Table(["", "clips", head_of("kid")], rows)
        sections.append(Section("KID by emotion", text, [], table))
    return sections


def robustness_sections(report: Mapping[str, Any]) -> list[Section]:
    """Figures of reta_jax.robustness condition by condition, and by identity."""
    text = (
        f"{100 * report['own_voice_wins']:.0f} % of {report['own_voice_clips']} clips follow their "
        "own voice better than another's. In brackets: intervals of 95 %, by people drawn anew "
        "with all their clips. PSNR and SSIM of portraits in another light or frame say nothing: "
        "the truth is as filmed."
    )
    table = figures_table(report["rows"], report["counts"], report["intervals"])
    people = figures_table(report["by_identity"])
    return [
        Section("Disturbed inputs", text, [], table),
        Section("Inputs as filmed, by identity", "Means over a person's clips.", [], people),
    ]


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


# ------------------------------------------------------------------------------------------------
# Tables
# ------------------------------------------------------------------------------------------------


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
    name: str, value: float, interval: Sequence[float] | None = None, count: int | None = None
) -> str:
    if name == NAMED and math.isfinite(value):
        return EMOTIONS[int(value)]
    text = f"{value:.0f}" if name == "clips" else decimals(value)
    if interval is not None:
        low, high = interval
        text += f" [{low:.3f}, {high:.3f}]"
    return text if count is None else f"{text} (n = {count})"


def interval_table(
    row: Figures, intervals: Mapping[str, Sequence[float]], counts: Mapping[str, int] = {}
) -> Table:
    """A line a figure, with what it means."""
    lines = [
        [
            head_of(name),
            figure_cell(name, mean, count=counts.get(name)),
            "{:.3f} to {:.3f}".format(*intervals[name]) if name in intervals else "",
            UNITS.get(name.removesuffix("_whole"), ""),
        ]
        for name, mean in row.items()
    ]
    return Table(["figure", "mean", INTERVAL, ""], lines)


def judges_table(judges: Mapping[str, Mapping[str, Any]]) -> Table:
    lines = []
    for name, judge in judges.items():
        score = judge["held_out_score"]
        found = [
            f"{what.replace('_', ' ')} {figure:.3f}"
            for what, figure in judge["diagnosis"].items()
            if not isinstance(figure, str)  # a warning, which stands among the notes
        ]
        score = "" if score is None else f"{score:.3f}"
        about = name, judge["network"], judge["source"], score, ", ".join(found)
        lines.append([*about, judge["sha256"][:16]])
    held_out = "score on people it was not trained on", "and besides"
    return Table(["judge", "network", "from", *held_out, "SHA-256"], lines)


def objections_of(report: Mapping[str, Any]) -> list[str]:
    """What is to be said against the judges, each a bold paragraph."""
    return [f"**{text[0].upper()}{text[1:]}.**" for text in report.get("objections", ())]


def head_of(name: str, figure: str | None = None) -> str:
    """A figure's name with an arrow to the better side, where it has one: "sync d ↓".

    Args:
      figure: what reta_jax.evaluate calls it, if `name` is another table's.
    """
    arrow = {1: " ↑", -1: " ↓", 0: ""}[better(figure or name)]
    return (name if figure else name.replace("_", " ")) + arrow


def better(figure: str) -> int:
    """1 where more of a figure is better, -1 where less is, 0 where neither is."""
    plain = figure.removesuffix("_whole")
    return (plain in UP) - (plain in DOWN)
