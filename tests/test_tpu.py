"""The model for accelerators that are not here: lowered on a CPU, and looked at.

Where libtpu is installed, the warp is compiled for a TPU too.
"""

import collections
import importlib.util
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import export

from reta_jax.models.generator import Generator
from reta_jax.models.stylegan import channels, resolutions
from reta_jax.ops.platforms import forms_of
from reta_jax.ops.warp import grid_sample

# Instructions of StableHLO that are another program's: of these a TPU knows other ones than a GPU.
CUSTOM_CALL = re.compile(r"stablehlo\.custom_call @(\w+)")
SIZE = 64  # the only level that a TPU gathers for: above 32 x 32 pixels


def lowered(function, platform, *arguments) -> str:
    with forms_of(platform):
        return export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()


def operations(text: str) -> collections.Counter:
    return collections.Counter(re.findall(r"(?<![#\w])stablehlo\.(\w+)", text))


def gathers(text: str) -> list[tuple[int, ...]]:
    """Shapes of what every gather reads."""
    found = re.findall(r'"stablehlo\.gather"\(.*: \(tensor<([0-9x]+)x\w+>', text)
    return [tuple(map(int, shape.split("x"))) for shape in found]


def abstract_generator():
    """One clip of two frames at 64 px in bfloat16, an eighth of the channels."""
    generator = Generator(SIZE, 32, 1 / 8, dtype=jnp.bfloat16)
    textures = tuple(
        jax.ShapeDtypeStruct((1, r, r, channels(r, 1 / 8)), jnp.bfloat16) for r in resolutions(SIZE)
    )
    code = jax.ShapeDtypeStruct((1, 2, 32), jnp.float32)
    variables = jax.eval_shape(generator.init, jax.random.key(0), textures, code, code)
    render = lambda *arguments: generator.apply(*arguments).frames
    return render, (variables, textures, code, code)


@pytest.mark.parametrize("platform, count", [("tpu", 4), ("cuda", 4)])
def test_the_renderer_lowers_without_foreign_code(platform, count):
    """TPU: four rows of the finest level's colours. GPU: a window of every level's map."""
    text = lowered(abstract_generator()[0], platform, *abstract_generator()[1])
    assert not CUSTOM_CALL.findall(text)
    shapes = gathers(text)
    assert len(shapes) == count
    if platform == "tpu":
        assert set(shapes) == {(1, SIZE**2, 3)}
    dilated = re.findall(r"lhs_dilate = \[2, 2\]|lhs_dilation = \[2, 2\]", text)
    # Up-convolutions are in four phases, or a strided convolution's transpose, as cuDNN knows them.
    assert len(dilated) == (len(resolutions(SIZE)) if platform == "cuda" else 0)


@pytest.mark.parametrize("platform, scatters", [("tpu", 4), ("cuda", 4)])
def test_the_gradient_lowers_without_foreign_code(platform, scatters):
    render, arguments = abstract_generator()

    def gradient(variables, textures, early, late):
        loss = lambda v, t: jnp.square(render(v, t, early, late)).mean()
        return jax.grad(loss, (0, 1))(variables, textures)

    text = lowered(gradient, platform, *arguments)
    assert not CUSTOM_CALL.findall(text)
    assert operations(text)["scatter"] == scatters


STEP = """
import jax
from configs.synthetic import get_config
from reta_jax import cost, parallel
from reta_jax.ops.platforms import forms_of

config = get_config("smoke")
config.model.update({"size": 16, "split_res": 16, "uv_resolution": 16, "dtype": "bfloat16"})
config.model.tcn.dilations, config.model.motion_encoder.channels = (1,), (4, 8)
config.model.audio_encoder.mel.layers = 1
config.tvm.resolution, config.loss.perceptual = 16, 0.0
config.train.update({"batch_size": 2, "eds": True})
job = cost.abstract_job(config)
step = parallel.data_parallel(job.step, cost.mesh_of(jax.devices()[:1]))
for platform in ("tpu", "cuda"):
    with forms_of(platform):
        traced = step.trace(job.state, job.constants, job.batch)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    print(text.count("stablehlo.custom_call"), text.count("stablehlo.convolution") > 0)
"""


@pytest.mark.slow
def test_the_training_step_lowers_without_foreign_code():
    """Every network and loss but VGG's, as one of many devices runs it.

    In a process whose types are not checked: JAX rebuilds the 3DMM with what is no array.
    """
    done = subprocess.run(
        [sys.executable, "-c", STEP], capture_output=True, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["0 True", "0 True"]


COMPILE = """
import re, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from reta_jax.ops.platforms import forms_of
from reta_jax.ops.warp import grid_sample

slice_ = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
place = SingleDeviceSharding(slice_.devices[0])
for size in (16, 128):  # dense, rows
    features = jax.ShapeDtypeStruct((2, size, size, 128), jnp.bfloat16, sharding=place)
    grid = jax.ShapeDtypeStruct((2, 2, size, size, 2), jnp.float32, sharding=place)
    gradient = jax.grad(lambda f, g: jnp.square(grid_sample(f, g)).sum(), (0, 1))
    with forms_of("tpu"):
        text = jax.jit(gradient).lower(features, grid).compile().as_text()
    print(size, len(re.findall(r" while[(]", text)), len(re.findall(r" gather[(]", text)))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_tpu_s_compiler_makes_no_loop_of_the_warp():
    environment = os.environ | {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    dense, rows = (tuple(map(int, line.split()))[1:] for line in done.stdout.splitlines()[-2:])
    assert dense == (0, 0)
    assert rows[0] == 0 and rows[1] > 0


def test_each_platform_gets_its_form_of_the_warp():
    """A program for all platforms carries all forms: each lowering has its own alone."""
    features = jax.ShapeDtypeStruct((1, 16, 16, 8), jnp.float32)
    grid = jax.ShapeDtypeStruct((1, 1, 16, 16, 2), jnp.float32)
    for platform, gathered, products in (("tpu", 0, 1), ("cuda", 1, 0), ("cpu", 1, 0)):
        found = operations(lowered(grid_sample, platform, features, grid))
        assert (found["gather"], found["dot_general"]) == (gathered, products), platform
