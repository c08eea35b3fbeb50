"""Judged clips to a report: means, intervals, FID and KID of all, and what could not be judged."""

import functools
import resource
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipeline.emotions import EMOTIONS
from reta_jax.metrics.cache import VERSION, Judged
from reta_jax.metrics.frechet import frechet_distance, moments
from reta_jax.metrics.judges import Judges, is_filmed, is_own
from reta_jax.metrics.kid import Couples, couples, drawn_distances, kernel_distance, kernel_sums
from reta_jax.metrics.mouth import BELOW_LOUD
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.ranking import misranked
from reta_jax.metrics.statistics import (
    NAMED,
    Figures,
    interval_of,
    intervals,
    mean_figures,
    missing_counts,
)


def summarise(judges: Judges, protocol: Protocol, known: list[Judged]) -> dict[str, Any]:
    """What both kinds of evaluation say."""
    names = dict.fromkeys(name for one in known for name in one.rows)
    # Without sound a clip has no row of another's voice.
    rows = {name: [one.rows.get(name, {}) for one in known] for name in names}
    means = {name: mean_figures(figures) for name, figures in rows.items()}
    people = [one.identity for one in known]
    between = {name: intervals(figures, people, protocol.seed) for name, figures in rows.items()}
    distances = _distances(known, protocol.seed)
    for name, found in distances.rows.items():
        means[name] |= found
        between[name] |= distances.intervals[name]
    confusions = {row: found for row in CONFUSED if (found := _confusion(known, row))}
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
        "intervals": between,
        "kid_by_emotion": distances.by_emotion,
        "emotions_named": confusions,
        "judges": {
            name: {
                "network": judge.network,
                "source": judge.source,
                "sha256": judge.sha256,
                "held_out_score": judge.held_out_score,
                "diagnosis": judge.diagnosis or {},
            }
            for name, judge in judges._asdict().items()
            if judge
        },
        "notes": [
            *misranked(rows),
            *_notes(judges, protocol, known, means["generated"]),
            *distances.notes,
        ],
        "protocol": protocol.as_dict(),
        "protocol_sha256": protocol.sha256,
    }


class Distances(NamedTuple):
    """What features of pictures say, of all clips together."""

    rows: dict[str, Figures] = {}
    intervals: dict[str, dict[str, list[float]]] = {}  # by row
    by_emotion: dict[str, dict[str, Any]] = {}  # the generated clips' KID
    notes: list[str] = []


def _distances(known: list[Judged], seed: int) -> Distances:
    """FID and KID of each row that has features, held against the truth's.

    Only the KID has an interval: a drawn set repeats clips, and with them its covariances shrink,
    so that the FIDs of drawn sets do not lie about that of all.
    """
    if "truth" not in known[0].features:
        return Distances()
    by_row = {row: [one.features[row] for one in known] for row in known[0].features}
    truth, people = by_row.pop("truth"), [one.identity for one in known]
    frames = sum(map(len, truth))
    if frames < 2:
        return Distances(notes=["FID and KID are not judged: one frame in all, they need two"])
    reference, truth_sums = moments(np.concatenate(truth)), kernel_sums(truth, truth)
    rows, between, by_emotion = {"truth": {"fid": 0.0, "kid": 0.0}}, {"truth": {}}, {}
    for name, features in by_row.items():
        held = couples(features, truth, truth_sums)
        fid = frechet_distance(moments(np.concatenate(features)), reference)
        rows[name] = {"fid": fid, "kid": kernel_distance(held)}
        interval = _kid_interval(held, people, seed)
        between[name] = {"kid": interval} if interval else {}
        if name == "generated":
            by_emotion = _kid_by_emotion(held, [one.emotion for one in known], people, seed)
    notes = [
        f"FID of {frames} frames a row: it falls with their number, and has no interval, as drawn "
        "sets of clips repeat frames; the KID does not fall, and has one"
    ]
    if frames <= reference.mean.size:
        notes.append(
            f"these are no more than its {reference.mean.size} features: covariances are singular, "
            "and the FID says little; read the KID"
        )
    return Distances(rows, between, by_emotion, notes)


def _kid_interval(held: Couples, people: Sequence[str], seed: int) -> list[float] | None:
    return interval_of(functools.partial(drawn_distances, held), people, seed)


def _kid_by_emotion(
    held: Couples, emotions: Sequence[str], people: Sequence[str], seed: int
) -> dict[str, dict[str, Any]]:
    """The KID of the clips of each emotion that has two frames or more."""
    found = {}
    for emotion in sorted(set(emotions) - {""}):
        chosen = [i for i, one in enumerate(emotions) if one == emotion]
        theirs = held.of(chosen)
        if theirs.counts.any():
            found[emotion] = {
                "clips": len(chosen),
                "kid": kernel_distance(theirs),
                "interval": _kid_interval(theirs, [people[i] for i in chosen], seed),
            }
    return found


CONFUSED = ("generated", "truth")  # rows whose emotions are told apart, one by one


def _confusion(known: list[Judged], row: str) -> dict[str, Any]:
    """How often a clip of each true emotion was named which, and the ACC_e of blind naming.

    "chance" is the share that would be right if as many clips were named each emotion, but without
    a look: sum over emotions of (share that has it) x (share that is named it), as in Cohen's
    kappa. Empty where nothing was named.
    """
    pairs = [
        (EMOTIONS.index(one.emotion), int(one.rows[row][NAMED]))
        for one in known
        if one.emotion and NAMED in one.rows[row]
    ]
    if not pairs:
        return {}
    table = np.zeros((len(EMOTIONS), len(EMOTIONS)), int)
    np.add.at(table, tuple(np.transpose(pairs)), 1)
    chance = table.sum(1) @ table.sum(0) / len(pairs) ** 2
    shown = [i for i in range(len(EMOTIONS)) if table[i].any() or table[:, i].any()]
    counts = {
        EMOTIONS[true]: {EMOTIONS[named]: int(table[true, named]) for named in shown}
        for true in shown
        if table[true].any()
    }
    return {"counts": counts, "chance": float(chance)}


MISSING = {  # without such a judge
    "sync": "Sync_c and Sync_d are not judged: no SyncNet v2 is named or imported (python -m "
    "reta_jax.pretrained import syncnet_v2 FILE, or --syncnet DIR)",
    "fid": "FID and KID are not judged: no Inception is at hand (python -m reta_jax.pretrained "
    "import fid_inception FILE, or --inception DIR)",
    "identity": "identity is not judged: no network is named (--identity DIR, or MODULE:FUNCTION "
    "of your own)",
    "emotion": "ACC_e is not judged: no network is named (--emotion DIR)",
}
ABSENT = {  # from every clip, though its judge is there or it needs none
    "emotion_accuracy": (
        "emotion",
        "ACC_e is not judged: of no clip is the emotion known and a face seen",
    ),
    "lip_vertex_distance_mm": (
        "mesh",
        "LVE of the mesh is not judged: it needs the project's own 3DMM, and clips whose "
        "coefficients are known, as the synthetic world's are",
    ),
    "movement_in_silence": (
        "mouth",
        "movement in silence is not judged: no clip has a face to be seen while nobody is heard, "
        f"{BELOW_LOUD:.0f} dB below its loud frames, for a third of a second",
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
        if group in protocol.figures and group not in missing and _is_missed(figure, generated)
    ]
    own = [name for name, judge in judges._asdict().items() if judge and is_own(judge)]
    if own and any(is_filmed(one.identity) for one in known):
        notes.append(
            f"the {', '.join(own)} judges know the synthetic world only: look at the truth's row "
            "before you believe them here, or name others (--face-landmarker, --emotion, "
            "--identity, --judges)"
        )
    notes += [
        f"the {name} judge, when it was trained: {judge.diagnosis['warning']}"
        for name, judge in judges._asdict().items()
        if judge and judge.diagnosis and "warning" in judge.diagnosis
    ]
    if any(one.seconds for one in known) and (judges.mouth or judges.sync):
        notes.append(IN_TRUE_BOX)
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


def _is_missed(figure: str, generated: Figures) -> bool:
    """Whether a figure lacks for a reason of its own, and not because no face was seen at all."""
    if figure in generated:
        return False
    if figure == "movement_in_silence":
        return "mouth_correlation" in generated
    if figure == "blinks_per_minute":
        return "faces_seen" not in generated or "head_motion" in generated
    return True


IN_TRUE_BOX = (
    "generated mouths are looked for, and cropped for Sync_c and Sync_d, in the box of the true "
    "face: a head that is elsewhere costs these figures"
)


def _of_clips(known: list[Judged]) -> list[str]:
    """What is to be said of some clips, with their number."""
    remarks = Counter(remark for one in known for remark in one.remarks)
    unseen = [one for one in known if _shows_no_face(one.rows["generated"])]
    remarks.update(TOO_FEW if one.frames < 3 else NO_FACE for one in unseen)
    return [f"{count} of {len(known)} clips {remark}" for remark, count in remarks.items()]


TOO_FEW = "have fewer than three frames: of how their faces move nothing is said"
NO_FACE = (
    "show no face, generated or real, but in two frames at most: figures of landmarks are means "
    "over the others"
)


def _shows_no_face(figures: Figures) -> bool:
    return "faces_seen" in figures and "head_motion" not in figures


def speed(known: list[Judged]) -> Figures:
    """Times of rendering alone, and the memory in use when the clips were judged."""
    latencies = [one.latency for one in known]
    return {
        "frames_per_second": sum(one.frames for one in known) / sum(one.seconds for one in known),
        "milliseconds_to_first_frames": 1e3 * float(np.median(latencies)),
        "milliseconds_to_first_frames_p95": 1e3 * float(np.percentile(latencies, 95)),
        "peak_memory_gb": max(one.memory for one in known) / 1e9,
    }


def peak_memory() -> int:
    """Bytes at most in use until now: all the device's, or the process' on a CPU."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
