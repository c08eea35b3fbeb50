"""Kernels of a compiled program: how many, whose, and the bytes that each writes and reads.

Read off the text of the program that `reta_jax.absent` had compiled for a GPU that is not here. It
is no measurement: a device tries out algorithms, may do products in generated kernels, and small
kernels wait for the one before them. Bytes are those of whole operands, nothing in a cache.
"""

import collections
import math
import re
from typing import NamedTuple

from jax.stages import Compiled
from rich.table import Table

from reta_jax.absent import GPU
from reta_jax.report import wide_console

NETWORKS = {  # by the name that stands in the scope of an operation; the first that fits
    "VGG19": "VGG-19", "EmotionViT": "teacher T", "SyncNetExpert": "sync expert",
    "LandmarkNet": "lip expert",
    "Discriminator": "D discriminator", "image_encoder": "E_I image encoder",
    "audio_encoder": "E_A audio encoder", "motion_decoder": "D motion decoder",
    "motion_encoder": "E_M motion encoder", "emotion_student": "S emotion student",
    "generator": "G generator", "": "all else",
}  # fmt: skip
VIEWS = {"parameter", "get-tuple-element", "bitcast", "tuple", "constant"}
ITEM_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8,
}  # fmt: skip
ARRAY = re.compile(rf"\b({'|'.join(ITEM_BYTES)})\[([\d,]*)\]")
CALLS = {
    "while": "body", "call": "to_apply",
    "conditional": "branch_computations|true_computation|false_computation",
}  # fmt: skip
COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
ORDER = {
    "fusion": "fusions", "convolution": "convolutions", "product": "products",
    "transposition": "transpositions", "copy": "copies",
}  # fmt: skip
KINDS = {
    "__cudnn$conv": "convolution", "__cudnn$fmha": "product", "__cublas": "product",
    "__triton": "product",
}  # fmt: skip


class Kernel(NamedTuple):
    """An instruction of the compiled program that is a launch."""

    kind: str  # of ORDER
    scope: str
    written: int  # bytes
    read: int


def kernels_of(program: str) -> list[Kernel]:
    """The launches of a compiled program, from its text.

    Loops count as often as they turn, of the branches of a condition the one that moves most.
    """
    found: dict[str, list[str]] = {}
    for line in program.splitlines():
        if head := COMPUTATION.match(line):
            lines = found.setdefault("ENTRY" if head[1] else head[2], [])
        elif found:
            lines.append(line)
    return _launches("ENTRY", found)


def _launches(computation: str, computations: dict[str, list[str]]) -> list[Kernel]:
    found: list[Kernel] = []
    shapes: dict[str, str] = {}
    for name, shape, opcode, rest in map(_parts, computations[computation]):
        shapes[name] = shape
        if opcode in VIEWS or opcode.endswith("-done"):
            continue
        inside = [_launches(called, computations) for called in _called(opcode, rest)]
        if inside:
            turns = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
            found += max(inside, key=moved) * int(turns[1] if turns else 1)
            continue
        operands = re.findall(r"%([\w.\-]+)", rest.split(")")[0])
        scope = re.search(r'op_name="([^"]*)"', rest)
        found.append(
            Kernel(
                kind_of(name, opcode, rest),
                scope[1] if scope else "",
                bytes_of(shape),
                sum(bytes_of(shapes[operand]) for operand in operands),
            )
        )
    return found


def _parts(line: str) -> tuple[str, str, str, str]:
    """Name, shape, opcode and the rest of an instruction; of another line, a view of nothing."""
    match = INSTRUCTION.match(line)
    if not match:
        return "", "", "parameter", ""
    name, shape, opcode, rest = match.groups()
    if opcode == "custom-call":  # a library's room to work in comes last, and moves nothing
        shape = re.sub(r", [su]8\[\d+\]\{0\}\)$", ")", shape)
    return name, shape, opcode, rest


def _called(opcode: str, rest: str) -> list[str]:
    """Computations that are launched one kernel at a time."""
    if opcode not in CALLS:
        return []
    return [
        name
        for group in re.findall(rf"(?:{CALLS[opcode]})=\{{?((?:%[\w.\-]+(?:, )?)+)", rest)
        for name in re.findall(r"%([\w.\-]+)", group)
    ]


def kind_of(name: str, opcode: str, rest: str) -> str:
    """The key of ORDER, from what the compiler calls an instruction and its library's target."""
    target = re.search(r'custom_call_target="([^"]*)"', rest)
    for prefix, kind in KINDS.items():
        if target and target[1].startswith(prefix):
            return kind
    if "gemm_fusion" in name or opcode == "dot":
        return "product"
    if name.startswith("wrapped_transpose"):
        return "transposition"
    return "copy" if opcode.startswith("copy") else "fusion"


def bytes_of(shape: str) -> int:
    """Of an array, or of all in a tuple."""
    return sum(
        ITEM_BYTES[dtype] * math.prod(int(n) for n in sizes.split(",") if n)
        for dtype, sizes in ARRAY.findall(shape)
    )


def network_of(scope: str) -> str:
    return next(name for key, name in NETWORKS.items() if key in scope)


def print_kernels(compiled: Compiled, gpu: GPU, frames: int) -> None:
    """The kernels by network, and the time that their bytes take at the memory's published rate.

    Args:
      frames: that one call makes or trains on.
    """
    kernels, plan = kernels_of(compiled.as_text()), compiled.memory_analysis()
    console = wide_console()
    groups: dict[str, list[Kernel]] = collections.defaultdict(list)
    for kernel in kernels:
        groups[network_of(kernel.scope)].append(kernel)
    rows = dict(sorted(groups.items(), key=lambda item: -moved(item[1]))) | {"together": kernels}
    table = Table("kernels of", *ORDER.values(), "MB written", "MB read", box=None)
    for name, group in rows.items():
        counts = collections.Counter(kernel.kind for kernel in group)
        bytes_ = (sum(kernel.written for kernel in group), sum(kernel.read for kernel in group))
        figures = *(str(counts[kind]) for kind in ORDER), *(f"{1e-6 * n:,.0f}" for n in bytes_)
        table.add_row(name, *figures)
    console.print(table)
    milliseconds = 1e-6 * moved(kernels) / gpu.gigabytes_per_second
    console.print(
        f"{gpu.name}: {len(kernels)} kernels, {1e-6 * moved(kernels) / frames:,.0f} MB a frame; at "
        f"the published rate of its memory {milliseconds:.2f} ms, that is at most "
        f"{1e3 * frames / milliseconds:,.0f} frames/s (no measurement)"
    )
    console.print(
        f"memory as planned: {1e-6 * plan.argument_size_in_bytes:,.0f} MB of weights and inputs, "
        f"{1e-6 * plan.output_size_in_bytes:,.0f} of results, "
        f"{1e-6 * plan.temp_size_in_bytes:,.0f} between"
    )


def moved(kernels: list[Kernel]) -> int:
    """Bytes."""
    return sum(kernel.written + kernel.read for kernel in kernels)
