"""A report as Markdown."""

from collections.abc import Iterable
from typing import Any

from data_pipeline.emotions import EMOTIONS
from reta_jax.metrics.mouth import BELOW_LOUD
from reta_jax.metrics.statistics import NAMED, Figures

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


def markdown_table(
    rows: dict[str, Figures], counts: dict[str, dict[str, int]] | None = None
) -> str:
    """Figures by row; `counts` says of how many clips one is, where it is not of all."""
    counts = counts or {}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = []
    for title, row in rows.items():
        cells = [
            f"{_number(name, row[name])}{_of(counts.get(title, {}), name)}" if name in row else ""
            for name in names
        ]
        lines.append([title, *cells])
    return _table("| | " + " | ".join(name.replace("_", " ") for name in names) + " |", lines)


def _table(head: str, lines: Iterable[Iterable[Any]]) -> str:
    """A head as Markdown, and lines of cells: a file's name may have what would end its own."""
    escaped = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    body = ["| " + " | ".join(line) + " |" for line in escaped]
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *body])


def _number(name: str, value: float) -> str:
    if name == NAMED:
        return EMOTIONS[int(value)]
    return f"{value:.0f}" if name == "clips" else f"{value:.3f}"


def _of(counts: dict[str, int], name: str) -> str:
    return f" (n = {counts[name]})" if name in counts else ""


def interval_table(
    row: Figures, intervals: dict[str, list[float]], counts: dict[str, int] | None = None
) -> str:
    lines = []
    for name, mean in row.items():
        meaning = UNITS.get(name.removesuffix("_whole"), "")
        mean = f"{mean:.3f}{_of(counts or {}, name)}"
        lines.append([name.replace("_", " "), mean, _between(intervals.get(name)), meaning])
    return _table(f"| figure | mean | {INTERVAL} | |", lines)


INTERVAL = "95 %, by people drawn anew"


def _between(interval: list[float] | None) -> str:
    return "{:.3f} to {:.3f}".format(*interval) if interval else ""


def markdown_report(report: dict[str, Any]) -> str:
    """The whole report: rows, intervals, groups, speed, judges, protocol."""
    people = f" of {report['identities']} people" if "identities" in report else ""
    protocol = report["protocol"]
    parts = [f"# {report['clips']} clips{people}"]
    parts += [f"**{objection}.**" for objection in report["objections"]]
    rows, intervals, counts = (report[name] for name in ("rows", "intervals", "counts"))
    parts += [markdown_table(rows, counts)]
    parts += [
        "## Generated",
        interval_table(rows["generated"], intervals["generated"], counts.get("generated")),
    ]
    for group in ("by_emotion", "by_identity", "by_clip"):
        if report.get(group):
            parts += [f"## {group.replace('_', ' ').capitalize()}", markdown_table(report[group])]
    if kid := report["kid_by_emotion"]:
        parts += ["## KID by emotion, of the generated clips", _kid_table(kid)]
    if named := report["emotions_named"]:
        parts += ["## Emotions, by the emotion judge", *_confusion_tables(named)]
    if speed := report.get("speed"):
        parts += ["## Speed", markdown_table({"rendering": speed})]
        parts += [
            f"On {report['device']}, from voice to uint8 frames on the host, the machine's other "
            "loads included. The memory is that of judging, too, where the clips were first judged."
        ]
    parts += ["## Judges", *_judges(report["judges"]), *(f"- {note}" for note in report["notes"])]
    parts += [f"## Protocol `{protocol['name']}`, SHA-256 `{report['protocol_sha256']}`"]
    parts += ["\n".join(f"- {name}: {value}" for name, value in protocol.items())]
    return "\n\n".join(parts) + "\n"


def _judges(judges: dict[str, dict[str, Any]]) -> list[str]:
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
    held_out = "score on people it was not trained on | and besides"
    return [_table(f"| judge | network | from | {held_out} | SHA-256 |", lines)]


def _kid_table(by_emotion: dict[str, dict[str, Any]]) -> str:
    return _table(
        f"| | clips | kid | {INTERVAL} |",
        [
            [emotion, found["clips"], f"{found['kid']:.3f}", _between(found["interval"])]
            for emotion, found in by_emotion.items()
        ],
    )


def _confusion_tables(by_row: dict[str, dict[str, Any]]) -> list[str]:
    """True emotions by what they were named, in clips, and what blind naming would be right of."""
    parts = []
    for row, found in by_row.items():
        counts = found["counts"]
        named = list(next(iter(counts.values())))
        parts += [
            f"{row.capitalize()}: clips, and what they were named. Of names given as often, but "
            f"blindly, {found['chance']:.3f} would be right: chance.",
            _table(
                f"| true, named | {' | '.join(named)} |",
                [[true, *theirs.values()] for true, theirs in counts.items()],
            ),
        ]
    return parts
