"""A training step on this machine: python benchmarks/training_step.py --config configs/hdtf.py

Shapes, networks and losses are the config's; weights, teachers and pictures are noise, on which the
speed does not depend. Beside the times stand the step's products and convolutions, counted exactly
(reta_jax/program.py), their rate, and its share of what this machine reaches on matrix products in
the same run and, where the device's is known, of the published peak (MFU). Fields can be given:
--config.train.batch_size=16.
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # A bare machine has nothing installed.

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import export as jax_export
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

import reta_jax.train  # noqa: F401  which defines --config
from data_pipeline.errors import InputError
from reta_jax import parallel
from reta_jax.benchmark import measure_ceilings, planned_megabytes
from reta_jax.checks import check_config
from reta_jax.commands import run_with_flags, set_up_xla
from reta_jax.config import random_teachers
from reta_jax.cost import ACCELERATORS, Step, abstract_batch, abstract_job, analyse
from reta_jax.experts.load import load_experts
from reta_jax.pretrained.load import load_morphable
from reta_jax.state import build_networks, create_state, teacher_width
from reta_jax.step import Constants

_REPEATS = flags.DEFINE_integer("repeats", 20, "Steps that are timed.", lower_bound=1)
SAME_PEAK = {"H200": "H100", "v5 lite": "v5e", "v6 lite": "v6e"}


def measure(config: ConfigDict, repeats: int) -> dict[str, Any]:
    """Times the step with every loss.

    Returns:
      {"milliseconds": median, 95th and 99th percentile; "frames_per_second",
       "teraflop": {dtype: of a step on one device}, "teraflops": its rate, "megabytes": as planned,
       "by_network": {name: teraflop}, "compile_seconds"}

    Raises:
      InputError: the config cannot be trained here.
    """
    config = random_teachers(config.copy_and_resolve_references())
    config.init_from, config.model.audio_encoder.weights = "", "random"
    check_config(config, jax.device_count())
    mesh = parallel.make_mesh()
    experts, _ = load_experts(config)
    networks = build_networks(config, teacher_width(config, experts.teacher))
    morphable, _ = load_morphable(config.model)
    constants = parallel.replicate(Constants(experts, morphable), mesh)
    create = jax.jit(
        lambda morphable, key: create_state(config, networks, morphable, key),
        out_shardings=parallel.replicated(mesh),
    )
    state = create(constants.morphable, jax.random.key(0, impl="rbg"))
    batch = parallel.shard_batch(noise(config), mesh)
    job = abstract_job(config)
    start = time.perf_counter()
    program = parallel.data_parallel(job.step, mesh).lower(state, constants, batch).compile()
    compile_seconds = time.perf_counter() - start
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        state, metrics = program(state, constants, batch)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    milliseconds = [1e3 * float(x) for x in np.percentile(times[1:], [50, 95, 99])]
    work = analyse(job, jax.device_count(), jax_export.default_export_platform())
    teraflop = {kind: 1e-12 * work.total(kind) for kind in {kind for _, _, kind in work.flops}}
    return {
        "milliseconds": milliseconds,
        "frames_per_second": 1e3 * config.train.batch_size * config.train.frames / milliseconds[0],
        "teraflop": teraflop,
        "teraflops": 1e3 * sum(teraflop.values()) / milliseconds[0],
        "megabytes": planned_megabytes(program),
        "by_network": by_network(work),
        "compile_seconds": compile_seconds,
    }


def noise(config: ConfigDict) -> dict[str, np.ndarray]:
    """A batch of the loader's shapes, with faces in the middle of the pictures."""
    random = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.dtype == jnp.uint8:
            return random.integers(0, 256, leaf.shape, np.uint8)
        return (0.1 * random.standard_normal(leaf.shape)).astype(leaf.dtype)

    batch = {name: draw(leaf) for name, leaf in abstract_batch(config).items()}
    batch["offset"][:] = 0
    batch["sync_box"][:] = 0.2, 0.2, 0.9, 0.8
    return batch


def share_of(found: dict[str, Any], rates: dict[str, float]) -> float:
    """Of the time in which the work would be done at these rates, TFLOP/s by dtype."""
    seconds = sum(count / rates[dtype] for dtype, count in found["teraflop"].items())
    return 1e3 * seconds / found["milliseconds"][0]


def by_network(work: Step) -> dict[str, float]:
    """Teraflop of each network, forward and backward, the dearest first."""
    found: dict[str, float] = {}
    for (network, _, _), count in work.flops.items():
        found[network] = found.get(network, 0.0) + 1e-12 * count
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def peaks_of(device_kind: str) -> dict[str, float] | None:
    """Published TFLOP/s of a device by dtype; None where it is not known."""
    for device in ACCELERATORS:
        names = [device.name, *(other for other, same in SAME_PEAK.items() if same == device.name)]
        if any(name in device_kind for name in names):
            return {"bfloat16": device.teraflops, "float32": device.teraflops_float32}
    return None


def print_report(config: ConfigDict, found: dict[str, Any], ceilings: dict[str, float]) -> None:
    device, console, train = jax.devices()[0].device_kind, Console(), config.train
    console.print(
        f"{config.name} on {jax.device_count()} x {device}, jax {jax.__version__}: "
        f"{config.model.size} px, {train.batch_size} clips of {train.frames} frames"
    )
    median, p95, p99 = found["milliseconds"]
    console.print(
        f"{median:.1f} ms a step (p95 {p95:.1f}, p99 {p99:.1f}): "
        f"{found['frames_per_second']:.1f} frames/s; compiled in {found['compile_seconds']:.0f} s"
    )
    products = {dtype: ceilings[f"matmul {dtype} (TFLOP/s)"] for dtype in found["teraflop"]}
    shares = f"{100 * share_of(found, products):.0f} % of what products reach here"
    if peaks := peaks_of(device):
        shares += f", MFU {100 * share_of(found, peaks):.0f} % of the published peak"
    work = ", ".join(f"{count:.3g} TFLOP in {kind}" for kind, count in found["teraflop"].items())
    console.print(f"{work} a device and step, {found['teraflops']:.3g} TFLOP/s: {shares}")
    if found["megabytes"]:
        console.print(f"memory as planned: {found['megabytes']:.0f} MB")
    table = Table("network", "TFLOP", "share", box=None)
    for name, count in found["by_network"].items():
        share = count / sum(found["by_network"].values())
        table.add_row(name, f"{count:.3g}", f"{100 * share:.0f} %")
    console.print(table)


def main(_: list[str]) -> None:
    config = flags.FLAGS.config
    if config is None:
        raise InputError("give --config, as in python benchmarks/training_step.py --config FILE")
    found = measure(config, _REPEATS.value)
    print_report(config, found, measure_ceilings(_REPEATS.value))


if __name__ == "__main__":
    set_up_xla()
    run_with_flags(main)
