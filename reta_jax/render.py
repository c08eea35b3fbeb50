"""Makes a portrait speak: python -m reta_jax.render --image p.png --audio v.wav --out out.mp4

In scripts:

    renderer = Renderer.from_pretrained("weights/corpus/reta")
    frames = renderer.render(portrait, waveform)  # uint8 (t, size, size, 3)

The portrait is encoded once. The voice is cut into windows of fixed length (past, chunk,
look-ahead), each of which gives its chunk's frames: one shape is compiled whatever the length, and
memory does not grow with it. Where nobody speaks, the mouth fades to what it is in silence.
"""

import argparse
import copy
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.export import default_export_platform
from jaxtyping import Array, Float, UInt8
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipeline.audio import SAMPLES_PER_FRAME, is_silent, load_audio
from data_pipeline.errors import InputError
from data_pipeline.face import FaceLandmarker, portrait_crop
from data_pipeline.video import VideoWriter, read_image
from reta_jax.commands import check_device, sentences_for_errors, set_up_xla
from reta_jax.export import ExportedRenderer, is_exported
from reta_jax.files import check_place, make_folder
from reta_jax.images import to_float, to_uint8
from reta_jax.models.generator import GeneratorOutput
from reta_jax.models.morphable import MorphableModel
from reta_jax.models.prepare import prepare_control_network, prepare_generator
from reta_jax.models.reta import RETA, Controls, Identity
from reta_jax.ops.voice_activity import QUIET, voice_activity
from reta_jax.pretrained.licences import print_licences
from reta_jax.pretrained.reta import load_reta
from reta_jax.windows import ChunkRenderer

Dtype = Literal["float32", "bfloat16"]
_WEIGHTS = Path(__file__).parents[1] / "weights"
SHIPPED_WEIGHTS = _WEIGHTS / "corpus" / "reta"  # of filmed people
SYNTHETIC_WEIGHTS = _WEIGHTS / "synthetic" / "reta"
ROOM = 1e-3  # standard deviation of a quiet room's noise


@functools.partial(jax.jit, static_argnames="reta")
def encode_portrait(reta: RETA, params: Any, portrait: UInt8[Array, "b h w 3"]) -> Identity:
    """f_STY and f_TEX of portraits."""
    return reta.apply({"params": params}, to_float(portrait), method=RETA.encode_portrait)


@functools.partial(jax.jit, static_argnames="reta")
def controls_in_silence(reta: RETA, params: Any, morphable: MorphableModel) -> Controls:
    """What the model does while nobody speaks: one row, (1, 1, d).

    That is the mean over a chunk of a quiet room's noise: the sound of no recording is zero, and
    what networks make of that is no rest (docs/decisions.md). One that brings its window to one
    loudness, as wav2vec 2.0 does, hears that noise as loud as a voice: so it does every room where
    nobody speaks for a whole window.
    """
    room = ROOM * jax.random.normal(jax.random.key(0), (1, reta.window.samples))
    controls = window_controls(reta, params, morphable, room)
    return jax.tree.map(lambda x: x.mean(1, keepdims=True), controls)


def scale_expression(params: dict[str, Any], rest: Controls, scale: float) -> dict[str, Any]:
    """Parameters whose f_M and f_E go `scale` times as far from those in silence.

    Their last layers are linear: f' = rest + scale (f - rest). p_exp and its mesh stay as they are.

    Args:
      rest: of `controls_in_silence`.
    """
    controls = {"motion_decoder": rest.motion} if "motion_encoder" not in params else {}
    controls |= {"motion_encoder": rest.motion, "emotion_student": rest.emotion}
    scaled = {}
    for network in controls.keys() & params.keys():
        head, still = params[network]["head"], controls[network][0, 0]
        bias = still + scale * (head["bias"] - still)
        scaled[network] = params[network] | {
            "head": {"kernel": scale * head["kernel"], "bias": bias}
        }
        if "linear" in params[network]:
            kernel = params[network]["linear"]["kernel"]
            scaled[network]["linear"] = {"kernel": scale * kernel}
    return params | scaled


def forward_chunk(
    reta: RETA,
    params: Any,
    morphable: MorphableModel,
    identity: Identity,
    audio: Float[Array, "b n"],
    silence: Controls | None = None,
) -> tuple[GeneratorOutput, Controls]:
    """The chunk of each audio window: frames with flow and masks, and `window_controls`."""
    controls = window_controls(reta, params, morphable, audio, silence)
    output = reta.apply({"params": params}, identity, controls, method=RETA.generate)
    return output, controls


def window_controls(
    reta: RETA,
    params: Any,
    morphable: MorphableModel,
    audio: Float[Array, "b n"],
    silence: Controls | None = None,
) -> Controls:
    """What the voice says in the chunk of each audio window.

    With the controls in `silence`, lips fade to theirs where nobody speaks: f_M, and f_E where it
    is made frame by frame and so moves lips, too.
    """
    past, chunk, _ = reta.window
    controls = reta.apply(
        {"params": params}, audio, None, chunk, morphable, method=RETA.encode_voice
    )
    if silence is None:
        return controls
    spoken = voice_activity(audio)[:, past : past + chunk]
    return _fade(controls, silence, spoken, fades_emotion=reta.emotion_span == 1)


def _fade(
    controls: Controls, silence: Controls, spoken: Float[Array, "b t"], fades_emotion: bool
) -> Controls:
    faded = Controls(
        *(
            None if moving is None else still + spoken[..., None] * (moving - still)
            for moving, still in zip(controls, silence, strict=True)
        )
    )
    return faded if fades_emotion else faded._replace(emotion=controls.emotion)


@functools.partial(jax.jit, static_argnames="reta")
def render_chunk(
    reta: RETA,
    params: Any,
    morphable: MorphableModel,
    identity: Identity,
    audio: Float[Array, "b n"],
    silence: Controls | None = None,
) -> UInt8[Array, "b t h w 3"]:
    """The chunk's frames of each audio window; see `forward_chunk`."""
    output, _ = forward_chunk(reta, params, morphable, identity, audio, silence)
    return to_uint8(output.frames)


class Renderer(ChunkRenderer):
    """A trained model, ready to render.

    Args:
      params: as trained; the attribute `prepared` has them as they render fastest.
      close_in_silence: the mouth fades to its rest where nobody speaks.
      provenance: records of the weights behind it.
    """

    def __init__(
        self,
        reta: RETA,
        params: Any,
        morphable: MorphableModel,
        close_in_silence: bool = True,
        provenance: Sequence[dict[str, Any]] = (),
    ):
        self.reta, self.params, self.morphable = reta, params, morphable
        self.provenance = provenance
        self.size, self.window = reta.image_encoder.size, reta.window
        self.prepared = self.prepare(default_export_platform())
        self.silence = controls_in_silence(reta, params, morphable) if close_in_silence else None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        close_in_silence: bool = True,
        dtype: Dtype | None = None,
        expression_scale: float = 1.0,
    ) -> "Renderer":
        """Loads a folder of weights, a training run's latest checkpoint, or a hub repository.

        Args:
          dtype: of the networks' arithmetic, in place of the one they were trained with; E_I, flow,
            normalisation and colours are float32 in any case.
          expression_scale: how far mouth and expression go from their rest, 1 as trained.

        Raises:
          InputError: nothing there, it does not fit its config, or the scale is negative.
        """
        if not 0 <= expression_scale < float("inf"):
            raise InputError(f"an expression scale of {expression_scale:g}: give 0 or more")
        model = load_reta(path, dtype)
        params = model.params
        if expression_scale != 1:
            rest = controls_in_silence(model.reta, params, model.morphable)
            params = scale_expression(params, rest, expression_scale)
        return cls(model.reta, params, model.morphable, close_in_silence, model.provenance)

    @property
    def closes_in_silence(self) -> bool:
        return self.silence is not None

    def prepare(self, platform: str | None) -> Any:
        """The parameters as they render fastest on "cpu", "cuda", "tpu"; None: on any of them."""
        params, reta = self.params, self.reta
        networks = {
            "audio_encoder": reta.audio_encoder.network,
            "motion_decoder": reta.motion_decoder,
            "motion_encoder": reta.motion_encoder,
            "emotion_student": reta.emotion_student,
        }
        generator = prepare_generator(reta.generator, params["generator"], platform)
        prepared = params | {"generator": generator}
        for name, network in networks.items():
            if network is not None:
                prepared[name] = prepare_control_network(params[name], network.dtype)
        return prepared

    def with_chunk(self, chunk: int) -> "Renderer":
        """The same model with fewer frames a window: less delay live, more work for the voice.

        The window keeps its length, and the mouth its rest. The frames that are left of the chunk
        are its last ones, which in training, too, had the look-ahead alone before them.

        Raises:
          InputError: no frame, or more than the model was trained with.
        """
        window = self.window
        if not 1 <= chunk <= window.chunk:
            raise InputError(f"a chunk of {chunk} frames: this model renders 1 to {window.chunk}")
        window = window._replace(past=window.past + window.chunk - chunk, chunk=chunk)
        shorter = copy.copy(self)
        shorter.reta, shorter.window = self.reta.clone(window=window), window
        return shorter

    def encode(self, portraits: UInt8[np.ndarray, "b h w 3"]) -> Identity:
        return encode_portrait(self.reta, self.prepared, portraits)

    def render_windows(
        self, identities: Identity, audio: Float[np.ndarray, "b n"]
    ) -> UInt8[Array, "b t h w 3"]:
        return render_chunk(
            self.reta, self.prepared, self.morphable, identities, audio, self.silence
        )


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
