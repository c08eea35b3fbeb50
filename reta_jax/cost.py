"""What training will take, before a device is touched.

    python -m reta_jax.train --config configs/hdtf.py --dry-run [--devices 8] [--compile H100]

Parameters, memory and work of one step are read off the step's own program, traced with abstract
arrays (reta_jax/program.py); time, money and many devices are arithmetic on published rates. What
is assumed says so. docs/scaling.md has the formulas, the sources, and how far the figures are off.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.stages import Compiled
from ml_collections import ConfigDict
from rich.table import Table

from data_pipeline.errors import InputError
from reta_jax import parallel
from reta_jax.absent import GPUS, compiler_options, devices_of, is_slice, platform_of
from reta_jax.checks import check_config
from reta_jax.config import uses_discriminator
from reta_jax.experts.load import KINDS, example_inputs, wanted_experts
from reta_jax.experts.teachers import Experts
from reta_jax.kernels import NETWORKS, network_of, print_kernels
from reta_jax.models.prepare import prepare_network
from reta_jax.ops.platforms import forms_of
from reta_jax.pretrained.load import load_morphable
from reta_jax.program import Memory, device_program, memory, tree_bytes, work
from reta_jax.report import wide_console
from reta_jax.state import TrainState, build_networks, only_trained, state_shapes, teacher_width
from reta_jax.step import Constants, make_step
from reta_jax.windows import AudioWindow

_DEVICES = flags.DEFINE_integer(
    "devices", None, "Dry run: devices of the job; default: this one's.", lower_bound=1
)
_MFU = flags.DEFINE_float("mfu", 0.25, "Dry run: share of the peak rate that a step reaches.")
_PRICE = flags.DEFINE_list("price", [], "Dry run: $ an hour and device, e.g. H100=2.5,v5e=0.9.")
_COMPILE = flags.DEFINE_string(
    "compile", None, "Dry run: compile the step too, for 'cpu', H100, a slice such as v5e:2x2."
)

GIGA = 1e9
Number = int | float


class Accelerator(NamedTuple):
    """Published figures of one device (sources: docs/scaling.md), and a price."""

    name: str
    teraflops: float  # bfloat16, dense
    teraflops_float32: float  # as it computes float32 by default: TF32 on GPUs, bfloat16 on TPUs
    gigabytes: float
    gigabytes_per_second: float  # of its memory
    dollars: float  # an hour; assumed, November 2026
    neighbours: int  # devices that the fast links join
    fast: float  # GB/s of a device over these links, one way
    slow: float  # GB/s of a device between such groups, one way
    of_a_host: int = 8


ACCELERATORS = (
    Accelerator("A100", 312, 156, 80, 2039, 2.00, 8, 300, 25),
    Accelerator("H100", 989, 494, 80, 3350, 3.50, 8, 450, 50),
    Accelerator("v5e", 197, 197, 16, 819, 1.20, 256, 200, 3.1),
    Accelerator("v5p", 459, 459, 95, 2765, 4.20, 8960, 600, 6.25, 4),
    Accelerator("v6e", 918, 918, 32, 1640, 2.70, 256, 400, 12.5),
)
PAPER = ("A100", 8, 20.0)  # devices and hours of the paper (appendix F)
# Of figures that no device at hand could give: docs/scaling.md says what speaks for them.
LOADER_CLIPS = 216.0  # clips a second at 256 px, measured on LOADER_CORES cores (docs/data.md)
LOADER_CORES = 2
CLIPS_OF_HDTF = 12_300  # 17.1 hours in clips of five seconds


class Job(NamedTuple):
    """A step and its arguments, abstract but for the 3DMM; `batch` is of all devices."""

    step: Any
    state: TrainState
    constants: Constants
    batch: dict[str, jax.ShapeDtypeStruct]


class Step(NamedTuple):
    """What one device does in one step."""

    flops: dict[tuple[str, bool, str], int]  # (network, is of the gradient, dtype): operations
    memory: Memory
    reduced: int  # bytes that devices average

    def total(self, dtype: str | None = None) -> int:
        return sum(n for (_, _, kind), n in self.flops.items() if dtype in (None, kind))


# The step


def abstract_job(config: ConfigDict) -> Job:
    """The step of a config and arrays of its shapes; weights are not looked for, let alone read."""
    found = {}
    for name, (kind, is_needed) in wanted_experts(config).items():
        network = variables = None
        if is_needed:
            fields = config.experts[name].fields.to_dict()
            network = KINDS[kind](**fields, dtype=jnp.dtype(config.model.dtype))
            drawn = jax.eval_shape(network.init, jax.random.key(0), *example_inputs(kind))
            variables = jax.eval_shape(lambda x: prepare_network(x, config.model.dtype), drawn)
        found |= {name: network, f"{name}_variables": variables}
    experts = Experts(**found)
    networks = build_networks(config, teacher_width(config, experts.teacher))
    morphable, _ = load_morphable(config.model)
    state = state_shapes(config, networks, morphable)
    step = make_step(config, networks, uses_discriminator(config))
    return Job(step, state, Constants(experts, morphable), abstract_batch(config))


def abstract_batch(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of data_pipeline/loader.py."""
    clips, frames, size = config.train.batch_size, config.train.frames, config.model.size
    shapes = {
        "portrait": ((size, size, 3), jnp.uint8),
        "frames": ((frames, size, size, 3), jnp.uint8),
        "audio": ((AudioWindow(**config.model.window).samples,), jnp.float32),
        "offset": ((), jnp.int32),
        "mel": ((80, 16), jnp.float32),
        "sync_box": ((4,), jnp.float32),
    }
    return {
        name: jax.ShapeDtypeStruct((clips, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }


def analyse(job: Job, devices: int, platform: str = "cuda") -> Step:
    """Traces one device's part of the step on so many devices, and reads it.

    platform: whose forms of what has several are counted (ops/platforms.py).
    """
    part = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0] // devices, *x.shape[1:]), x.dtype), job.batch
    )
    step = parallel.data_parallel(job.step, mesh_of(jax.devices()[:1]))
    with forms_of(platform):
        traced = step.trace(job.state, job.constants, part)
    program = device_program(traced, platform)
    flops: dict[tuple[str, bool, str], int] = {}
    for scope, dtype, count in work(program):
        key = (network_of(scope), "transpose(" in scope or "rematted" in scope, dtype)
        flops[key] = flops.get(key, 0) + count
    reduced = sum(
        program.bytes_of(value)
        for operation in program.operations
        if operation.name.startswith("psum")
        for value in operation.outputs
    )
    return Step(flops, memory(program), reduced)


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """As `parallel.make_mesh`, over devices of which some may be none of this machine's."""
    return Mesh(np.array(devices), (parallel.AXIS,), axis_types=(AxisType.Auto,))


class CompiledStep(NamedTuple):
    """What a compiler made of the step, for one device."""

    target: str
    program: Compiled
    seconds: float  # that compiling took


def compile_step(config: ConfigDict, target: str, clips: int) -> CompiledStep:
    """Compiles the step of `clips` clips a device, for a target of `absent.devices_of`.

    Raises:
      InputError: there is no compiler for it here, or the step does not fit.
    """
    devices = devices_of(target)
    mesh = mesh_of(devices)
    config = config.copy_and_resolve_references()
    config.train.batch_size = clips * len(devices)
    job = abstract_job(config)
    state, constants = parallel.placed((job.state, job.constants), parallel.replicated(mesh))
    batch = parallel.placed(job.batch, NamedSharding(mesh, PartitionSpec(parallel.AXIS)))
    with forms_of(platform_of(target)):
        lowered = parallel.data_parallel(job.step, mesh).lower(state, constants, batch)
    start = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=compiler_options(target))
    except jax.errors.JaxRuntimeError as error:
        sentences = [line for line in str(error).splitlines() if "hbm" in line.lower()]
        raise InputError(f"--compile={target}: {(sentences or [str(error)])[0]}") from error
    return CompiledStep(target, compiled, time.perf_counter() - start)


# Arithmetic


def step_seconds(step: Step, device: Accelerator, mfu: float) -> float:
    """The longer of two: the work at a share of the peak rate, the traffic at the memory's rate.

    The traffic is counted as if nothing stayed in a cache, which the share of the peak allows for.
    """
    rates = {"bfloat16": device.teraflops, "float32": device.teraflops_float32}
    arithmetic = sum(step.total(dtype) / (1e12 * rate) for dtype, rate in rates.items()) / mfu
    return max(arithmetic, step.memory.traffic / (GIGA * device.gigabytes_per_second))


def ring_seconds(size: Number, devices: int, gigabytes_per_second: Number) -> float:
    """All-reduce of `size` bytes around a ring: each device sends 2 (n - 1) / n of them."""
    return 2 * (devices - 1) / devices * size / (GIGA * gigabytes_per_second)


def all_reduce_seconds(size: Number, devices: int, device: Accelerator) -> float:
    """Within the groups of fast links, and of each device's share between the groups."""
    inside = min(devices, device.neighbours)
    groups = math.ceil(devices / inside)
    return ring_seconds(size, inside, device.fast) + ring_seconds(
        size / inside, groups, device.slow
    )


def efficiency(step: Number, communication: Number, hidden: Number = 0) -> float:
    """Share of the time that devices compute.

    Args:
      step: seconds of computation.
      communication: seconds of the all-reduce.
      hidden: share of the computation that it may run beside: 0 at worst, about 2/3 (the backward
        pass) at best.
    """
    return step / (step + max(0.0, communication - hidden * step))


class Scale(NamedTuple):
    """A number of devices with as many clips each as the config has."""

    devices: int
    batch: int
    communication: float  # seconds
    worst: float  # efficiency, nothing hidden
    best: float  # hidden behind the backward pass
    clips_per_host: float  # a second, that its loader has to give
    cores_per_host: float  # that it takes for that
    steps_per_epoch: float  # of HDTF


def scaling(step: Step, clips: int, device: Accelerator, mfu: float) -> list[Scale]:
    """From one device to 1,024, every device with `clips` clips."""
    seconds, rows = step_seconds(step, device, mfu), []
    for devices in (1, 8, 16, 64, 256, 1024):
        communication = all_reduce_seconds(step.reduced, devices, device) if devices > 1 else 0.0
        worst, best = (efficiency(seconds, communication, hidden) for hidden in (0.0, 2 / 3))
        needed = min(devices, device.of_a_host) * clips / seconds * best
        batch = devices * clips
        rows.append(
            Scale(
                devices, batch, communication, worst, best, needed,
                LOADER_CORES * needed / LOADER_CLIPS, CLIPS_OF_HDTF / batch,
            )
        )  # fmt: skip
    return rows


# The command


def dry_run(config: ConfigDict) -> None:
    """Prints it all; --devices, --mfu, --price and --compile are flags of the command.

    Raises:
      InputError: training would refuse the config on so many devices, or a flag is wrong.
    """
    devices = jax.device_count() if _DEVICES.value is None else _DEVICES.value
    check_config(config, devices)
    if not 0 < _MFU.value <= 1:
        raise InputError(f"--mfu is a share of the peak rate, above 0 and at most 1: {_MFU.value}")
    accelerators = priced(_PRICE.value)
    if _COMPILE.value:
        devices_of(_COMPILE.value)  # so that a target that nobody knows is refused at once
    clips = config.train.batch_size // devices
    job = abstract_job(config)
    step = analyse(job, devices, "tpu" if is_slice(_COMPILE.value or "cpu") else "cuda")
    console = wide_console()
    console.print(
        f"{config.name}: {config.model.size} px, {config.model.dtype}, {config.train.batch_size} "
        f"clips of {config.train.frames} frames a step over {devices} devices, {clips} on each"
    )
    console.print(parameters_table(config, job, step))
    console.print(memory_table(job, step, devices))
    peak = sum(resident(job, devices).values()) + step.memory.temporary
    console.print(time_table(config, step, peak, devices, accelerators))
    for device in accelerators:
        console.print(scaling_table(step, clips, device, _MFU.value))
    if _COMPILE.value:
        compiled = compile_step(config, _COMPILE.value, clips)
        console.print(compiled_lines(compiled, step))
        if gpu := GPUS.get(_COMPILE.value):
            print_kernels(compiled.program, gpu, clips * config.train.frames)


def priced(changes: list[str]) -> tuple[Accelerator, ...]:
    """ACCELERATORS with the prices of --price.

    Raises:
      InputError: not NAME=DOLLARS, or a name that is none of them.
    """
    prices = {}
    for change in changes:
        name, _, dollars = change.partition("=")
        try:
            prices[name] = float(dollars)
        except ValueError:
            raise InputError(f"--price={change}: say NAME=DOLLARS, e.g. H100=2.5") from None
    names = [device.name for device in ACCELERATORS]
    unknown = ", ".join(set(prices) - set(names))
    if unknown:
        raise InputError(f"--price knows no {unknown}; it knows {', '.join(names)}")
    return tuple(d._replace(dollars=prices.get(d.name, d.dollars)) for d in ACCELERATORS)


def parameters_table(config: ConfigDict, job: Job, step: Step) -> Table:
    """Parameters by network, and the work of a device and step."""
    counts = parameter_counts(config, job)
    table = Table("network", "parameters", "", "forward", "gradient", box=None)
    table.title = "Parameters (millions); products and convolutions of a device and step (GFLOP)"
    for name in NETWORKS.values():
        count, trained = counts.get(name, (0, 0))
        pair = [
            sum(n for (network, back, _), n in step.flops.items() if (network, back) == (name, b))
            for b in (False, True)
        ]
        if count or any(pair):
            kind = ("trained" if trained else "frozen") if count else ""
            row = (f"{count / 1e6:.2f}", kind, *(f"{n / GIGA:,.1f}" for n in pair))
            table.add_row(name, *row)
    every, trained = (sum(of) for of in zip(*counts.values(), strict=True))
    share = step.total("float32") / max(step.total(), 1)
    table.add_row(
        "together", f"{every / 1e6:.2f}", f"{trained / 1e6:.2f} trained",
        f"{step.total() / GIGA:,.0f} in all", f"{100 * share:.0f} % of it in float32",
    )  # fmt: skip
    return table


def parameter_counts(config: ConfigDict, job: Job) -> dict[str, tuple[int, int]]:
    """(parameters, those of them that are trained) by network."""

    def size(tree: Any) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    params, experts = job.state.params, job.constants.experts
    parts = params["reta"] | {"projection": params["projection"]}
    kept = only_trained(config)(params)
    kept = kept["reta"] | {"projection": kept["projection"]}
    counts: dict[str, tuple[int, int]] = {}
    for name, part in parts.items():
        network = NETWORKS.get(name, NETWORKS[""])
        every, trained = counts.get(network, (0, 0))
        counts[network] = every + size(part), trained + size(kept[name])
    adversary = size(job.state.d_params)
    counts[NETWORKS["Discriminator"]] = adversary, adversary if uses_discriminator(config) else 0
    counts[NETWORKS["EmotionViT"]] = size(experts.teacher_variables), 0
    counts[NETWORKS["SyncNetExpert"]] = size(experts.sync_variables), 0
    counts[NETWORKS["VGG19"]] = size(experts.vgg_variables), 0
    counts[NETWORKS["LandmarkNet"]] = size(experts.lips_variables), 0
    return counts


def resident(job: Job, devices: int) -> dict[str, int]:
    """Bytes that lie on every device between steps; the batch counts twice, the next one comes."""
    state = job.state
    return {
        "parameters": tree_bytes((state.params, state.d_params)),
        "their average (EMA)": tree_bytes(state.ema),
        "optimizer state": tree_bytes((state.opt_state, state.d_opt_state)),
        "frozen teachers, 3DMM": tree_bytes(job.constants),
        "batch, twice": 2 * tree_bytes(job.batch) // devices,
    }


def memory_table(job: Job, step: Step, devices: int) -> Table:
    """Memory of a device by what it is for."""
    table = Table("memory of a device", "GB", box=None)
    parts = resident(job, devices) | {
        f"activations and gradients, fullest in {step.memory.fullest}": step.memory.temporary
    }
    for name, size in parts.items():
        table.add_row(name, f"{size / GIGA:.2f}")
    table.add_row("peak, at least (docs/scaling.md)", f"{sum(parts.values()) / GIGA:.2f}")
    table.add_row("written and read in a step", f"{step.memory.traffic / GIGA:.0f}")
    return table


def time_table(
    config: ConfigDict, step: Step, peak: int, devices: int, accelerators: tuple[Accelerator, ...]
) -> Table:
    """Time and money of the whole schedule, and the paper's run beside them."""
    mfu, steps = _MFU.value, config.train.steps
    title = f"{steps:,} steps on {devices} devices at {100 * mfu:.0f} % of the peak rate (assumed)"
    names = "device", "memory", "ms a step", "clips/s", "of the paper's", "hours", "$/h", "$"
    table = Table(*names, title=title, box=None)
    for device in accelerators:
        seconds = step_seconds(step, device, mfu)
        fits = peak / GIGA / device.gigabytes
        seconds += all_reduce_seconds(step.reduced, devices, device) if devices > 1 else 0.0
        hours = steps * seconds / 3600
        table.add_row(
            device.name, f"{100 * fits:.0f} %" if fits < 1 else "too small",
            f"{1e3 * seconds:.0f}", f"{config.train.batch_size / seconds:.0f}",
            f"{hours / PAPER[2]:.2f} x", f"{hours:.1f}", f"{device.dollars:.2f}",
            f"{hours * devices * device.dollars:,.0f}",
        )  # fmt: skip
    name, count, hours = PAPER
    (dollars,) = (device.dollars for device in accelerators if device.name == name)
    table.add_row(
        f"{name}, the paper's run on {count}", "", "", "", "1 x", f"{hours:.1f}", f"{dollars:.2f}",
        f"{hours * count * dollars:,.0f}",
    )  # fmt: skip
    return table


def scaling_table(step: Step, clips: int, device: Accelerator, mfu: float) -> Table:
    title = (
        f"{device.name}: {clips} clips a device, {step.reduced / 1e6:.0f} MB to average, "
        f"{1e3 * step_seconds(step, device, mfu):.0f} ms of work"
    )
    names = "devices", "batch", "all-reduce ms", "efficiency", "if hidden", "clips/s a host"
    table = Table(*names, "loader cores", "steps an epoch", title=title, box=None)
    for row in scaling(step, clips, device, mfu):
        table.add_row(
            f"{row.devices:,}", f"{row.batch:,}", f"{1e3 * row.communication:.1f}",
            f"{100 * row.worst:.0f} %", f"{100 * row.best:.0f} %", f"{row.clips_per_host:.0f}",
            f"{row.cores_per_host:.1f}", f"{row.steps_per_epoch:.0f}",
        )  # fmt: skip
    return table


def compiled_lines(compiled: CompiledStep, step: Step) -> str:
    """The compiler's figures beside the estimates."""
    sizes, cost = compiled.program.memory_analysis(), compiled.program.cost_analysis() or {}
    arguments, temporary = sizes.argument_size_in_bytes, sizes.temp_size_in_bytes
    off = step.memory.temporary / temporary - 1
    text = (
        f"compiled for {compiled.target} in {compiled.seconds:.0f} s: arguments "
        f"{arguments / GIGA:.2f} GB, temporary {temporary / GIGA:.2f} GB "
        f"(estimated {step.memory.temporary / GIGA:.2f}, {100 * off:+.0f} %)"
    )
    if cost.get("flops"):
        text += (
            f", {cost['flops'] / GIGA:,.0f} GFLOP with everything that is no product "
            f"(counted {step.total() / GIGA:,.0f})"
        )
    return text
