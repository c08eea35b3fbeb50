"""How fast the model renders, stage by stage: python -m reta_jax.benchmark [--paper] [--batch 8]

Each stage is compiled alone and timed alone, and then the whole way from a voice on the host to
uint8 frames on the host. Beside the times stand the work (FLOPs of the products and convolutions of
the program as it is written, and the bytes that it moves), and what this machine reaches in the
same run on matrix products, convolutions and copies: the shares of that are the honest figures,
milliseconds are of this machine only. The report says what is counted (`COUNTED`).
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.sharding import SingleDeviceSharding
from jax.stages import Compiled
from jaxtyping import Array, Float
from rich.table import Table

from data_pipeline.audio import FPS, SAMPLES_PER_FRAME
from data_pipeline.errors import InputError
from data_pipeline.video import VideoWriter
from reta_jax.absent import GPUS, compiler_options, devices_of
from reta_jax.commands import check_device, keep_freed_memory, sentences_for_errors
from reta_jax.config import paper
from reta_jax.files import check_place, write_json
from reta_jax.images import to_uint8
from reta_jax.kernels import print_kernels
from reta_jax.models.morphable import position_map
from reta_jax.models.reta import RETA, Controls, build_reta
from reta_jax.ops.platforms import forms_of
from reta_jax.pretrained.load import load_morphable
from reta_jax.pretrained.reta import expected_params
from reta_jax.program import Program, flatten, memory, work
from reta_jax.render import add_dtype
from reta_jax.renderer import Dtype, Renderer, encode_portrait, render_chunk
from reta_jax.report import figure, wide_console
from reta_jax.waiting import cold_starts, device_megabytes, measure_live
from reta_jax.weights import SHIPPED_WEIGHTS

COUNTED = (
    "Counted in 'on the device': both voice branches, the mesh, the generator and the conversion "
    "to uint8; in 'end to end' besides: the voice's windows to the device, and the frames to the "
    "host, one after the other (of files, the one overlaps the other). Not counted: reading "
    "files, finding the face; the portrait (once a person) and the video's encoding, which have "
    "rows of their own. FLOPs: of products and convolutions alone, zeros around their inputs "
    "included. Bytes: on CPUs as the compiler counts them, elsewhere as modelled "
    "(reta_jax/program.py). Float32 products are TF32 on GPUs, the model's as the ceilings'. "
    "Memory: the program of 'end to end' with weights, inputs and frames, as the compiler plans "
    "it, and what the device held at most."
)
CONVOLUTION, COPY = "conv 3x3", "copy (GB/s)"
ON_DEVICE, END_TO_END = "on the device", "end to end"
COLD_REPEATS = 3
REPEATS = {"cpu": 20}  # else 100, for a 99th percentile
DEVICES = ("cpu", "cuda", "tpu")
ALL = "all"


class Stage(NamedTuple):
    """A function of arrays and what one call of it gives."""

    name: str
    function: Callable
    arguments: tuple[Any, ...]
    frames: int  # of video; 0: once a person
    on_host: bool = False  # a Python function, timed as it is


class Row(NamedTuple):
    """Figures of a stage; None where they are not known."""

    name: str
    frames: int
    gflop: float | None  # of one call, of the program as it is written
    megabytes: float | None  # that one call moves
    milliseconds: tuple[float, float, float]  # of one call: median, 95th and 99th percentile
    compile_seconds: float | None

    @property
    def frames_per_second(self) -> float | None:
        return 1e3 * self.frames / self.milliseconds[0] if self.frames else None

    def of_convolutions(self, teraflops: float) -> float | None:
        """Share of what the machine reaches on convolutions of the model's type."""
        return None if self.gflop is None else self.gflop / self.milliseconds[0] / teraflops

    def of_copies(self, gigabytes: float) -> float | None:
        """Share of the rate at which the machine copies."""
        return None if self.megabytes is None else self.megabytes / self.milliseconds[0] / gigabytes


def benchmark(
    renderer: Renderer, batch: int, repeats: int, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Times the stages of rendering `batch` streams at once.

    Args:
      names: of the stages; none: all.

    Returns:
      {"device", "jax", "size", "batch", "frames_per_call", "memory_megabytes", "counted",
       "device_megabytes": the most that it held, None where it does not say,
       "ceilings": {name: value}, "stages": [Row as a dict, with its rates]}

    Raises:
      InputError: the model has no such stage.
    """
    program = whole_program(renderer, batch)
    found = {stage.name: stage for stage in stages(renderer, batch, program)}
    if unknown := set(names) - found.keys():
        raise InputError(
            f"no stage {', '.join(sorted(unknown))}: this model has {', '.join(found)}"
        )
    rows = [measure(found[name], repeats) for name in names or found]
    held = device_megabytes("peak_bytes_in_use")  # before the ceilings' arrays
    ceilings = measure_ceilings(repeats)
    device, dtype = jax.devices()[0], jnp.dtype(renderer.reta.generator.dtype).name
    convolutions, copies = ceilings[f"{CONVOLUTION} {dtype} (TFLOP/s)"], ceilings[COPY]
    return {
        "device": f"{device.device_kind} ({device.platform})",
        "jax": jax.__version__,
        "size": renderer.size,
        "dtype": dtype,
        "batch": batch,
        "chunk": renderer.window.chunk,
        "repeats": repeats,
        "memory_megabytes": planned_megabytes(program),
        "device_megabytes": held,
        "counted": COUNTED,
        "ceilings": ceilings,
        "stages": [
            row._asdict()
            | {
                "frames_per_second": row.frames_per_second,
                "of_convolutions": row.of_convolutions(convolutions),
                "of_copies": row.of_copies(copies),
            }
            for row in rows
        ],
    }


def inputs(renderer: Renderer, batch: int) -> tuple[Array, np.ndarray]:
    """Portraits on the device and windows of voices on the host: noise."""
    random = np.random.default_rng(0)
    portraits = random.integers(0, 256, (batch, renderer.size, renderer.size, 3), np.uint8)
    voices = 0.1 * random.standard_normal((batch, renderer.window.samples))
    return jnp.asarray(portraits), voices.astype(np.float32)


def whole_program(renderer: Renderer, batch: int) -> Compiled:
    """From parameters, identities and windows of voices to uint8 frames."""
    reta, params = renderer.reta, renderer.prepared
    portraits, voices = inputs(renderer, batch)
    identity = jax.eval_shape(lambda p, x: encode_portrait(reta, p, x), params, portraits)
    return jax.jit(_whole(renderer)).lower(params, identity, voices).compile()


def whole_program_there(renderer: Renderer, batch: int, gpu: str) -> Compiled:
    """`whole_program` for a GPU of `absent.GPUS` that is not here.

    Raises:
      InputError: there is no compiler for it here.
    """
    placed = SingleDeviceSharding(*devices_of(gpu))

    def there(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed)

    reta, params = renderer.reta, renderer.prepare("cuda")
    portraits, voices = inputs(renderer, batch)
    identity = jax.eval_shape(lambda p, x: encode_portrait(reta, p, x), params, portraits)
    arguments = params, renderer.morphable, identity, jnp.asarray(voices), renderer.silence
    render = jax.jit(lambda *arguments: render_chunk(reta, *arguments))
    with forms_of("cudnn"):
        lowered = render.lower(*jax.tree.map(there, arguments))
    return lowered.compile(compiler_options=compiler_options(gpu))


def _whole(renderer: Renderer) -> Callable[[Any, Any, Array], Array]:
    return lambda params, identity, voices: render_chunk(
        renderer.reta, params, renderer.morphable, identity, voices, renderer.silence
    )


def planned_megabytes(program: Compiled) -> float | None:
    """Weights, inputs, frames and what lies between them; None where the compiler does not say."""
    plan = program.memory_analysis()
    if plan is None:
        return None
    parts = plan.argument_size_in_bytes, plan.output_size_in_bytes, plan.temp_size_in_bytes
    return 1e-6 * sum(parts)


def stages(renderer: Renderer, batch: int, program: Compiled) -> list[Stage]:
    """The parts of rendering a chunk for `batch` streams, in the order of Figure 1.

    Args:
      program: of `whole_program`.
    """
    reta, params, morphable = renderer.reta, renderer.prepared, renderer.morphable
    chunk = renderer.window.chunk
    portraits, voices = inputs(renderer, batch)
    on_device = jnp.asarray(voices)

    def part(module: Any, name: str) -> Callable:
        return lambda p, *inputs: module.apply({"params": p[name]}, *inputs)

    def voice(p: Any, audio: Array) -> Controls:
        return reta.apply({"params": p}, audio, None, chunk, morphable, method=RETA.encode_voice)

    def generate(p: Any, identity: Any, controls: Controls) -> Array:
        output = reta.apply({"params": p}, identity, controls, method=RETA.generate)
        return output.frames

    identity = encode_portrait(reta, params, portraits)
    features = jax.jit(part(reta.audio_encoder, "audio_encoder"))(params, on_device)
    controls = jax.jit(voice)(params, on_device)
    images = jax.jit(generate)(params, identity, controls)
    pictures = np.asarray(jax.jit(to_uint8)(images))

    frames = batch * chunk
    found = [
        Stage("portrait", lambda p, x: encode_portrait(reta, p, x), (params, portraits), 0),
        Stage(
            "audio encoder", part(reta.audio_encoder, "audio_encoder"), (params, on_device), frames
        ),
    ]
    if reta.motion_decoder is not None:
        decode = part(reta.motion_decoder, "motion_decoder")
        found.append(Stage("motion decoder", decode, (params, features), frames))
    if controls.p_exp is not None:
        bridge = lambda p: position_map(morphable, p)
        found.append(Stage("3DMM bridge", bridge, (controls.p_exp,), frames))
        encode = part(reta.motion_encoder, "motion_encoder")
        offsets = jax.jit(bridge)(controls.p_exp)
        found.append(Stage("motion encoder", encode, (params, offsets), frames))
    if reta.emotion_student is not None:
        feel = part(reta.emotion_student, "emotion_student")
        found.append(Stage("emotion student", feel, (params, features), frames))

    def end_to_end() -> np.ndarray:
        return np.asarray(program(params, identity, voices))

    return [
        *found,
        Stage("generator", generate, (params, identity, controls), frames),
        Stage("to uint8", to_uint8, (images,), frames),
        Stage("to the host", _to_host(images), (), frames, on_host=True),
        Stage("video encoding", _encode(pictures[0]), (), chunk, on_host=True),
        Stage(ON_DEVICE, _whole(renderer), (params, identity, on_device), frames),
        Stage(END_TO_END, end_to_end, (), frames, on_host=True),
    ]


def _to_host(images: Array) -> Callable[[], np.ndarray]:
    pictures = to_uint8(images)

    def fetch() -> np.ndarray:
        fresh = jnp.copy(pictures)  # an array remembers what was fetched of it
        return np.asarray(jax.block_until_ready(fresh))

    return fetch


def _encode(frames: np.ndarray) -> Callable[[], None]:
    silence = np.zeros(len(frames) * SAMPLES_PER_FRAME, np.float32)

    def write() -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            VideoWriter(Path(folder) / "out.mp4", frames.shape[1], silence) as video,
        ):
            video.write(frames)

    return write


def measure(stage: Stage, repeats: int) -> Row:
    """Compiles a stage, runs it once, and times it `repeats` times."""
    if stage.on_host:
        return Row(stage.name, stage.frames, None, None, time_calls(stage.function, repeats), None)
    start = time.perf_counter()
    fresh = jax.jit(lambda *arguments: stage.function(*arguments))  # compiled by nobody yet
    traced = fresh.trace(*stage.arguments)
    program = traced.lower().compile()
    compile_seconds = time.perf_counter() - start
    written = flatten(traced.jaxpr.jaxpr, jax_export.default_export_platform())
    return Row(
        name=stage.name,
        frames=stage.frames,
        gflop=1e-9 * sum(count for *_, count in work(written)) or None,
        megabytes=1e-6 * _bytes_moved(written, program),
        milliseconds=time_calls(lambda: program(*stage.arguments), repeats),
        compile_seconds=compile_seconds,
    )


def _bytes_moved(written: Program, program: Compiled) -> float:
    """As the compiler counts them on CPUs; elsewhere it does not know those of its libraries."""
    if written.platform == "cpu" and (counted := program.cost_analysis()):
        return counted["bytes accessed"]
    return float(memory(written).traffic)


def time_calls(
    function: Callable[[], Any], repeats: int, warm_up: int = 3
) -> tuple[float, float, float]:
    """Median, 95th and 99th percentile in milliseconds, of calls one after another.

    Args:
      warm_up: calls before them, in which a GPU's clock rises and its graphs are caught.
    """
    for _ in range(warm_up):
        jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(1e3 * (time.perf_counter() - start))
    return tuple(float(x) for x in np.percentile(times, [50, 95, 99]))


def measure_ceilings(repeats: int) -> dict[str, float]:
    """What this machine reaches: TFLOP/s of products and 3x3 convolutions, GB/s of copies."""
    is_cpu = jax.default_backend() == "cpu"
    side, channels, images = (1024, 128, 4) if is_cpu else (8192, 512, 32)
    found = {}
    for dtype in ("float32", "bfloat16"):
        # Noise: a chip's clock depends on what it multiplies.
        draw = lambda *shape, dtype=dtype: jax.random.normal(jax.random.key(0), shape, dtype)
        matrix = draw(side, side)
        seconds = _seconds(_multiply, repeats, matrix)
        found[f"matmul {dtype} (TFLOP/s)"] = 2e-12 * side**3 / seconds
        maps, kernel = draw(images, 64, 64, channels), draw(3, 3, channels, channels)
        found[f"{CONVOLUTION} {dtype} (TFLOP/s)"] = (
            2e-12 * 9 * maps.size * channels / _seconds(_convolve, repeats, maps, kernel)
        )
    values = jnp.ones((64 if is_cpu else 512) * 2**18, jnp.float32)
    found[COPY] = 2e-9 * values.nbytes / _seconds(lambda x: x + 1, repeats, values)
    return found


def _multiply(a: Float[Array, "n n"]) -> Float[Array, "n n"]:
    return jnp.matmul(a, a, preferred_element_type=jnp.float32)  # else CPUs multiply in float32


def _convolve(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _seconds(function: Callable, repeats: int, *arguments: Array) -> float:
    program = jax.jit(function).lower(*arguments).compile()
    return 1e-3 * time_calls(lambda: program(*arguments), repeats)[0]


def paper_renderer(dtype: Dtype | None = None) -> Renderer:
    """The paper's model with random weights, which warp by a few pixels as trained ones do."""
    config = paper().model
    config.dtype = dtype or config.dtype
    config.audio_encoder.weights = "random"
    reta = build_reta(config)
    morphable, _ = load_morphable(config)
    random = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Array:
        scale = max(1, np.prod(leaf.shape[:-1])) ** -0.5
        names = [key.key for key in path]
        if names[-2] == "to_flow":  # a few pixels: clipped flows gather the same ones again
            scale = {"kernel": 0.02, "bias": 0.0}[names[-1]]
        return jnp.asarray(scale * random.standard_normal(leaf.shape, np.float32))

    abstract = expected_params(reta, morphable, config.size)
    params = jax.tree_util.tree_map_with_path(draw, abstract)
    return Renderer(reta, params, morphable)


def print_report(report: dict[str, Any]) -> None:
    console = wide_console()
    console.print(
        f"{report['device']}, jax {report['jax']}: {report['size']} px, {report['dtype']}, "
        f"{report['batch']} streams, {report['chunk']} frames a call, {report['repeats']} repeats"
    )
    for name, value in report["ceilings"].items():
        console.print(f"  {name}: {figure(value)}")
    titles = "GFLOP", "MB", "ms", "p95", "p99", "frames/s", "of conv", "of copy", "compile s"
    table = Table("stage", *titles, box=None)
    for row in report["stages"]:
        numbers = (row["gflop"], row["megabytes"], *row["milliseconds"])
        names = "frames_per_second", "of_convolutions", "of_copies", "compile_seconds"
        numbers += tuple(row[name] for name in names)
        table.add_row(row["name"], *("" if x is None else figure(x) for x in numbers))
    console.print(table)
    if report["memory_megabytes"]:
        console.print(f"memory: {report['memory_megabytes']:.0f} MB")
    if report["device_megabytes"]:
        console.print(f"the device held {report['device_megabytes']:.0f} MB at most")
    if "cold_start_seconds" in report:
        seconds = (f"{name} {x:.1f} s" for name, x in report["cold_start_seconds"].items())
        console.print(f"from a process's start to its first frame: {', '.join(seconds)}")
    if "live" in report:
        live = report["live"]
        median, p95, p99 = live["milliseconds"]
        early, late = live["resident_megabytes"]
        console.print(
            f"live, {live['streams']} at once: {live['needed_milliseconds']:.0f} ms of sound, then "
            f"{median:.1f} ms (p95 {p95:.1f}, p99 {p99:.1f}) to a frame: enough for "
            f"{live['real_time_streams']:.1f} streams; of {live['minutes']:g} minutes, the "
            f"process holds {early:.0f} MB after a tenth, {late:.0f} MB at the end"
        )
    for row in report["stages"]:
        if row["name"] == END_TO_END:
            streams = row["frames_per_second"] / FPS
            console.print(f"{END_TO_END}: {streams:.1f} streams of {FPS} frames a second")
    console.print(report["counted"])


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.benchmark", description="Times rendering, stage by stage."
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--checkpoint", type=Path, default=SHIPPED_WEIGHTS)
    model.add_argument("--paper", action="store_true", help="the paper's model, random weights")
    parser.add_argument(
        "--stage", nargs="+", default=[ALL], metavar="NAME", help="stages to time, as the table "
        "names them, or all",
    )  # fmt: skip
    parser.add_argument("--device", choices=DEVICES, help="to run on; JAX's own choice by default")
    parser.add_argument("--batch", type=int, default=1, help="streams at once")
    parser.add_argument("--chunk", type=int, help="frames a call; the model's own by default")
    parser.add_argument("--repeats", type=int, help="calls; default 20 on CPUs, 100 elsewhere")
    add_dtype(parser)
    parser.add_argument(
        "--cold-start", action="store_true", help="time the start of a process, too"
    )
    parser.add_argument(
        "--live",
        type=float,
        metavar="MINUTES",
        help="push talks of that length through a server of --batch streams, too",
    )
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument(
        "--compile",
        choices=GPUS,
        help="count the kernels of the whole program, compiled for a GPU that is not here, instead",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.device:
        jax.config.update("jax_platforms", arguments.device)
    keep_freed_memory()
    jax.config.update("jax_enable_compilation_cache", False)  # how long it takes is to be seen
    with sentences_for_errors():
        if arguments.batch < 1 or (arguments.repeats is not None and arguments.repeats < 1):
            raise InputError("--batch and --repeats are 1 or more")
        if arguments.live is not None and not 0.1 <= arguments.live < float("inf"):
            raise InputError(f"--live {arguments.live:g}: give 0.1 minutes or more")
        if arguments.out:
            check_place(arguments.out)
        measured = arguments.out or arguments.live or arguments.cold_start or arguments.repeats
        if arguments.compile and (measured or ALL not in arguments.stage):
            raise InputError(
                "--compile measures nothing: give --batch, --chunk, --dtype and a model"
            )
        check_device()
        renderer = (
            paper_renderer(arguments.dtype)
            if arguments.paper
            else Renderer.from_pretrained(arguments.checkpoint, dtype=arguments.dtype)
        )
        if arguments.chunk is not None:
            renderer = renderer.with_chunk(arguments.chunk)
        if arguments.compile:
            program = whole_program_there(renderer, arguments.batch, arguments.compile)
            frames = arguments.batch * renderer.window.chunk
            print_kernels(program, GPUS[arguments.compile], frames)
            return
        names = [] if ALL in arguments.stage else arguments.stage
        repeats = arguments.repeats or REPEATS.get(jax.default_backend(), 100)
        report = benchmark(renderer, arguments.batch, repeats, names)
        if arguments.live:
            report["live"] = measure_live(renderer, arguments.batch, arguments.live)
        if arguments.cold_start:
            report["cold_start_seconds"] = cold_starts(renderer, COLD_REPEATS)
        print_report(report)
        if arguments.out:
            write_json(arguments.out, report)


if __name__ == "__main__":
    main()
