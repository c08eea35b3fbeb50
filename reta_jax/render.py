"""Makes a portrait speak: python -m reta_jax.render --image p.png --audio v.wav --out out.mp4

In scripts:

    renderer = load_renderer(Path("weights/corpus/reta"))
    render_file(renderer, Path("p.png"), Path("v.wav"), Path("out.mp4"))

The frames are made in `reta_jax.renderer`.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipeline.audio import SAMPLES_PER_FRAME, is_silent, load_audio
from data_pipeline.errors import InputError
from data_pipeline.face import FaceLandmarker, portrait_crop
from data_pipeline.video import VideoWriter, read_image
from reta_jax.commands import check_device, sentences_for_errors, set_up_xla
from reta_jax.exported import ExportedRenderer, is_exported
from reta_jax.files import check_place, make_folder
from reta_jax.ops.voice_activity import QUIET
from reta_jax.pretrained.licences import print_licences
from reta_jax.renderer import Dtype, Renderer
from reta_jax.weights import SHIPPED_WEIGHTS
from reta_jax.windows import ChunkRenderer


def load_renderer(
    path: Path,
    close_in_silence: bool = True,
    dtype: Dtype | None = None,
    expression_scale: float = 1.0,
) -> ChunkRenderer:
    """The model of a folder of weights, of a workdir, or of `reta_jax.export`.

    Raises:
      InputError: nothing there, it does not fit, or something is asked of an exported model that
        was settled when it was exported.
    """
    if not is_exported(path):
        return Renderer.from_pretrained(path, close_in_silence, dtype, expression_scale)
    settled = {
        "--no-close-in-silence": not close_in_silence,
        f"--dtype {dtype}": bool(dtype),
        f"--expression-scale {expression_scale:g}": expression_scale != 1,
    }
    for option, is_asked in settled.items():
        if is_asked:
            raise InputError(
                f"{path} is exported: give {option} to python -m reta_jax.export instead"
            )
    return ExportedRenderer.load(path)


def render_file(
    renderer: ChunkRenderer,
    image: Path,
    audio: Path,
    out: Path,
    crop: str = "auto",
    face_landmarker: Path | None = None,
) -> int:
    """Renders a portrait file and a voice file to an mp4; returns the number of frames."""
    check_place(out, image, audio)
    if out.suffix.lower() != ".mp4":
        raise InputError(f"cannot write {out}: it is to hold an MP4; give a name in .mp4")
    waveform = load_audio(audio)
    if is_silent(waveform):
        raise InputError(f"{audio} is silent: give a recording with a voice in it")
    if renderer.closes_in_silence and is_silent(waveform, QUIET):
        raise InputError(
            f"{audio} is quieter than {QUIET:g} dB, where the mouth stays at rest: give a louder "
            "copy, or --no-close-in-silence"
        )
    detector = None if face_landmarker is None else FaceLandmarker(face_landmarker)
    portrait, note = portrait_crop(read_image(image), renderer.size, crop, detector)
    if note:
        print(f"{image}: {note}", file=sys.stderr)
    frames = -(-len(waveform) // SAMPLES_PER_FRAME)
    with VideoWriter(out, renderer.size, waveform) as video, _progress_bar() as progress:
        task = progress.add_task("rendering", total=frames)
        for chunk in renderer.stream(portrait, waveform):
            video.write(chunk)
            progress.advance(task, len(chunk))
    return frames


def _progress_bar() -> Progress:
    columns = "{task.description}", BarColumn(), "{task.completed}/{task.total} frames"
    return Progress(
        *(TextColumn(c) if isinstance(c, str) else c for c in columns),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.render", description="Makes a portrait speak."
    )
    parser.add_argument("--image", "--source_image", type=Path, required=True, help="portrait")
    parser.add_argument("--audio", "--driven_audio", type=Path, required=True, help="voice")
    parser.add_argument(
        "--checkpoint", type=Path, default=SHIPPED_WEIGHTS, help="weights folder, workdir or export"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--out", type=Path, help="MP4 to write; default <image>_<audio>.mp4")
    output.add_argument(
        "--result_dir", type=Path, help="folder for <image>_<audio>.mp4, made if need be"
    )
    parser.add_argument(
        "--crop",
        choices=("auto", "none"),
        default="auto",
        help="auto finds the face and crops to it; none takes the image's middle square, resized",
    )
    parser.add_argument("--face-landmarker", type=Path, help="MediaPipe's face_landmarker.task")
    add_choices(parser)
    arguments = parser.parse_args(argv)
    if arguments.out is None:
        name = f"{arguments.image.stem}_{arguments.audio.stem}.mp4"
        arguments.out = (arguments.result_dir or Path()) / name
    return arguments


def add_choices(parser: argparse.ArgumentParser) -> None:
    """What an exported model has settled: see `Renderer.from_pretrained`."""
    add_dtype(parser)
    parser.add_argument(
        "--close-in-silence",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let the mouth fade to its rest where nobody speaks",
    )
    parser.add_argument(
        "--expression-scale",
        "--expression_scale",
        type=float,
        default=1.0,
        help="how far mouth and expression go from their rest; 1 as trained",
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=get_args(Dtype),
        help="the networks' arithmetic; bfloat16 is faster where the machine multiplies in it",
    )


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with sentences_for_errors():
        check_device()
        renderer = load_renderer(
            arguments.checkpoint,
            arguments.close_in_silence,
            arguments.dtype,
            arguments.expression_scale,
        )
        print_licences(renderer.provenance)
        if arguments.result_dir:
            make_folder(arguments.result_dir)
        frames = render_file(
            renderer,
            arguments.image,
            arguments.audio,
            arguments.out,
            arguments.crop,
            arguments.face_landmarker,
        )
    print(f"{arguments.out}: {frames} frames, {frames / 25:.2f} s")


if __name__ == "__main__":
    set_up_xla()
    main()
