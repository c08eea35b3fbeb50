"""What a run will take: work against sums done by hand, memory against a compiler."""

import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive

from configs.synthetic import get_config
from data_pipeline.errors import InputError
from reta_jax import cost
from reta_jax.cost import ACCELERATORS, all_reduce_seconds, efficiency, ring_seconds
from reta_jax.program import flatten, memory, work
from tests.light import LIGHT_MODEL

ROOT = Path(__file__).parents[1]
SMALL = LIGHT_MODEL | {  # of configs/synthetic.py: what traces and compiles in seconds
    "tvm.resolution": 16, "loss.perceptual": 0.0, "loss.emotion": 0.0, "train.eds": False,
}  # fmt: skip


def small_config():
    config = get_config("smoke")
    config.update_from_flattened_dict(SMALL)
    return config


def program_of(function, *shapes, dtype=jnp.float32):
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return flatten(jax.make_jaxpr(function)(*arguments).jaxpr, "cuda")


def flops_of(function, *shapes):
    return sum(count for *_, count in work(program_of(function, *shapes)))


# Work


def test_products_are_counted():
    assert flops_of(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    batched = lambda a, b: jnp.einsum("bij,bjk->bik", a, b)
    assert flops_of(batched, (4, 3, 5), (4, 5, 7)) == 2 * 4 * 3 * 5 * 7


@pytest.mark.parametrize("stride, pad, inside, outside, groups", [
    (1, 0, 1, 1, 1), (1, 1, 1, 1, 1), (2, 1, 1, 1, 1), (1, 2, 2, 1, 1), (1, 2, 1, 2, 1),
    (1, 1, 1, 1, 2),
])  # fmt: skip
def test_convolutions_count_terms_with_a_pixel(stride, pad, inside, outside, groups):
    """Against a convolution of ones, each of whose results is the number of its terms."""

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), ((pad, pad), (pad, pad)), lhs_dilation=(inside, inside),
            rhs_dilation=(outside, outside), feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    shapes = (2, 9, 7, 4), (3, 3, 4 // groups, 6)
    terms = convolve(*(jnp.ones(shape) for shape in shapes)).sum()
    assert flops_of(convolve, *shapes) == 2 * int(terms)


@pytest.mark.parametrize(("direction", "products"), [("fwd", 2), ("bwd", 4)])
def test_attention_of_a_library_is_as_many_products_as_without_it(direction, products):
    """JAX's name for what only a GPU's library can do."""
    primitive = Primitive(f"dot_product_attention_{direction}_wrapper")
    primitive.def_abstract_eval(lambda query, *_: query)
    flops = flops_of(lambda *parts: primitive.bind(*parts), *[(2, 10, 3, 4)] * 3)
    assert flops == products * 2 * (2 * 3 * 10 * 10 * 4)


def test_gradients_of_a_convolution_are_counted():
    """Both have as many terms as the convolution itself."""

    def loss(x, kernel):
        out = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (out**2).sum()

    shapes = (2, 8, 8, 4), (3, 3, 4, 6)
    forward = flops_of(loss, *shapes)
    assert flops_of(jax.grad(loss, (0, 1)), *shapes) == 3 * forward


def test_what_is_called_counts_and_what_is_not_needed_does_not():
    product = jax.custom_vjp(lambda a, b: a @ b)
    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    shapes, once = ((3, 5), (5, 7)), 2 * 3 * 5 * 7

    def function(a, b):
        a @ jnp.ones((5, 9))  # nobody reads it
        called = jax.jit(product)(a, b) + jax.checkpoint(lambda a: a @ b)(a)
        repeated = jax.lax.scan(lambda c, _: (c @ (b @ b.T), None), a, None, length=4)[0]
        return called, repeated

    scanned = 4 * 2 * (5 * 7 * 5 + 3 * 5 * 5)
    assert flops_of(function, *shapes) == 2 * once + scanned


def test_the_platform_s_form_counts():
    def function(a, b):
        twice = lambda a, b: (a @ b) @ (b.T @ b)
        return jax.lax.platform_dependent(a, b, tpu=twice, default=jnp.matmul)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 5), (5, 5))]
    jaxpr = jax.make_jaxpr(function)(*shapes).jaxpr
    counts = {p: sum(n for *_, n in work(flatten(jaxpr, p))) for p in ("tpu", "cuda")}
    assert counts["cuda"] == 2 * 3 * 5 * 5
    assert counts["tpu"] == 2 * (3 * 5 * 5 + 5 * 5 * 5 + 3 * 5 * 5)


def test_work_knows_its_network_and_direction():
    step = cost.analyse(cost.abstract_job(small_config()), 2)
    networks = {network for network, _, _ in step.flops}
    assert {"G generator", "E_I image encoder", "D discriminator"} <= networks
    forward, gradient = (step.flops["G generator", back, "float32"] for back in (False, True))
    assert 1.5 * forward < gradient < 2.5 * forward  # two products for each
    assert step.reduced == pytest.approx(4 * trained_parameters(), rel=0.01)


def trained_parameters():
    config = small_config()
    counts = cost.parameter_counts(config, cost.abstract_job(config))
    return sum(trained for _, trained in counts.values())


def test_what_train_only_leaves_out_is_frozen():
    config = small_config()
    config.train.only = ("generator",)
    counts = cost.parameter_counts(config, cost.abstract_job(config))
    moving = {network for network, (_, trained) in counts.items() if trained}
    assert moving == {"G generator", "D discriminator"}
    every, trained = counts["G generator"]
    assert every == trained < sum(count for count, _ in counts.values())


# Memory


def test_a_chain_forgets_and_its_gradient_remembers():
    """Squares of 1 MB: going forward two lie there at once, for the gradient all that it reads."""
    layers, size = 8, 4 * 512 * 512

    def forward(x, w):
        for _ in range(layers):
            x = jax.nn.relu(x @ w)
        return x.sum()

    shapes = (512, 512), (512, 512)
    assert memory(program_of(forward, *shapes)).arguments == 2 * size
    assert memory(program_of(forward, *shapes)).temporary < 3.1 * size
    kept = memory(program_of(jax.grad(forward, 1), *shapes)).temporary
    assert layers * size < kept < (2 * layers + 4) * size


def test_what_a_loop_writes_and_reads_counts_at_every_turn():
    """Of accumulated micro-batches: as much as if they stood one after another."""

    def chain(x, w, turns):
        for _ in range(turns):
            x = jax.nn.relu(x @ w)
        return x

    def loop(x, w):
        return jax.lax.scan(lambda x, _: (chain(x, w, 5), None), x, None, length=20)[0]

    shapes = (64, 64), (64, 64)
    straight = memory(program_of(lambda x, w: chain(x, w, 100), *shapes)).traffic
    assert memory(program_of(loop, *shapes)).traffic == pytest.approx(straight, rel=0.1)


def test_memory_is_that_of_a_compiled_network():
    """A small network's gradient, 10 MB of it, against XLA's plan for a CPU."""

    def loss(kernels, x):
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.leaky_relu(x, 0.2)
        return jnp.abs(x).mean()

    kernels = [jax.ShapeDtypeStruct((3, 3, 16, 16), jnp.float32)] * 6
    arguments = kernels, jax.ShapeDtypeStruct((8, 32, 32, 16), jnp.float32)
    gradient = jax.jit(jax.grad(loss))
    estimate = memory(flatten(gradient.trace(*arguments).jaxpr.jaxpr, "cuda")).temporary
    compiled = gradient.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    np.testing.assert_allclose(estimate, compiled, rtol=0.15)


def test_what_lies_there_between_steps():
    config = small_config()
    job = cost.abstract_job(config)
    counts = cost.parameter_counts(config, job)
    trained = sum(count for _, count in counts.values())
    parameters = sum(
        math.prod(x.shape) for x in jax.tree.leaves((job.state.params, job.state.d_params))
    )
    parts = cost.resident(job, 2)
    assert parts["parameters"] == 4 * parameters == 4 * trained  # here nothing of them is frozen
    assert parts["optimizer state"] == pytest.approx(8 * trained, rel=1e-3)  # Adam's two moments
    clip = 16 * 16 * 3 * (config.train.frames + 1) + 4 * (62 * 640 + 1 + 80 * 16 + 4)
    assert parts["batch, twice"] == 2 * clip * config.train.batch_size // 2


def test_no_parameter_is_allocated():
    job = cost.abstract_job(small_config())
    abstract = jax.tree.leaves((job.state, job.constants.experts, job.batch))
    assert abstract and all(isinstance(x, jax.ShapeDtypeStruct) for x in abstract)


# Arithmetic


def test_a_ring_sends_everything_twice_but_its_own_share():
    assert ring_seconds(1e9, 2, 10) == pytest.approx(0.1)
    assert ring_seconds(1e9, 8, 10) == pytest.approx(2 * 7 / 8 * 0.1)
    assert ring_seconds(1e9, 1, 10) == 0


def test_between_groups_goes_each_device_s_share():
    device = ACCELERATORS[1]  # 8 neighbours at 450 GB/s, 50 beyond
    inside = ring_seconds(1e9, 8, 450)
    assert all_reduce_seconds(1e9, 8, device) == pytest.approx(inside)
    expected = inside + ring_seconds(1e9 / 8, 2, 50)
    assert all_reduce_seconds(1e9, 16, device) == pytest.approx(expected)


def test_efficiency_counts_what_is_not_hidden():
    assert efficiency(3, 1) == pytest.approx(0.75)
    assert efficiency(3, 1, hidden=0.5) == 1
    assert efficiency(1, 1, hidden=0.5) == pytest.approx(1 / 1.5)


def test_prices_are_replaced_by_name():
    changed = {device.name: device.dollars for device in cost.priced(["H100=2.5", "v5e=0.9"])}
    assert (changed["H100"], changed["v5e"]) == (2.5, 0.9)
    assert changed["A100"] == ACCELERATORS[0].dollars
    for wrong in ("H100", "H100=cheap", "B200=1"):
        with pytest.raises(InputError, match="--price"):
            cost.priced([wrong])


# The command


def run(*flags: str) -> subprocess.CompletedProcess:
    settings = [f"--config.{name}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "reta_jax.train", "--config=configs/synthetic.py:smoke"]
    return subprocess.run(
        [*command, *settings, *flags], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_prints_and_trains_nothing(tmp_path):
    workdir = tmp_path / "run"
    done = run("--dry-run", "--devices=2", "--price=H100=9.99", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    for words in ("4 clips of 2 frames", "9.99", "G generator", "optimizer state", "1,024"):
        assert words in done.stdout
    assert "the paper's run on 8" in done.stdout
    assert not workdir.exists()


def test_flags_that_cannot_be_meant_are_sentences():
    done = run("--dry-run", "--devices=3")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: train.batch_size=4 does not divide over 3 devices"
    )


# A step that is timed


STEP = str(ROOT / "benchmarks" / "training_step.py")
TIMED = f"""
import json, runpy
from tests.test_cost import small_config
config = small_config()
config.train.adversarial_start = config.train.steps  # never
print(json.dumps(runpy.run_path({STEP!r})["measure"](config, repeats=2)))
"""


def test_a_timed_step_has_the_work_that_is_counted():
    """In a process without type checks, which compiling ahead of time does not go with."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, config = json.loads(done.stdout.splitlines()[-1]), small_config()
    config.train.adversarial_start = config.train.steps
    work = cost.analyse(cost.abstract_job(config), 1, "cpu").total()
    (total,) = found["teraflop"].values()  # float32's
    np.testing.assert_allclose(total, 1e-12 * work)
    np.testing.assert_allclose(sum(found["by_network"].values()), total)
    assert "D discriminator" not in found["by_network"]
    median, *_ = found["milliseconds"]
    np.testing.assert_allclose(found["teraflops"], 1e3 * total / median)
    clips, frames = config.train.batch_size, config.train.frames
    np.testing.assert_allclose(found["frames_per_second"], 1e3 * clips * frames / median)
    assert found["megabytes"] > 1


def test_work_of_two_dtypes_has_two_peaks():
    script = runpy.run_path(STEP)
    peaks = script["peaks_of"]
    assert peaks("NVIDIA H200") == peaks("NVIDIA H100 80GB HBM3") == {
        "bfloat16": 989, "float32": 494
    }  # fmt: skip
    assert peaks("TPU v5 lite")["bfloat16"] == 197 and peaks("cpu") is None
    found = {"teraflop": {"bfloat16": 30.0, "float32": 10.0}, "milliseconds": [500.0]}
    share = script["share_of"](found, {"bfloat16": 300.0, "float32": 100.0})
    np.testing.assert_allclose(share, 0.4)  # 0.1 s and 0.1 s of half a second
