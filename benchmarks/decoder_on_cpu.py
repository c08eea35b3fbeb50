"""Our decoder beside torch's on this CPU: python benchmarks/decoder_on_cpu.py [--size 256]

One frame at paper scale, float32, batch 1, the same weights everywhere (the published arithmetic,
modulation="modconv"). torch runs it as it is published, with a convolution kernel for each sample,
and as ours does, with modulated activations and four-phase up-convolutions; each eager and under
torch.compile, and the last also in bfloat16. Contestants take turns, so that noise falls on all
alike; every one's picture is compared with ours first. Needs the `parity` extra.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from reta_jax.benchmark import CONVOLUTION, measure_ceilings
from reta_jax.commands import keep_freed_memory
from reta_jax.models.generator import Generator
from reta_jax.models.prepare import prepare_generator
from reta_jax.models.stylegan import channels, resolutions

SPLIT_RES = 64
PUBLISHED, TUNED = "as published", "as ours"


def conv_kernel(kernel: np.ndarray) -> torch.Tensor:
    """HWIO to OIHW."""
    return torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))


class TorchDecoder(torch.nn.Module):
    """The generator with `modulation="modconv"`, `rgb_from="warped"`, from our parameters."""

    def __init__(self, params: dict[str, Any], size: int, form: str):
        super().__init__()
        self.form, self.levels = form, resolutions(size)
        self.weights = torch.nn.ParameterDict()
        for path, value in jax.tree_util.tree_leaves_with_path(params):
            name = "/".join(key.key for key in path)
            value = np.asarray(value)
            tensor = conv_kernel(value) if value.ndim == 4 else torch.from_numpy(value.copy())
            self.weights[name.replace("/", "_")] = torch.nn.Parameter(tensor, requires_grad=False)
            if form == TUNED and tensor.ndim == 4:  # as ours, once
                energy = torch.nn.Parameter(tensor.square().sum((2, 3)), requires_grad=False)
                self.weights[name.replace("/", "_").replace("_kernel", "_energy")] = energy
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("filter", torch.outer(taps, taps)[None, None] / 16)
        for resolution in self.levels:
            axis = torch.linspace(-1, 1, resolution)
            grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)[None]
            self.register_buffer(f"grid_{resolution}", grid)

    def forward(
        self, early: torch.Tensor, late: torch.Tensor, *textures: torch.Tensor
    ) -> torch.Tensor:
        x = self.weights["constant"].permute(2, 0, 1)[None].expand(len(early), -1, -1, -1)
        if self.form == TUNED:
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.styled_conv("conv", x, early)
        frames = raw = None
        for resolution, texture in zip(self.levels, textures, strict=True):
            level = f"level_{resolution}"
            code = early if resolution < SPLIT_RES else late
            x = self.styled_conv(f"{level}_up", x, code, up=True)
            x = self.styled_conv(f"{level}_conv", x, code)
            step = self.to_raw(f"{level}_to_flow", x, code)
            raw = step if raw is None else step + self.upsample(raw)
            mask = torch.sigmoid(raw[:, 2:])
            flow = torch.tanh(raw[:, :2]).permute(0, 2, 3, 1)
            grid = getattr(self, f"grid_{resolution}") + flow
            warped = mask * F.grid_sample(texture, grid, align_corners=False)
            x = warped + (1 - mask) * x
            step = self.to_rgb(f"{level}_to_rgb", warped)
            frames = step if frames is None else step + self.upsample(frames)
        return frames

    def alpha(self, name: str, code: torch.Tensor) -> torch.Tensor:
        kernel = self.weights[f"{name}_style_alpha_kernel"] * code.shape[1] ** -0.5
        return F.linear(code, kernel.T, self.weights[f"{name}_style_alpha_bias"])

    def styled_conv(
        self, name: str, x: torch.Tensor, code: torch.Tensor, up: bool = False
    ) -> torch.Tensor:
        kernel, alpha = self.weights[f"{name}_kernel"], self.alpha(name, code)
        alpha = alpha * (9 * x.shape[1]) ** -0.5
        if self.form == PUBLISHED:
            x = self.kernel_of_each_sample(x, kernel, alpha, up)
        else:
            energy = self.weights[f"{name}_energy"]
            norm = torch.rsqrt(alpha.square() @ energy.T + 1e-8)[..., None, None]
            x = norm * self.shared_kernel(x * alpha[..., None, None], kernel, up)
        return F.leaky_relu(x + self.weights[f"{name}_bias"][:, None, None], 0.2) * 2**0.5

    def kernel_of_each_sample(
        self, x: torch.Tensor, kernel: torch.Tensor, alpha: torch.Tensor, up: bool
    ) -> torch.Tensor:
        """StyleGAN2's form: one group a sample, each with a modulated, demodulated kernel."""
        b, _, h, w = x.shape
        o, i = kernel.shape[:2]
        kernel = kernel[None] * alpha[:, None, :, None, None]
        kernel = kernel * torch.rsqrt(kernel.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        x = x.reshape(1, b * i, h, w)
        if not up:
            return F.conv2d(x, kernel.reshape(b * o, i, 3, 3), padding=1, groups=b).reshape(
                b, o, h, w
            )
        turned = kernel.flip(3, 4).transpose(1, 2).reshape(b * i, o, 3, 3)
        x = F.conv_transpose2d(x, turned, stride=2, groups=b).reshape(b, o, 2 * h + 1, 2 * w + 1)
        return F.conv2d(x, self.filter.expand(o, 1, 4, 4), padding=1, groups=o)

    def shared_kernel(self, x: torch.Tensor, kernel: torch.Tensor, up: bool) -> torch.Tensor:
        """Our form: activations are modulated before and demodulated after one convolution."""
        if not up:
            return F.conv2d(x, kernel, padding=1)

        def phase(row: int, column: int) -> torch.Tensor:
            part = kernel[:, :, row::2, column::2].contiguous(memory_format=torch.channels_last)
            return F.conv2d(x, part, padding=(1 - row, 1 - column))

        b, _, h, w = x.shape
        left, right = (blur_phases(phase(0, c), phase(1, c), 2) for c in (0, 1))
        top, bottom = (blur_phases(a, b, 3) for a, b in zip(left, right, strict=True))
        rows = [torch.stack([y.permute(0, 2, 3, 1) for y in pair], 3) for pair in (top, bottom)]
        return torch.stack(rows, 2).reshape(b, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)

    def to_raw(self, name: str, x: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        kernel = self.weights[f"{name}_kernel"] * x.shape[1] ** -0.5
        kernel = self.alpha(name, code)[..., None] * kernel
        raw = torch.einsum("nihw,nio->nohw", x, kernel)
        return raw + self.weights[f"{name}_bias"][:, None, None]

    def to_rgb(self, name: str, x: torch.Tensor) -> torch.Tensor:
        kernel = self.weights[f"{name}_conv_kernel"] * x.shape[1] ** -0.5
        x = F.conv2d(x, kernel) + self.weights[f"{name}_conv_bias"][:, None, None]
        return F.leaky_relu(x, 0.2) * 2**0.5 + self.weights[f"{name}_bias"][:, None, None]

    def upsample(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        kernel = self.filter.expand(c, 1, 4, 4)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=c)


def blur_phases(
    even: torch.Tensor, odd: torch.Tensor, axis: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """[1, 3, 3, 1] / 4 over n + 1 even and n odd samples of one axis."""
    n = odd.shape[axis]
    pads = [0, 0, 0, 0]
    pads[2 * (3 - axis)] = pads[2 * (3 - axis) + 1] = 1
    odd = F.pad(odd, pads)
    before, here, after = (odd.narrow(axis, i, n) for i in range(3))
    low, high = (even.narrow(axis, i, n) for i in range(2))
    return 0.25 * (before + high) + 0.75 * (low + here), 0.25 * (low + after) + 0.75 * (here + high)


def contestants(
    size: int, multiplier: float
) -> tuple[dict[str, tuple[Callable[[], Any], bool]], float]:
    """Name to (one frame, whether it is float32), and the arithmetic of a frame in FLOP.

    The arithmetic is that of plain convolutions, whatever form they are computed in.
    """
    random = np.random.default_rng(0)
    draw = lambda *shape: random.standard_normal(shape, np.float32)
    textures = [draw(1, r, r, channels(r, multiplier)) for r in resolutions(size)]
    style_dim = int(512 * multiplier)
    early, late = draw(1, 1, style_dim), draw(1, 1, style_dim)
    generator = functools.partial(Generator, size, style_dim, multiplier, split_res=SPLIT_RES)
    ours = generator(modulation="modconv")
    params = jax.jit(ours.init)(jax.random.key(0, impl="rbg"), textures, early, late)["params"]
    # Flows of a few pixels, so that the warp has something to do.
    for name, level in params.items():
        if name.startswith("level"):
            level["to_flow"]["kernel"] = jnp.asarray(0.02 * draw(*level["to_flow"]["kernel"].shape))
    plain = jax.jit(lambda p, *x: ours.apply({"params": p}, *x).frames)
    flops = plain.lower(params, textures, early, late).cost_analysis()["flops"]
    found: dict[str, tuple[Callable[[], Any], bool]] = {}

    def add_ours(name: str, module: Generator, params: Any) -> None:
        params = prepare_generator(module, params, "cpu")
        inputs = jax.device_put((textures, early, late))
        run = jax.jit(lambda p, *x: module.apply({"params": p}, *x).frames[0, 0])
        found[name] = functools.partial(run, params, *inputs), True

    add_ours("JAX, ours", ours, params)
    add_ours("JAX, ours, bf16", ours.clone(dtype=jnp.bfloat16), params)
    adain = generator(modulation="adain")
    abstract = jax.eval_shape(adain.init, jax.random.key(0), textures, early, late)["params"]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)
    add_ours("JAX, ours with AdaIN (Eq. 1)", adain, merge(zeros, params))

    for form in (PUBLISHED, TUNED):
        module = TorchDecoder(params, size, form).eval()
        layout = torch.channels_last if form == TUNED else torch.contiguous_format
        module = module.to(memory_format=layout)
        maps = [
            torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            for x in textures
        ]
        inputs = torch.from_numpy(early[0]), torch.from_numpy(late[0]), *maps
        compiled = torch.compile(module)
        found[f"torch, {form}, eager"] = functools.partial(run_torch, module, inputs), True
        found[f"torch, {form}, compiled"] = functools.partial(run_torch, compiled, inputs), True
    half = functools.partial(run_torch, torch.compile(module), inputs, True)
    found[f"torch, {TUNED}, compiled, bf16"] = half, False
    return found, flops


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return {
        key: merge(value, over.get(key, {})) if isinstance(value, dict) else over.get(key, value)
        for key, value in base.items()
    }


@torch.inference_mode()
def run_torch(module: Any, inputs: tuple[torch.Tensor, ...], bf16: bool = False) -> np.ndarray:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return module(*inputs)[0].permute(1, 2, 0).float().numpy()


def race(size: int, multiplier: float, repeats: int) -> None:
    found, flops = contestants(size, multiplier)
    ours = np.asarray(found["JAX, ours"][0]())
    for name, (run, is_float32) in found.items():
        picture = np.asarray(run())
        error = np.abs(picture - ours).max() / np.abs(ours).max()
        if name.startswith("torch") and is_float32 and error > 1e-3:
            raise SystemExit(f"{name} draws another picture: relative error {error:.1e}")
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, (run, _) in found.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(1e3 * (time.perf_counter() - start))
    console = Console()
    console.print(f"jax {jax.__version__}, torch {torch.__version__}, {size} px, x{multiplier:g}")
    ceiling = measure_ceilings(repeats)[f"{CONVOLUTION} float32 (TFLOP/s)"]
    table = Table("decoder, one frame", "ms (median)", "p95", "ours is faster by", box=None)
    reference = np.median(times["JAX, ours"])
    for name, values in times.items():
        median, p95 = np.percentile(values, [50, 95])
        table.add_row(name, f"{median:.0f}", f"{p95:.0f}", f"{median / reference:.2f}")
    console.print(table)
    console.print(f"XLA's 3x3 convolution in this run: {1e3 * ceiling:.0f} GFLOP/s")
    rate = flops / (1e-3 * reference)
    console.print(
        f"{flops / 1e9:.1f} GFLOP a frame as plain convolutions: ours is at {rate / 1e9:.0f} "
        f"GFLOP/s, {rate / (1e12 * ceiling):.0%} of that"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--multiplier", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    keep_freed_memory()  # torch gains by it, too
    race(arguments.size, arguments.multiplier, arguments.repeats)


if __name__ == "__main__":
    main()
