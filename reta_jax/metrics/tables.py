"""A report as Markdown."""

from typing import Any

from reta_jax.metrics.statistics import Figures

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
    "movement_in_silence": "standard deviation of the gap where nobody speaks, eye distances",
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
    lines = ["| | " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for title, row in rows.items():
        cells = [
            f"{row[name]:.3f}{_of(counts.get(title, {}), name)}" if name in row else ""
            for name in names
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _of(counts: dict[str, int], name: str) -> str:
    return f" (n = {counts[name]})" if name in counts else ""


def interval_table(
    row: Figures, intervals: dict[str, list[float]], counts: dict[str, int] | None = None
) -> str:
    lines = ["| figure | mean | 95 % of resampled sets of clips | |", "|---|---|---|---|"]
    for name, mean in row.items():
        low, high = intervals.get(name, (None, None))
        between = "" if low is None else f"{low:.3f} to {high:.3f}"
        meaning = UNITS.get(name.removesuffix("_whole"), "")
        mean = f"{mean:.3f}{_of(counts or {}, name)}"
        lines.append(f"| {name.replace('_', ' ')} | {mean} | {between} | {meaning} |")
    return "\n".join(lines)


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
    if speed := report.get("speed"):
        parts += ["## Speed", markdown_table({"rendering": speed})]
        parts += [
            f"On {report['device']}, from voice to uint8 frames on the host, the machine's other "
            "loads included. The memory is that of judging, too."
        ]
    parts += ["## Judges", *_judges(report["judges"]), *(f"- {note}" for note in report["notes"])]
    parts += [f"## Protocol `{protocol['name']}`, SHA-256 `{report['protocol_sha256']}`"]
    parts += ["\n".join(f"- {name}: {value}" for name, value in protocol.items())]
    return "\n\n".join(parts) + "\n"


def _judges(judges: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["| judge | network | from | score on people it was not trained on | SHA-256 |"]
    lines.append("|---" * 5 + "|")
    for name, judge in judges.items():
        score = judge["held_out_score"]
        lines.append(
            f"| {name} | {judge['network']} | {judge['source']} | "
            f"{'' if score is None else f'{score:.3f}'} | {judge['sha256'][:16]} |"
        )
    return ["\n".join(lines)]
