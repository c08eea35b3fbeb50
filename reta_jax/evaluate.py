"""Judges a model as the paper does: python -m reta_jax.evaluate --checkpoint DIR --data DIR

Every clip of the split is rendered from its identity's portrait and its own voice. The other rows
say what the judges make of perfection, of doing nothing, of another's voice, of coming late or
early, and of blur: a figure is worth what it makes of them. The judges are networks that no model
is trained against; one that was is named in bold. Figures come with intervals of 95 %, by people
drawn anew with all their clips, and with the protocol that they hold for (configs/protocols).

Videos of any other system: python -m reta_jax.evaluate --videos GENERATED --reference REAL
Again what a report says:   python -m reta_jax.evaluate --protocol OUT/protocol.yaml

With --out DIR: report.json, report.md, protocol.yaml, and every judged clip, so that what was
judged once is not judged again.
"""

import argparse
import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from data_pipeline.audio import SAMPLES_PER_FRAME
from data_pipeline.datasets.raw import video_files
from data_pipeline.errors import InputError
from data_pipeline.face import MODEL_VARIABLE, FaceLandmarker, landmarker_model
from data_pipeline.loader import EvaluationClip
from data_pipeline.records import list_clips
from reta_jax.commands import check_device, sentences_for_errors, set_up_xla
from reta_jax.files import file_digest, make_folder, write_json, write_whole
from reta_jax.metrics.cache import (
    VERSION,
    ClipCache,
    Judged,
    clip_digests,
    device,
    digest,
    other_voice,
    weights_digest,
)
from reta_jax.metrics.clips import Known, emotion_name, judge_generated, judge_known, remarks
from reta_jax.metrics.judges import (
    JUDGES,
    Judges,
    is_filmed,
    load_judges,
    objections,
    without_own,
)
from reta_jax.metrics.pairs import Label, Pair, find_pairs, read_labels
from reta_jax.metrics.protocol import (
    Protocol,
    changed_versions,
    check_same,
    judges_digests,
    load_suite,
    protocol_of,
    read_protocol,
    versions,
    write_protocol,
)
from reta_jax.metrics.rendering import cut, render_clip, through_codec, waiting_clips
from reta_jax.metrics.statistics import grouped
from reta_jax.metrics.summary import peak_memory, speed, summarise
from reta_jax.metrics.tables import evaluation_sections, markdown_report, title_of_report
from reta_jax.metrics.videos import (
    NO_LANDMARKS,
    Reference,
    judge_pair,
    judge_reference,
    read_pairs,
)
from reta_jax.pretrained.licences import print_licences
from reta_jax.pretrained.reta import load_reta
from reta_jax.renderer import Renderer
from reta_jax.report import markdown_page
from reta_jax.weights import SYNTHETIC_WEIGHTS, config_to_dict

CLIPS, REPORT, REPORT_TEXT, PROTOCOL = "clips", "report.json", "report.md", "protocol.yaml"


def evaluate(
    renderer: Renderer,
    judges: Judges,
    data: Path,
    protocol: Protocol | None = None,
    cache: Path | None = None,
    config: dict[str, Any] | None = None,
    expected: dict[str, str] | None = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Judges a model on the clips of a split, beside the rows of reta_jax.metrics.rows.

    Args:
      data: folder of prepared records.
      protocol: default `Protocol()`, which is configs/protocols/full.yaml.
      cache: folder for judged clips; those that are there are not judged again, and their rows
        but the generated one are not judged again for another model either.
      config: of the model's training, to tell judges that it was trained against.
      expected: SHA-256 by what it is of, as in a report; InputError if one differs.

    Returns:
      {"clips": n, "identities": n, "device", "rows": {row: {figure: mean over clips}},
       "counts": {row: {figure: clips that have it, where some lack it}},
       "intervals": {row: {figure: [low, high]}}, of the generated clips "by_emotion" and
       "by_identity": {which: {figure: mean}}, "speed", "judges", "objections", "notes",
       "protocol", "protocol_sha256", "sha256": {what: digest}}
    """
    protocol = protocol or Protocol()
    protocol = dataclasses.replace(protocol, size=protocol.size or renderer.size)
    keys = clip_digests(data, protocol.split, protocol.clips)
    model = model_digest(renderer)
    sha256 = {"model": model, "data": digest(*keys), **judges_digests(judges.sha256)}
    check_same(expected or {}, sha256)
    seen = ClipCache(cache)
    of_any = _about_clips(protocol, judges)
    # Times are kept beside the figures, and are of a device.
    about = digest(of_any, model, device())
    known = [seen.get(digest(about, key), Judged) for key in keys]
    with _progress(len(keys), show_progress) as advance:
        if not all(known):
            renderer.render(np.zeros((renderer.size,) * 2 + (3,), np.uint8), _A_CHUNK)  # compiles
            for i, clip, voice in waiting_clips(data, protocol, known):
                clip = cut(clip, protocol)
                others = seen.get(digest(of_any, keys[i]), Known)
                if others is None:
                    others = judge_known(judges, protocol, clip, voice)
                    seen.put(digest(of_any, keys[i]), others)
                known[i] = _judge(renderer, judges, protocol, clip, others)
                seen.put(digest(about, keys[i]), known[i])
                advance(i)
    generated = [one.rows["generated"] for one in known]
    shown = {one.identity for one in known}
    return summarise(judges, protocol, known) | {
        "identities": len(shown),
        "by_emotion": grouped(generated, [one.emotion for one in known]),
        "by_identity": grouped(generated, [one.identity for one in known]),
        "speed": speed(known),
        "device": device(),
        "objections": objections(judges, config, shown) if config else [],
        "sha256": sha256,
    }


def _about_clips(protocol: Protocol, judges: Judges) -> str:
    """Digest of all that figures of known videos depend on, but for the videos."""
    return digest(VERSION, json.dumps(versions()), protocol.clip_sha256, json.dumps(judges.sha256))


_A_CHUNK = np.zeros(SAMPLES_PER_FRAME, np.float32)


def model_digest(renderer: Renderer) -> str:
    """SHA-256 of all that decides what a model renders."""
    face = {"mean": renderer.morphable.mean, "expression": renderer.morphable.expression}
    return digest(
        weights_digest(renderer.params, face),
        repr(renderer.reta),
        renderer.size,
        renderer.silence is None,
    )


def _judge(
    renderer: Renderer,
    judges: Judges,
    protocol: Protocol,
    clip: EvaluationClip,
    others: Known,
) -> Judged:
    """The clip as the model renders it, beside its other rows."""
    made = render_clip(renderer, clip)
    frames = through_codec(made.frames, clip.audio) if protocol.codec == "h264" else made.frames
    found = judge_generated(judges, protocol, clip, frames, others, made.p_exp)
    return Judged(
        clip=clip.clip,
        identity=clip.identity,
        emotion=emotion_name(clip.emotion),
        rows=found.rows,
        features=found.features,
        person=found.person.mean(0),
        frames=len(made.frames),
        seconds=made.seconds,
        latency=made.latency,
        remarks=remarks(judges, protocol, clip),
        memory=peak_memory(),
    )


def evaluate_videos(
    generated: Path,
    reference: Path,
    landmarker: FaceLandmarker | None,
    judges: Judges = Judges(),
    protocol: Protocol | None = None,
    cache: Path | None = None,
    landmarker_sha256: str = "",
    expected: dict[str, str] | None = None,
    show_progress: bool = False,
    names: Collection[str] | None = None,
    labels: Mapping[str, Label] | None = None,
) -> dict[str, Any]:
    """Judges videos of any system against the real ones of the same names.

    Args:
      landmarker: None: what needs landmarks is not judged.
      judges: those of sync, emotion, identity and FID are asked, if they are there.
      cache: folder for judged pairs, as of `evaluate`; the rows of a real video are not judged
        again for another system's video of as many frames.
      landmarker_sha256: of the landmarker's model, without which judged clips would be taken for
        those of another one.
      names: of the pairs to judge, whatever else is in the folders; None: all.
      labels: of `find_pairs`.

    Returns:
      as `evaluate`, with the videos' names for "by_clip"; "by_identity" has those of whom it is
      known, and "identities" is there if that is of all. The still portrait is the first frame.

    Raises:
      InputError: of `find_pairs`; a judge of emotion is there, and no video's emotion is known; the
        protocol asks for a size, where videos are judged at that of the real ones.
    """
    protocol = protocol or Protocol()
    if protocol.size:
        raise InputError(
            f"protocol: size {protocol.size} is of models; videos are compared at the real ones' "
            "size: leave it out"
        )
    # What a protocol says of how a model's videos are made holds for none that are given.
    protocol = dataclasses.replace(protocol, split="", source="own", codec="none")
    pairs = find_pairs(generated, reference, labels)
    lone = len(set(video_files(reference)) - {pair.real for pair in pairs})
    is_felt = judges.emotion is not None and "emotion" in protocol.figures
    if is_felt and not any(emotion_name(pair.emotion) for pair in pairs):
        raise InputError(
            f"--emotion: no path below {reference} states an emotion as MEAD's do "
            "(happy/level_3/001.mp4); give --labels, a CSV file with columns id and emotion"
        )
    pairs = [pair for pair in pairs if names is None or pair.name in names][: protocol.clips]
    tasks = _pair_tasks(pairs)
    sha256 = {
        "videos": digest(*(task.generated for task in tasks)),
        "reference": digest(*(task.real for task in tasks)),
        **judges_digests(judges.sha256),
    }
    if any(emotion_name(pair.emotion) for pair in pairs):
        sha256["labels"] = digest(*(pair.emotion for pair in pairs))
    if landmarker_sha256:
        sha256["face_landmarker"] = landmarker_sha256
    check_same(expected or {}, sha256)
    eyes = "none" if landmarker is None else landmarker_sha256
    about = digest(_about_clips(protocol, judges), eyes)
    with _progress(len(pairs), show_progress) as advance:
        known = _judge_pairs(judges, protocol, tasks, landmarker, about, ClipCache(cache), advance)
    report = summarise(judges, protocol, known)
    if lone and names is None:
        report["notes"].append(f"{lone} videos of {reference} have no generated one: not judged")
    if landmarker is None:
        report["notes"].append(NO_LANDMARKS.format(", emotions" if is_felt else ""))
    rows, people = [one.rows["generated"] for one in known], [one.identity for one in known]
    if all(people):
        report["identities"] = len(set(people))
    return report | {
        "by_emotion": grouped(rows, [one.emotion for one in known]),
        "by_identity": grouped(rows, people),
        "by_clip": dict(zip([one.clip for one in known], rows, strict=True)),
        "objections": [],
        "sha256": sha256,
    }


class PairTask(NamedTuple):
    """A pair to judge, with the digests of what is looked at."""

    pair: Pair
    lender: Path | None  # the video whose voice it borrows; a lone one borrows none
    generated: str  # SHA-256 of the videos
    real: str
    borrowed: str  # empty without a lender

    @property
    def beside(self) -> tuple[Any, ...]:
        """What the rows that are not of the generated video depend on."""
        return self.real, self.borrowed, self.pair.emotion


def _pair_tasks(pairs: Sequence[Pair]) -> list[PairTask]:
    people, real = [pair.identity for pair in pairs], [file_digest(pair.real) for pair in pairs]
    tasks = []
    for i, pair in enumerate(pairs):
        lender, borrowed = None, ""
        if len(pairs) > 1:
            other = other_voice(i, people)
            lender, borrowed = pairs[other].real, real[other]
        tasks.append(PairTask(pair, lender, file_digest(pair.generated), real[i], borrowed))
    return tasks


def _judge_pairs(
    judges: Judges,
    protocol: Protocol,
    tasks: Sequence[PairTask],
    landmarker: FaceLandmarker | None,
    about: str,
    seen: ClipCache,
    advance: Callable[[int], None],
) -> list[Judged]:
    """What is found of every pair; those that the cache knows are not judged again.

    Args:
      about: digest of all that figures depend on, but for the videos.
    """
    keys = [digest(about, task.generated, *task.beside) for task in tasks]
    known = [seen.get(key, Judged) for key in keys]
    waiting = [i for i, one in enumerate(known) if one is None]
    read = read_pairs([tasks[i].pair for i in waiting], protocol.frames)
    for i in waiting:
        pair, decoded = next(read)
        key = digest(about, *tasks[i].beside, len(decoded.real.frames))
        beside = seen.get(key, Reference)
        if beside is None:
            beside = judge_reference(
                judges, protocol, decoded.real, tasks[i].lender, landmarker, pair.emotion
            )
            seen.put(key, beside)
        known[i] = judge_pair(judges, protocol, pair, decoded, beside, landmarker)
        seen.put(keys[i], known[i])
        del decoded  # before the next one comes: memory may be for one alone
        advance(i)
    # The cache knows videos by what they show, whatever they were called then.
    return [
        one._replace(clip=task.pair.name, identity=task.pair.identity)
        for one, task in zip(known, tasks, strict=True)
    ]


@contextlib.contextmanager
def _progress(total: int, is_shown: bool) -> Iterator[Callable[[int], None]]:
    """Gives a function that says that a clip is done."""
    with Progress(console=Console(stderr=True), disable=not is_shown) as progress:
        task = progress.add_task("judging clips", total=total)
        yield lambda i: progress.update(task, completed=i + 1)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.evaluate", description="Judges a model on held-out identities."
    )
    what = parser.add_argument_group("what is judged")
    what.add_argument(
        "--checkpoint", type=Path, help="weights or workdir; default: weights/synthetic/reta"
    )
    what.add_argument("--data", type=Path, help="folder of prepared records to render and judge")
    what.add_argument("--videos", type=Path, help="folder of generated videos to judge as they are")
    what.add_argument("--reference", type=Path, help="folder of the real videos of these names")
    how = parser.add_argument_group("how")
    which = how.add_mutually_exclusive_group()
    which.add_argument("--suite", choices=("paper", "full"), default="full", help="which figures")
    which.add_argument("--protocol", type=Path, help="protocol file, or the one that a report left")
    how.add_argument("--split", help="default: the protocol's")
    how.add_argument("--limit", type=int, help="judge the first N clips only")
    judges = parser.add_argument_group("judges")
    judges.add_argument("--judges", type=Path, help="folder of our own; default: weights/synthetic")
    judges.add_argument("--emotion", type=Path, help="Emotion-FAN weights instead of the folder's")
    judges.add_argument(
        "--labels", type=Path, help="CSV of id, emotion, identity: where videos' paths do not say"
    )
    judges.add_argument("--syncnet", type=Path, help="SyncNet v2; default weights/syncnet_v2")
    judges.add_argument("--inception", type=Path, help="FID's; default weights/fid_inception")
    judges.add_argument("--identity", help="identity_net weights, or MODULE:FUNCTION of your own")
    judges.add_argument("--face-landmarker", type=Path, help="MediaPipe's model: for filmed people")
    parser.add_argument("--out", type=Path, help="folder for report, protocol and judged clips")
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder of judged clips, of another --out too; default: OUT/clips",
    )
    return parser.parse_args(argv)


JUDGE_OPTIONS = ("emotion", "syncnet", "inception", "face_landmarker")
PLACES = (
    *("checkpoint", "data", "videos", "reference", "labels", "judges", "identity"),
    *JUDGE_OPTIONS,
)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with sentences_for_errors():
        check_device()
        report = run(arguments)
    if not arguments.out:
        print(markdown_page(title_of_report(report), evaluation_sections(report)[:1]))
        print(*report["notes"], sep="\n")
        return
    print(markdown_report(report), end="")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command does; writes the report if `--out` says where."""
    protocol, recorded = load_suite(arguments.suite), {}
    if arguments.protocol:
        protocol, recorded = read_protocol(arguments.protocol)
        _check_same_clips(arguments, protocol, recorded)
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit {arguments.limit} leaves nothing to judge: give 1 or more")
    changes = {"split": arguments.split, "clips": arguments.limit}
    protocol = dataclasses.replace(protocol, **{k: v for k, v in changes.items() if v is not None})
    given = {name: getattr(arguments, name) for name in PLACES}
    given = {name: _absolute(value) for name, value in given.items() if value is not None}
    places = recorded.get("places", {}) | given
    _check_used(arguments, "videos" in places)
    out = arguments.out
    if out:
        make_folder(out)
    expected = {k: v for k, v in recorded.get("sha256", {}).items() if _is_checked(k, given)}
    cache = arguments.cache or (out and out / CLIPS)
    report = _judge_places(places, protocol, expected, cache)
    run = {"places": places, "sha256": report["sha256"], "versions": versions()}
    report["notes"] += changed_versions(recorded.get("versions", {}), run["versions"])
    report |= {"judged": _judged(places), "places": places, "versions": run["versions"]}
    if out:
        write_json(out / REPORT, report)
        write_whole(out / REPORT_TEXT, markdown_report(report).encode())
        write_protocol(out / PROTOCOL, protocol_of(report["protocol"]), run)
    return report


def _check_same_clips(
    arguments: argparse.Namespace, protocol: Protocol, recorded: dict[str, Any]
) -> None:
    """Raises InputError where a report is to be made again of other clips than it was made of."""
    asked = {"split": (arguments.split, protocol.split), "limit": (arguments.limit, protocol.clips)}
    changed = [f"--{name}" for name, (new, old) in asked.items() if new not in (None, old)]
    if changed and recorded:
        raise InputError(
            f"{', '.join(changed)}: {arguments.protocol} is of a report on other clips; take `run` "
            "out of the file to judge these by it"
        )


def _absolute(place: str | Path) -> str:
    """A path that holds in every working directory; what is none (a name on a hub) as it is."""
    return str(Path(place).resolve()) if Path(place).exists() else str(place)


def _check_used(arguments: argparse.Namespace, is_of_videos: bool) -> None:
    """Raises InputError for what would change nothing about how videos, or a model, are judged."""
    unused, what = ("checkpoint", "split", "judges"), "with"
    if not is_of_videos:
        unused, what = ("labels", "reference"), "without"
    if given := [f"--{name}" for name in unused if getattr(arguments, name) is not None]:
        raise InputError(f"{', '.join(given)}: of no use {what} --videos; leave them out")


def _is_checked(what: str, given: dict[str, str]) -> bool:
    """Another model or other videos may be judged by a recorded protocol; all else is as it was."""
    replaced = {"model": "checkpoint", "videos": "videos"}
    return replaced.get(what) not in given


NAMED_BY = {"emotion": "emotion", "identity": "identity", "sync": "syncnet"}  # judge: its option
NOT_ASKED = (
    "filmed people are not shown to the repository's {} judges, who know the synthetic world only: "
    "name others (--face-landmarker, --emotion, --identity, --syncnet), or these (--judges)"
)


def _judge_places(
    places: dict[str, str], protocol: Protocol, expected: dict[str, str], cache: Path | None
) -> dict[str, Any]:
    """Judges the model or the videos that the places name."""
    if ("data" in places) == ("videos" in places):
        raise InputError("give --data to judge a model, or --videos to judge videos")
    if "videos" in places and "reference" not in places:
        raise InputError("--videos needs --reference, the folder of the real videos")
    named = {name: Path(places[name]) for name in JUDGE_OPTIONS if name in places}
    common = {"protocol": protocol, "cache": cache, "expected": expected, "show_progress": True}
    folder, identity = Path(places.get("judges", JUDGES)), places.get("identity")
    given = [judge for judge, place in NAMED_BY.items() if place in places]
    if "videos" in places:
        # MediaPipe finds the landmarks, for all figures together.
        landmarker, landmarker_sha256 = _find_landmarker(named.get("face_landmarker"))
        judges = without_own(load_judges(folder, identity=identity, **named), given)
        judges = judges._replace(mouth=None, face=None)
        print_licences(judges.provenance)
        return evaluate_videos(
            Path(places["videos"]),
            Path(places["reference"]),
            landmarker,
            judges=judges,
            landmarker_sha256=landmarker_sha256,
            labels=read_labels(Path(places["labels"])) if "labels" in places else None,
            **common,
        )
    model, data = load_reta(_judged(places)), Path(places["data"])
    judges, notes = load_judges(folder, identity=identity, **named), []
    clips = list_clips(data, protocol.split)[: protocol.clips]
    if "judges" not in places and any(is_filmed(clip["identity"]) for clip in clips):
        at_hand, judges = judges.sha256, without_own(judges, given)
        left = [name for name in at_hand if name not in judges.sha256]
        notes = [NOT_ASKED.format(", ".join(left))] if left else []
    print_licences([*model.provenance, *judges.provenance])
    renderer = Renderer(model.reta, model.params, model.morphable)
    report = evaluate(renderer, judges, data, config=config_to_dict(model.config), **common)
    return report | {"notes": notes + report["notes"]}


def _judged(places: dict[str, str]) -> str:
    """The folder of videos, or the model's; the synthetic world's, if none is named."""
    return places.get("videos") or places.get("checkpoint") or str(SYNTHETIC_WEIGHTS)


def _find_landmarker(named: Path | None) -> tuple[FaceLandmarker | None, str]:
    """MediaPipe's landmarker and its model's SHA-256; (None, "") if none is named or at hand."""
    try:
        model = landmarker_model(named)
    except InputError:
        if named or os.environ.get(MODEL_VARIABLE):
            raise
        return None, ""
    return FaceLandmarker(model), file_digest(model)


if __name__ == "__main__":
    set_up_xla()
    main()
