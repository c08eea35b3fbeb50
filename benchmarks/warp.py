"""The forms of the warp against the least time that its bytes take: python benchmarks/warp.py

Every level of the paper's generator: one texture warped to the frames of a chunk, forward and
backward, by each form of reta_jax/ops/warp.py. The floor reads what is given and writes what is
wanted, once, at the speed at which this machine copies in the same run. CPUs and GPUs take the
windows, TPUs the others. Forms take turns; every one's result is compared with the first one's.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.table import Table

from data_pipeline.errors import InputError
from reta_jax.benchmark import DEVICES, measure_ceilings, time_calls
from reta_jax.commands import check_device, keep_freed_memory, sentences_for_errors
from reta_jax.models.stylegan import channels, resolutions
from reta_jax.ops.warp import DENSE, DENSE_PIXELS, ROWS, WINDOWS, Form, identity_grid

FORMS = {"windows": WINDOWS, "rows": ROWS, "dense": DENSE}


class Level(NamedTuple):
    """What is warped: a texture, where its points go, and the cotangent of what comes out."""

    texture: Array  # (1, h, w, c)
    grid: Array  # (1, t, h, w, 2)
    cotangent: Array  # (1, t, h, w, c)

    @property
    def forward_bytes(self) -> int:
        return self.texture.nbytes + self.grid.nbytes + self.cotangent.nbytes

    @property
    def backward_bytes(self) -> int:
        """Texture, grid and cotangent are read, the cotangents of the first two are written."""
        return 2 * self.texture.nbytes + 2 * self.grid.nbytes + self.cotangent.nbytes


def make_level(size: int, frames: int, dtype: str) -> Level:
    """Noise, and a flow of a few pixels that is smooth, as those of faces are."""
    random = np.random.default_rng(size)
    c = channels(size, 1.0)
    draw = lambda *shape: jnp.asarray(random.standard_normal(shape), dtype)
    waves = random.uniform(0, 2 * np.pi, (frames, 1, 1, 2))
    grid = np.asarray(identity_grid(size, size))
    flow = 0.05 * np.sin(3 * grid[None, ..., ::-1] + waves)
    return Level(
        draw(1, size, size, c),
        jnp.asarray(grid + flow, jnp.float32)[None],
        draw(1, frames, size, size, c),
    )


def forward(form: Form) -> Callable[[Level], Array]:
    def sample(level: Level) -> Array:
        points = level.grid.reshape(1, -1, 2)
        return jax.vmap(form.forward)(level.texture, points)

    return jax.jit(sample)


def backward(form: Form) -> Callable[[Level], tuple[Array, Array]]:
    def pull_back(level: Level) -> tuple[Array, Array]:
        points = level.grid.reshape(1, -1, 2)
        cotangent = level.cotangent.reshape(1, -1, level.cotangent.shape[-1])
        return jax.vmap(form.backward)(level.texture, points, cotangent)

    return jax.jit(pull_back)


def compare(size: int, frames: int, dtype: str, repeats: int, gigabytes: float) -> list[list[str]]:
    """Rows of the table for one level."""
    level = make_level(size, frames, dtype)
    # The dense form writes a weight for every pixel and point: of larger maps, gigabytes.
    forms = {n: f for n, f in FORMS.items() if n != "dense" or size * size <= 4 * DENSE_PIXELS}
    calls = {
        (name, direction.__name__): direction(form)
        for name, form in forms.items()
        for direction in (forward, backward)
    }
    _check_equal(calls, level, dtype)
    times = {key: [] for key in calls}
    for _ in range(repeats):
        for key, call in calls.items():
            times[key].append(time_calls(lambda call=call: call(level), 1, warm_up=1)[0])
    table = []
    for name in forms:
        row = [f"{size}²", name]
        for direction, count in zip(
            ("forward", "backward"), (level.forward_bytes, level.backward_bytes), strict=True
        ):
            median, floor = np.median(times[name, direction]), 1e-6 * count / gigabytes
            row += [f"{median:.2f}", f"{floor:.2f}", f"{100 * floor / median:.0f} %"]
        table.append(row)
    return table


def _check_equal(calls: dict[tuple[str, str], Callable], level: Level, dtype: str) -> None:
    tolerance = 1e-4 if dtype == "float32" else 0.05
    for direction in ("forward", "backward"):
        first, *others = (call(level) for (_, way), call in calls.items() if way == direction)
        for other in others:
            for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
                x, y = np.float32(x), np.float32(y)
                if np.abs(x - y).max() > tolerance * np.abs(x).max():
                    raise RuntimeError(f"the forms differ, {direction}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The warp against its bytes.")
    parser.add_argument("--device", choices=DEVICES, help="JAX's own choice by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--size", type=int, default=256, help="of the largest level")
    parser.add_argument("--frames", type=int, default=10, help="that one texture is warped to")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args(argv)
    with sentences_for_errors():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    if arguments.repeats < 1:
        raise InputError("--repeats is 1 or more")
    if arguments.device:
        jax.config.update("jax_platforms", arguments.device)
    check_device()
    keep_freed_memory()
    gigabytes = measure_ceilings(arguments.repeats)["copy (GB/s)"]
    console = Console()
    console.print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {arguments.dtype}, "
        f"{arguments.frames} frames, copies {gigabytes:.3g} GB/s; ms, median of {arguments.repeats}"
    )
    table = Table("level", "form", "forward", "floor", "share", "backward", "floor", "share")
    for size in resolutions(arguments.size):
        for row in compare(size, arguments.frames, arguments.dtype, arguments.repeats, gigabytes):
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
