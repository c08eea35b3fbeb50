"""What disturbed portraits and voices cost (appendix G): python -m reta_jax.robustness --data DIR

Every clip of a split is rendered under each condition, and MediaPipe's landmarks compare the mouth
with the one that was filmed. What the figures are worth is said by the row of another's voice, and
by the share of clips that follow their own voice better than that one.

    python -m reta_jax.robustness --data data/corpus --out robustness [--checkpoint DIR]

A run that was stopped goes on where it was; what another model or other data left is made again.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import librosa
import numpy as np
from jaxtyping import Float, UInt8
from rich.progress import track

from data_pipeline.audio import SAMPLE_RATE, to_float
from data_pipeline.errors import InputError
from data_pipeline.face import FaceLandmarker, landmarker_model
from data_pipeline.files import Lines, read_lines
from data_pipeline.loader import EvaluationClip, evaluation_clips
from data_pipeline.records import list_clips, open_records
from data_pipeline.video import VideoWriter
from reta_jax.commands import check_device, sentences_for_errors, set_up_xla
from reta_jax.evaluate import CLIPS, JUDGES, Judges, evaluate_videos, load_judges, model_digest
from reta_jax.files import file_digest, make_folder, write_json, write_whole
from reta_jax.metrics.cache import VERSION, digest, other_voice
from reta_jax.metrics.pairs import Label
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.rendering import cut
from reta_jax.metrics.statistics import grouped
from reta_jax.metrics.tables import robustness_sections
from reta_jax.renderer import Renderer
from reta_jax.report import markdown_page
from reta_jax.weights import SHIPPED_WEIGHTS

REAL, REPORT, TABLE, MANIFEST = "real", "robustness.json", "robustness.md", "manifest.jsonl"
AS_FILMED, OTHER_VOICE, STILL = "as filmed", "another's voice", "still portrait"
PROTOCOL = Protocol(source="own", frames=125)  # five seconds, from the clip's own first frame
FIGURES = (
    "mouth_correlation",
    "mouth_opening_error",
    "mouth_jitter",
    "faces_seen",
    "psnr",
    "psnr_clip",
    "ssim",
    "sync_c",
    "sync_d",
    "identity_similarity",
)
SNR_DB, DARK, GRAIN, TELEPHONE = 10.0, 0.35, 12.0, 8_000
CLOSER, ASIDE, ROLL = 0.8, 0.1, 10.0  # share of the frame, sides of it, degrees

Portrait = UInt8[np.ndarray, "s s 3"]
Voice = Float[np.ndarray, " n"]
Condition = Callable[[Portrait, Voice], tuple[Portrait, Voice]]


def noisy_voice(portrait: Portrait, voice: Voice) -> tuple[Portrait, Voice]:
    """White noise, 10 dB below the voice."""
    noise = np.random.default_rng(0).standard_normal(len(voice)).astype(np.float32)
    return portrait, voice + noise * np.sqrt(np.mean(voice**2)) * 10 ** (-SNR_DB / 20)


def telephone(portrait: Portrait, voice: Voice) -> tuple[Portrait, Voice]:
    """Nothing above 4 kHz."""
    narrow = librosa.resample(voice, orig_sr=SAMPLE_RATE, target_sr=TELEPHONE)
    wide = librosa.resample(narrow, orig_sr=TELEPHONE, target_sr=SAMPLE_RATE)
    return portrait, librosa.util.fix_length(wide, size=len(voice))


def low_light(portrait: Portrait, voice: Voice) -> tuple[Portrait, Voice]:
    """A third of the grey levels, which is a tenth of the light."""
    return (DARK * portrait).astype(np.uint8), voice


def grainy(portrait: Portrait, voice: Voice) -> tuple[Portrait, Voice]:
    """A sensor's noise of 12 grey levels."""
    noise = GRAIN * np.random.default_rng(0).standard_normal(portrait.shape)
    return np.clip(portrait + noise, 0, 255).astype(np.uint8), voice


def framed(zoom: float = 1.0, shift: float = 0.0, degrees: float = 0.0) -> Condition:
    """Another crop of the face; beyond the frame its border goes on.

    Args:
      shift: to the right and down, in sides of the frame.
      degrees: that the head is rolled, against the clock.
    """

    def disturb(portrait: Portrait, voice: Voice) -> tuple[Portrait, Voice]:
        side = len(portrait)
        matrix = cv2.getRotationMatrix2D(((side - 1) / 2,) * 2, degrees, zoom)
        matrix[:, 2] += shift * side
        kind = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
        return cv2.warpAffine(portrait, matrix, (side, side), **kind), voice

    return disturb


CONDITIONS: dict[str, Condition] = {
    AS_FILMED: lambda portrait, voice: (portrait, voice),
    "voice with noise, 10 dB": noisy_voice,
    "voice by telephone": telephone,
    "low light": low_light,
    "grain": grainy,
    "closer": framed(zoom=1 / CLOSER),
    "farther": framed(zoom=CLOSER),
    "off centre": framed(shift=ASIDE),
    "rolled": framed(degrees=ROLL),
}


class Videos:
    """Videos in a folder, each with a digest of what it was made of: none is made twice.

    A folder may be given for another model, data or split: what differs is made again. Its
    manifest has lines of a name and a digest, of which a name's last one counts.
    """

    def __init__(self, folder: Path):
        make_folder(folder)
        self._folder = folder
        self._digests: dict[str, str] = dict(read_lines(folder / MANIFEST))
        self._manifest = Lines(folder / MANIFEST)

    def add(
        self,
        name: str,
        made_of: str,
        frames: Callable[[], UInt8[np.ndarray, "t s s 3"]],
        voice: Voice,
    ) -> None:
        """Writes FOLDER/name, unless it is there and was made of the same."""
        path = self._folder / name
        if path.exists() and self._digests.get(name) == made_of:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = frames()
        self._note(name, "")  # a run that is stopped here must not leave the last one's word
        with VideoWriter(path, shown.shape[1], voice) as video:
            video.write(shown)
        self._note(name, made_of)

    def _note(self, name: str, made_of: str) -> None:
        self._digests[name] = made_of
        self._manifest.append([name, made_of])


def measure(
    renderer: Renderer,
    data: Path,
    landmarker: FaceLandmarker,
    out: Path,
    split: str = "test",
    landmarker_sha256: str = "",
    judges: Judges = Judges(),
) -> dict[str, Any]:
    """Renders and judges a split of prepared records.

    Args:
      landmarker_sha256: of the landmarker's model: what was judged by another one is judged again.
      judges: of sync and identity, asked if they are there.

    Returns:
      {"rows": {condition: figures}, "counts": {condition: {figure: clips that have it, where some
       lack it}}, "intervals": {condition: {figure: [low, high]}},
       "own_voice_wins": share of the "own_voice_clips", in which a face is seen both times,
       "by_identity": {who: figures as filmed},
       "protocol", "protocol_sha256", "judges", "sha256": {what: digest}}
    """
    whose, videos, model = {}, Videos(out), model_digest(renderer)
    for name, clip, other in _clips(data, split, renderer.size):
        whose[name] = clip.identity
        made_of = digest(clip.frames.tobytes(), clip.audio.tobytes())
        videos.add(f"{REAL}/{name}.mp4", made_of, lambda clip=clip: clip.frames, clip.audio)
        for condition, disturb in {**CONDITIONS, OTHER_VOICE: _with_voice(other)}.items():
            portrait, voice = disturb(clip.portrait, clip.audio)
            given = portrait.tobytes(), voice.tobytes(), clip.audio.tobytes()
            made_of = digest(VERSION, model, *given)
            frames = functools.partial(_render, renderer, clip, portrait, voice)
            videos.add(f"{_folder(condition)}/{name}.mp4", made_of, frames, clip.audio)
    if len(whose) < 2:
        raise InputError(f"{data} has {len(whose)} clips in its split {split}: two are needed")
    reports = {
        condition: evaluate_videos(
            out / _folder(condition),
            out / REAL,
            landmarker,
            judges=judges,
            protocol=PROTOCOL,
            cache=out / CLIPS,
            landmarker_sha256=landmarker_sha256,
            show_progress=True,
            names=whose,  # not those that another set of clips has left
            labels={name: Label(identity=who) for name, who in whose.items()},
        )
        for condition in (*CONDITIONS, OTHER_VOICE)
    }
    own, other = (
        {name: found.get("mouth_correlation") for name, found in reports[which]["by_clip"].items()}
        for which in (AS_FILMED, OTHER_VOICE)
    )
    seen = [name for name in whose if own[name] is not None and other[name] is not None]
    rows = {name: _chosen(report["rows"]["generated"]) for name, report in reports.items()}
    intervals = {
        name: _chosen(report["intervals"]["generated"]) for name, report in reports.items()
    }
    if not seen:
        raise InputError(f"no face is seen in any video that was made of {data}: there is no mouth")
    counts = {
        name: _chosen(report["counts"].get("generated", {})) for name, report in reports.items()
    }
    filmed = reports[AS_FILMED]
    rows[STILL], by_clip = _chosen(filmed["rows"][STILL]), filmed["by_clip"]
    sha256 = {what: filmed["sha256"][what] for what in filmed["sha256"] if what != "videos"}
    return {
        "rows": rows,
        "counts": counts,
        "intervals": intervals,
        "own_voice_wins": float(np.mean([own[name] > other[name] for name in seen])),
        "own_voice_clips": len(seen),
        "by_identity": grouped([_chosen(by_clip[name]) for name in whose], list(whose.values())),
        **{what: filmed[what] for what in ("protocol", "protocol_sha256", "judges")},
        "sha256": sha256 | {"model": model},
    }


def _clips(data: Path, split: str, size: int) -> Iterator[tuple[str, EvaluationClip, Voice]]:
    """Names, clips and the voice of another."""
    records, people = (
        open_records(data, split),
        [row["identity"] for row in list_clips(data, split)],
    )
    clips = evaluation_clips(data, split, size)
    for i, clip in enumerate(track(clips, "rendering", total=len(records))):
        clip = cut(clip, PROTOCOL)
        other = to_float(records[other_voice(i, people)]["audio"])
        yield f"{i:03d}_{clip.identity}", clip, np.resize(other, len(clip.audio))


def _with_voice(other: Voice) -> Condition:
    return lambda portrait, voice: (portrait, other)


def _render(
    renderer: Renderer, clip: EvaluationClip, portrait: Portrait, voice: Voice
) -> UInt8[np.ndarray, "t s s 3"]:
    return renderer.render(portrait, voice.astype(np.float32))[: len(clip.frames)]


def _folder(condition: str) -> str:
    return condition.replace(",", "").replace("'", "").replace(" ", "_")


def _chosen(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in FIGURES if name in figures}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.robustness", description="What disturbed inputs cost."
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=SHIPPED_WEIGHTS,
        help="weights or workdir; default: weights/corpus/reta",
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared records")
    parser.add_argument("--split", default="test")
    parser.add_argument("--face-landmarker", type=Path, help="MediaPipe's face_landmarker.task")
    parser.add_argument("--syncnet", type=Path, help="SyncNet v2, for Sync_c (Table 8)")
    parser.add_argument("--identity", help="identity_net weights, or MODULE:FUNCTION of your own")
    parser.add_argument("--out", type=Path, default=Path("robustness"))
    return parser.parse_args(argv)


def _judges(syncnet: Path | None, identity: str | None) -> Judges:
    """Those that are named: the repository's know rendered people only."""
    found = load_judges(JUDGES, identity=identity, syncnet=syncnet)
    return Judges(
        sync=found.sync if syncnet else None, identity=found.identity if identity else None
    )


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with sentences_for_errors():
        check_device()
        report = measure(
            Renderer.from_pretrained(arguments.checkpoint),
            arguments.data,
            FaceLandmarker(arguments.face_landmarker),
            arguments.out,
            arguments.split,
            file_digest(landmarker_model(arguments.face_landmarker)),
            _judges(arguments.syncnet, arguments.identity),
        )
        write_json(arguments.out / REPORT, report)
        text = markdown_page("Disturbed portraits and voices", robustness_sections(report))
        write_whole(arguments.out / TABLE, text.encode())
    print(text, end="")


if __name__ == "__main__":
    set_up_xla()
    main()
