"""What is read off a compiled program, and programs for a GPU that is not here."""

import importlib.util
import os
import subprocess
import sys

import pytest

from data_pipeline.errors import InputError
from reta_jax.absent import devices_of
from reta_jax.benchmark import main
from reta_jax.kernels import Kernel, kernels_of, moved, network_of

PROGRAM = """HloModule jit_f, is_scheduled=true

%fused (p: bf16[4,8]) -> bf16[4,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %n = bf16[4,8]{1,0} negate(%p)
}

ENTRY %main (x.1: bf16[4,8], k.1: f32[8,3]) -> (f32[4,3], f32[2]) {
  %x.1 = bf16[4,8]{1,0} parameter(0), metadata={op_name="x"}
  %k.1 = f32[8,3]{1,0} parameter(1)
  %wrapped_transpose = f32[3,8]{1,0} fusion(%k.1), kind=kInput, calls=%t
  %loop_fusion = (bf16[4,8]{1,0}, f32[2]{0}) fusion(%x.1), kind=kLoop, calls=%fused, \
metadata={op_name="jit(f)/generator/level_8/mul"}
  %get-tuple-element = bf16[4,8]{1,0} get-tuple-element(%loop_fusion), index=0
  %get-tuple-element.1 = f32[2]{0} get-tuple-element(%loop_fusion), index=1
  %conv = (f32[4,3]{1,0}, u8[1048576]{0}) custom-call(%get-tuple-element, %wrapped_transpose), \
custom_call_target="__cudnn$convForward", metadata={op_name="jit(f)/Discriminator/conv"}
  %get-tuple-element.2 = f32[4,3]{1,0} get-tuple-element(%conv), index=0
  %gemm_fusion_dot.1 = f32[4,3]{1,0} fusion(%get-tuple-element.2, %k.1), kind=kCustom, calls=%g
  %copy.1 = f32[4,3]{0,1} copy(%gemm_fusion_dot.1)
  ROOT %tuple = (f32[4,3]{0,1}, f32[2]{0}) tuple(%copy.1, %get-tuple-element.1)
}
"""


def test_kernels_are_launches_with_the_bytes_of_their_operands():
    """Views are none, a library's room is not moved, what is inside a fusion is one launch."""
    assert kernels_of(PROGRAM) == [
        Kernel("transposition", "", 96, 96),
        Kernel("fusion", "jit(f)/generator/level_8/mul", 64 + 8, 64),
        Kernel("convolution", "jit(f)/Discriminator/conv", 48, 64 + 96),
        Kernel("product", "", 48, 48 + 96),
        Kernel("copy", "", 48, 48),
    ]
    assert moved(kernels_of(PROGRAM)) == 312 + 512
    names = [network_of(kernel.scope) for kernel in kernels_of(PROGRAM)[1:4]]
    assert names == ["G generator", "D discriminator", "all else"]


LOOPS = """HloModule jit_f, is_scheduled=true

%body (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %twice = f32[8]{0} fusion(%p), kind=kLoop, calls=%fused
}

%small (q: f32[8]) -> f32[8] {
  ROOT %q = f32[8]{0} parameter(0)
}

%large (r: f32[8]) -> f32[8] {
  %r = f32[8]{0} parameter(0)
  %one = f32[8]{0} fusion(%r), kind=kLoop, calls=%fused
  ROOT %two = f32[8]{0} fusion(%one), kind=kLoop, calls=%fused
}

ENTRY %main (x: f32[8], i: s32[]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %i = s32[] parameter(1)
  %loop = f32[8]{0} while(%x), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %either = f32[8]{0} conditional(%i, %loop, %loop), branch_computations={%small, %large}
  %start = (f32[8]{0}, f32[8]{0}) copy-start(%either)
  ROOT %done = f32[8]{0} copy-done(%start)
}
"""


def test_loops_count_as_often_as_they_turn_and_conditions_once():
    kinds = [kernel.kind for kernel in kernels_of(LOOPS)]
    assert kinds == ["fusion"] * (3 + 2) + ["copy"]


def test_a_target_without_a_compiler_is_one_sentence(capsys):
    install = r"uv pip install -c constraints\.txt --overrides overrides\.txt -e '\.\[tpu\]'"
    with pytest.raises(InputError, match=f"--compile=Z80: .*{install}.* targets are cpu, A100"):
        devices_of("Z80")
    with pytest.raises(SystemExit):
        main(["--compile", "Z80"])
    assert "invalid choice: 'Z80'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="CUDA's plugin is not installed"
)
def test_nothing_is_turned_around_for_a_gpu():
    """Of the generator: no kernel is transposed and no map copied."""
    done = subprocess.run(
        [sys.executable, "-m", "reta_jax.benchmark", "--paper", "--batch=1", "--compile=H100"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    row = next(line for line in done.stdout.splitlines() if line.strip().startswith("G generator"))
    transpositions, copies = row.split()[5:7]
    assert transpositions == copies == "0", done.stdout
