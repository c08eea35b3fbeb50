"""Judged clips to a report: means, intervals, the FID of all, and what could not be judged."""

import resource
from collections import Counter, defaultdict
from typing import Any

import jax
import numpy as np

from reta_jax.metrics.cache import VERSION, Judged
from reta_jax.metrics.frechet import frechet_distance, moments
from reta_jax.metrics.judges import Judges, is_own
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.statistics import Figures, intervals, mean_figures, missing_counts


def summarise(judges: Judges, protocol: Protocol, known: list[Judged]) -> dict[str, Any]:
    """What both kinds of evaluation say."""
    rows: dict[str, list[Figures]] = defaultdict(list)
    for one in known:
        for name, figures in one.rows.items():
            rows[name].append(figures)
    means = {name: mean_figures(figures) for name, figures in rows.items()}
    notes = _notes(judges, protocol, known, means["generated"])
    if "truth" in known[0].features:
        features = {row: [one.features[row] for one in known] for row in known[0].features}
        reference = moments(np.concatenate(features["truth"]))
        for name, found in features.items():
            means[name]["fid"] = frechet_distance(moments(np.concatenate(found)), reference)
        notes.append(f"FID of {reference.count} frames a row: it falls with their number")
        if reference.count <= reference.mean.size:
            notes.append(
                f"these are no more than its {reference.mean.size} features: covariances are "
                "singular, and the FID says little"
            )
    return {
        "version": VERSION,
        "split": protocol.split,
        "clips": len(known),
        "rows": means,
        "counts": {
            name: counts
            for name, figures in rows.items()
            if (counts := missing_counts(figures, len(known)))
        },
        "intervals": {name: intervals(figures, protocol.seed) for name, figures in rows.items()},
        "judges": {
            name: {
                "network": judge.network,
                "source": judge.source,
                "sha256": judge.sha256,
                "held_out_score": judge.held_out_score,
            }
            for name, judge in judges._asdict().items()
            if judge
        },
        "notes": notes,
        "protocol": protocol.as_dict(),
        "protocol_sha256": protocol.sha256,
    }


MISSING = {  # without such a judge
    "sync": "Sync_c and Sync_d are not judged: no SyncNet v2 is at hand (python -m "
    "reta_jax.pretrained import syncnet_v2 FILE, or --syncnet DIR)",
    "fid": "FID is not judged: no Inception is at hand (python -m reta_jax.pretrained import "
    "fid_inception FILE, or --inception DIR)",
    "identity": "identity is not judged: no network is at hand (--identity DIR, or MODULE:FUNCTION "
    "of your own)",
    "emotion": "ACC_e is not judged: no network is named (--emotion DIR)",
}
ABSENT = {  # from every clip, though its judge is there or it needs none
    "emotion_accuracy": ("emotion", "ACC_e is not judged: of no clip the emotion is known"),
    "lip_vertex_distance_mm": (
        "mesh",
        "LVE of the mesh is not judged: it needs the project's own 3DMM, and clips whose "
        "coefficients are known, as the synthetic world's are",
    ),
    "blinks_per_minute": (
        "face",
        "blinks are not counted: it needs a judge that sees lids (--face-landmarker)",
    ),
}


def _notes(
    judges: Judges, protocol: Protocol, known: list[Judged], generated: Figures
) -> list[str]:
    has = {
        "sync": judges.sync,
        "fid": judges.inception,
        "identity": judges.identity,
        "emotion": judges.emotion,
    }
    missing = [group for group in MISSING if group in protocol.figures and not has[group]]
    notes = [MISSING[group] for group in missing]
    notes += [
        note
        for figure, (group, note) in ABSENT.items()
        if group in protocol.figures and group not in missing and figure not in generated
    ]
    own = [name for name, judge in judges._asdict().items() if judge and is_own(judge)]
    if own and any(one.identity and not one.identity.startswith("synthetic_") for one in known):
        notes.append(
            f"the {', '.join(own)} judges know the synthetic world only: look at the truth's row "
            "before you believe them here, or name others (--face-landmarker, --emotion, "
            "--identity, --judges)"
        )
    notes += _of_clips(known)
    people: dict[str, list[np.ndarray]] = defaultdict(list)
    for one in known:
        if one.person.size:
            people[one.identity].append(one.person)
    if len(people) > 1:
        means = np.stack([np.mean(vectors, 0) for vectors in people.values()])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        others = (means @ means.T)[~np.eye(len(means), dtype=bool)]
        notes.append(
            f"identity_similarity between different people of this set: {others.mean():.3f}, at "
            f"most {others.max():.3f}"
        )
    return notes


def _of_clips(known: list[Judged]) -> list[str]:
    """What is to be said of some clips, with their number."""
    remarks = Counter(remark for one in known for remark in one.remarks)
    unseen = sum(_shows_no_face(one.rows["generated"]) for one in known)
    if unseen:
        remarks[NO_FACE] = unseen
    return [f"{count} of {len(known)} clips {remark}" for remark, count in remarks.items()]


NO_FACE = (
    "show no face, generated or real, but in two frames at most: figures of landmarks are means "
    "over the others"
)


def _shows_no_face(figures: Figures) -> bool:
    return "faces_seen" in figures and "head_motion" not in figures


def speed(known: list[Judged]) -> Figures:
    """Times of rendering alone; the peak memory is all the device's, or the process' on a CPU."""
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    latencies = [one.latency for one in known]
    return {
        "frames_per_second": sum(one.frames for one in known) / sum(one.seconds for one in known),
        "milliseconds_to_first_frames": 1e3 * float(np.median(latencies)),
        "milliseconds_to_first_frames_p95": 1e3 * float(np.percentile(latencies, 95)),
        "peak_memory_gb": peak / 1e9,
    }
