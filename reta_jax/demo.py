"""make demo: makes a data set, trains on it, judges the model, and lets a portrait talk.

    python -m reta_jax.demo [--workdir demo] [--minutes 4] [--from-scratch]

The world is synthetic, the model is the small one of configs/synthetic.py. Training goes on from
weights trained in six stages (weights/synthetic/reta; docs/decisions.md) unless `--from-scratch` is
given. An interrupted demo goes on where it was.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from data_pipeline.face import LOWER_LIP, UPPER_LIP
from data_pipeline.loader import EvaluationClip, evaluation_clips
from data_pipeline.prepare import prepare_synthetic
from data_pipeline.video import VideoWriter
from reta_jax.commands import check_device, sentences_for_errors, set_up_xla
from reta_jax.evaluate import REPORT, REPORT_TEXT, evaluate
from reta_jax.files import write_json, write_whole
from reta_jax.metrics.judges import JUDGES, load_judges
from reta_jax.metrics.tables import markdown_report
from reta_jax.models.morphable import mesh
from reta_jax.pictures import COLUMNS, contact_sheet, model_row
from reta_jax.pretrained.licences import print_licences
from reta_jax.render import load_renderer, render_file
from reta_jax.renderer import Renderer, encode_portrait, forward_chunk
from reta_jax.stopping import EXIT_INTERRUPTED
from reta_jax.train import run
from reta_jax.weights import SHIPPED_WEIGHTS, SYNTHETIC_WEIGHTS, config_to_dict
from reta_jax.windows import audio_windows

IDENTITIES, CLIPS_PER_IDENTITY, SECONDS = 48, 4, 2.0
SEED = 1  # the shipped weights were trained on the people of seed 0: nobody here is among them
DOCS = Path(__file__).parents[1] / "docs"
PHOTOGRAPH, VOICE = DOCS / "grace_hopper.png", DOCS / "voice.flac"  # the US Navy's, a machine's
FILMED = "photograph.mp4"
MOMENTS = 6  # of the clip, on the contact sheet


def demo(workdir: Path, minutes: float, from_scratch: bool, is_smoke: bool = False) -> bool:
    """Runs the demo's stages; returns False when it was stopped and saved half-way."""
    started = time.monotonic()
    config = _config(workdir, minutes, from_scratch, is_smoke)
    data = Path(config.data.dirs[0])
    say(f"1/5 synthetic clips in {data}")
    prepare_synthetic(
        data,
        seed=SEED,
        identities=config.data.synthetic_identities,
        clips_per_identity=config.data.synthetic_clips_per_identity,
        seconds=config.data.synthetic_seconds,
        size=config.model.size,
    )
    say(f"2/5 training ({describe_start(config.init_from)})")
    if not run(config, workdir / "run"):
        return False
    renderer = Renderer.from_pretrained(workdir / "run" / "weights")
    say("3/5 a portrait talks")
    clip = pick_clip(data, renderer.size)
    generated = renderer.render(clip.portrait, clip.audio)
    with VideoWriter(workdir / "demo.mp4", renderer.size, clip.audio) as video:
        video.write(generated)
    Image.fromarray(sheet(renderer, clip, generated)).save(workdir / "contact_sheet.png")
    say("4/5 judging on identities that were not trained on")
    report = write_report(workdir, renderer, data, config, time.monotonic() - started)
    print(report)
    say("5/5 the weights of filmed people let a photograph talk")
    renderer = load_renderer(SHIPPED_WEIGHTS)
    print_licences(renderer.provenance)
    render_file(renderer, PHOTOGRAPH, VOICE, workdir / FILMED, crop="none")
    for name in ("demo.mp4", "contact_sheet.png", "report.md", "report.json", FILMED):
        print(f"{workdir / name}")
    return True


def _config(workdir: Path, minutes: float, from_scratch: bool, is_smoke: bool) -> ConfigDict:
    from configs.synthetic import get_config

    config = get_config()
    config.data.dirs = (str(workdir / "data"),)
    config.data.synthetic_identities = IDENTITIES
    config.data.synthetic_clips_per_identity = CLIPS_PER_IDENTITY
    config.data.synthetic_seconds = SECONDS
    config.train.max_minutes = minutes
    config.train.save_every = 200
    if not from_scratch:
        config.init_from = str(SYNTHETIC_WEIGHTS)
        config.train.learning_rate /= 40  # they are trained: large steps would undo, not add
    if is_smoke:
        config.data.synthetic_identities, config.data.synthetic_clips_per_identity = 4, 1
        config.train.steps, config.train.warmup_steps = 2, 1
    return config


def describe_start(init_from: str) -> str:
    return f"going on from {init_from}" if init_from else "from scratch"


def pick_clip(data: Path, size: int) -> EvaluationClip:
    """A held-out clip whose mouth moves much: the demo should show speech."""
    clips = list(evaluation_clips(data, "test", size))
    heights = lambda clip, point: clip.landmarks[:, point, 1]
    return max(clips, key=lambda clip: np.std(heights(clip, LOWER_LIP) - heights(clip, UPPER_LIP)))


def sheet(renderer: Renderer, clip: EvaluationClip, generated: np.ndarray) -> np.ndarray:
    """Contact sheet of moments of the clip, one a row, with what the model did inside."""
    reta, morphable = renderer.reta, renderer.morphable
    identity = encode_portrait(reta, renderer.prepared, clip.portrait[None])
    inside = jax.jit(functools.partial(forward_chunk, reta))
    triangles = np.asarray(morphable.triangles)
    chunks = list(audio_windows(clip.audio, reta.window))
    rows = []
    for moment in np.linspace(0, len(generated) - 1, MOMENTS).round().astype(int):
        chunk, i = divmod(int(moment), reta.window.chunk)
        output, controls = inside(
            renderer.prepared, morphable, identity, chunks[chunk][0][None], renderer.silence
        )
        rows.append(
            model_row(
                clip.portrait,
                clip.frames[moment],
                generated[moment],
                np.asarray(output.flows[-1][0, i]),
                np.asarray(output.masks[-1][0, i]),
                np.asarray(mesh(morphable, controls.p_exp[0, i])),
                triangles,
            )
        )
    return contact_sheet(rows, COLUMNS, renderer.size)


def write_report(
    workdir: Path, renderer: Renderer, data: Path, config: ConfigDict, seconds: float
) -> str:
    """Judges the model and writes report.json and report.md; returns the latter's text."""
    figures = evaluate(renderer, load_judges(JUDGES), data, config=config_to_dict(config))
    figures |= {"started_from": config.init_from or "scratch", "seconds": round(seconds)}
    figures["notes"].append(
        f"training {describe_start(config.init_from)}; {seconds / 60:.1f} minutes so far"
    )
    text = markdown_report(figures)
    write_json(workdir / REPORT, figures)
    write_whole(workdir / REPORT_TEXT, text.encode())
    return text


def say(message: str) -> None:
    print(f"== {message}", flush=True)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.demo", description="From nothing to a talking head."
    )
    parser.add_argument("--workdir", type=Path, default=Path("demo"))
    parser.add_argument("--minutes", type=float, default=4.0, help="of training")
    parser.add_argument("--from-scratch", action="store_true", help="do not start from weights")
    parser.add_argument("--smoke", action="store_true", help="two steps, four people: for tests")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with sentences_for_errors():
        check_device()
        finished = demo(
            arguments.workdir, arguments.minutes, arguments.from_scratch, arguments.smoke
        )
    if not finished:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    set_up_xla()
    main()
