"""Devices that are not here. Their compilers take programs for them all the same.

A program compiled so is the one that the device would run, up to what is chosen by trying it out:
the algorithms of GPU libraries, and which products they do instead of generated kernels.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from data_pipeline.errors import InputError

# No trying out without a device; and products are the libraries', for what generates kernels for
# them relies on trials.
WITHOUT_TRIALS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


# In the project's folder, where the constraints lie.
_INSTALL = ".venv/bin/python -m uv pip install -c constraints.txt --overrides overrides.txt"


class GPU(NamedTuple):
    """What a compiler asks of an NVIDIA GPU; published figures."""

    name: str
    capability: int  # major
    cores: int  # streaming multiprocessors
    clock: float  # GHz
    gigabytes: int
    gigabytes_per_second: int
    l2_megabytes: int
    shared_kilobytes: int  # of a core; a block may have one less


GPUS = {
    "A100": GPU("NVIDIA A100-SXM4-80GB", 8, 108, 1.41, 80, 2039, 40, 164),
    "H100": GPU("NVIDIA H100 80GB HBM3", 9, 132, 1.98, 80, 3350, 50, 228),
    "H200": GPU("NVIDIA H200", 9, 132, 1.98, 141, 4800, 50, 228),
}


def devices_of(target: str) -> Sequence[Any]:
    """Devices to compile for: of "cpu", of a GPU in `GPUS`, or of a TPU slice such as "v5e:2x2".

    Raises:
      InputError: the plugin with the compiler is not installed, or it knows no such device.
    """
    if target == "cpu":
        return jax.devices("cpu")[:1]
    try:
        return _gpu(GPUS[target]) if target in GPUS else _tpu(target)
    except Exception as error:  # of the plugins' loaders, of many types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        extra = "tpu" if is_slice(target) else "cuda13"
        raise InputError(
            f"--compile={target}: {reason} (it takes {_INSTALL} -e '.[{extra}]', and "
            f"JAX_PLATFORMS=cpu where there is no such device; targets are cpu, {', '.join(GPUS)}, "
            "and TPU slices such as v5e:2x2)"
        ) from error


def is_slice(target: str) -> bool:
    return target != "cpu" and target not in GPUS


def platform_of(target: str) -> str:
    """Whose forms its programs take: "cpu", "cudnn" or "tpu"."""
    return "tpu" if is_slice(target) else "cudnn" if target in GPUS else target


def compiler_options(target: str) -> dict[str, Any]:
    return WITHOUT_TRIALS if target in GPUS else {}


def _tpu(target: str) -> Sequence[Any]:
    if jax.default_backend() != "tpu":  # libtpu would look for a cloud to ask
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    return topologies.get_topology_desc(platform="tpu", topology_name=target).devices


def _gpu(gpu: GPU) -> Sequence[Any]:
    described = _DESCRIPTION.format(
        **gpu._asdict(),
        memory=gpu.gigabytes * 10**9,
        bandwidth=gpu.gigabytes_per_second * 10**9,
        l2=gpu.l2_megabytes * 2**20,
        shared=gpu.shared_kilobytes * 2**10,
        shared_optin=(gpu.shared_kilobytes - 1) * 2**10,
    )
    return topologies.get_topology_desc(
        platform="cuda", target_config=described, topology="1x1x1"
    ).devices


_DESCRIPTION = """
gpu_device_info {{
  name: "{name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {capability} }}
  core_count: {cores}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  memory_bandwidth: {bandwidth}
  l2_cache_size: {l2}
  shared_memory_per_core: {shared}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_optin}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  fpus_per_core: 128
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_address_bits: 64
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""
