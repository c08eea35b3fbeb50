"""What a traced program will do: its products and convolutions, and the memory that it needs.

Both are read off the jaxpr, so nothing is compiled and no array is made. Work is exact. Memory
needs a guess at what a compiler fuses; the rules are those of `memory`, and how far they are off is
measured (docs/scaling.md).
"""

import collections
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

# Equations that stand for the program inside them.
INLINED = {
    "jit": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr", "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
}  # fmt: skip


class Operation(NamedTuple):
    """One equation of the flattened program; values are numbered."""

    name: str  # of the primitive
    scope: str  # the modules it stands in, "transpose(...)" for the gradient's part
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    equation: Any


class Program(NamedTuple):
    """A program in one piece, without what nothing depends on."""

    operations: list[Operation]
    avals: list[Any]  # by the value's number: shape and dtype
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    platform: str

    def bytes_of(self, value: int) -> int:
        return size_of(self.avals[value])


def size_of(aval: Any) -> int:
    """Bytes of an array, 0 of what is none (random keys are four words)."""
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended):
        return 16 * math.prod(aval.shape)
    return math.prod(aval.shape) * aval.dtype.itemsize


def tree_bytes(tree: Any) -> int:
    return sum(size_of(leaf) for leaf in jax.tree.leaves(tree))


def device_program(traced: jax.stages.Traced, platform: str) -> Program:
    """What one device does in a traced `parallel.data_parallel(step, mesh)`."""
    (equation,) = traced.jaxpr.eqns
    return flatten(equation.params["jaxpr"], platform)


def flatten(jaxpr: Any, platform: str) -> Program:
    """The program of a jaxpr, with what is called written out and the unneeded left out.

    platform: "cuda", "tpu", "cpu"; decides among the forms of `jax.lax.platform_dependent`.
    """
    flattener = _Flattener(platform)
    inputs = [flattener.new(v.aval) for v in jaxpr.invars]
    outputs = flattener.inline(jaxpr, inputs, "")
    program = Program(
        flattener.operations, flattener.avals, tuple(inputs), tuple(outputs), platform
    )
    wanted, kept = set(outputs), []
    for operation in reversed(program.operations):
        if not wanted.isdisjoint(operation.outputs) or operation.equation.effects:
            wanted |= set(operation.inputs)
            kept.append(operation)
    return program._replace(operations=kept[::-1])


class _Flattener:
    def __init__(self, platform: str) -> None:
        self.platform = platform
        self.operations: list[Operation] = []
        self.avals: list[Any] = []

    def new(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def inline(self, jaxpr: Any, arguments: Sequence[int], scope: str) -> list[int]:
        known: dict[Any, int] = dict(zip(jaxpr.invars, arguments, strict=True))
        known |= {v: self.new(v.aval) for v in jaxpr.constvars}

        def number(atom: Any) -> int:
            return self.new(atom.aval) if isinstance(atom, core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            name = equation.primitive.name
            parts = (scope, str(equation.source_info.name_stack))
            inner = "/".join(part for part in parts if part)
            inputs = tuple(number(atom) for atom in equation.invars)
            if name in INLINED:
                called = equation.params[INLINED[name]]
                outputs = self.inline(getattr(called, "jaxpr", called), inputs, inner)
            elif name == "cond" and equation.params.get("branches_platforms"):
                outputs = self.inline(self.form(equation), inputs[1:], inner)
            else:
                outputs = [self.new(v.aval) for v in equation.outvars]
                self.operations.append(Operation(name, inner, inputs, tuple(outputs), equation))
            known |= zip(equation.outvars, outputs, strict=True)
        return [number(atom) for atom in jaxpr.outvars]

    def form(self, equation: Any) -> Any:
        """The branch for this platform, else the default one."""
        platforms = equation.params["branches_platforms"]
        fits = [i for i, names in enumerate(platforms) if names and self.platform in names]
        index = fits[0] if fits else platforms.index(None)
        return equation.params["branches"][index].jaxpr


# Work


def work(program: Program, times: int = 1, scope: str = "") -> Iterator[tuple[str, str, int]]:
    """(scope, dtype, operations) of every product and convolution, two operations for each term.

    A convolution's terms are those with a pixel that exists: neither its padding nor the zeros
    between the pixels of a dilated input count. What the program itself pads before it does, as
    `ops.conv.conv` does: those zeros are an array's. Of the branches of a condition the dearest
    counts; loops of unknown length (`while`) are left out.
    """
    for operation in program.operations:
        equation, inside = operation.equation, f"{scope}/{operation.scope}"
        if operation.name == "scan":
            body = flatten(equation.params["jaxpr"].jaxpr, program.platform)
            yield from work(body, times * equation.params["length"], inside)
        elif operation.name == "cond":
            branches = (flatten(b.jaxpr, program.platform) for b in equation.params["branches"])
            counts = (list(work(branch, times, inside)) for branch in branches)
            yield from max(counts, key=lambda found: sum(count for *_, count in found))
        elif operation.name in TERMS:
            dtype = equation.invars[0].aval.dtype.name
            yield inside, dtype, 2 * times * TERMS[operation.name](equation)


def _product_terms(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return math.prod(out) * math.prod(left[i] for i in contracted)


def _convolution_terms(equation: Any) -> int:
    params = equation.params
    left, right, out = (v.aval.shape for v in (*equation.invars, *equation.outvars))
    numbers = params["dimension_numbers"]
    outputs = math.prod(out[i] for i in numbers.out_spec[:2])  # of one pixel
    terms = outputs * right[numbers.rhs_spec[1]]
    for axis, (before, _) in enumerate(params["padding"]):
        size, kernel, count = (
            shape[spec[2 + axis]]
            for shape, spec in (
                (left, numbers.lhs_spec), (right, numbers.rhs_spec), (out, numbers.out_spec),
            )
        )  # fmt: skip
        dilation = params["lhs_dilation"][axis]
        place = (
            np.arange(count)[:, None] * params["window_strides"][axis]
            + np.arange(kernel)[None] * params["rhs_dilation"][axis]
            - before
        )
        exists = (place % dilation == 0) & (place >= 0) & (place <= (size - 1) * dilation)
        terms *= int(exists.sum())
    return terms


def _attention_terms(products: int, equation: Any) -> int:
    query = equation.invars[0].aval.shape  # (b, n, heads, d), to every one of n
    return products * math.prod(query) * query[1]


TERMS = {
    "dot_general": _product_terms,
    "conv_general_dilated": _convolution_terms,
    # cuDNN's. Its gradient's products are four: that it computes the scores again is its own way.
    "dot_product_attention_fwd_wrapper": functools.partial(_attention_terms, 2),
    "dot_product_attention_bwd_wrapper": functools.partial(_attention_terms, 4),
}


# Memory


HEAVY = {
    "conv_general_dilated", "dot_general", "gather", "scatter", "scatter-add", "sort", "fft",
    "reduce_window_max", "reduce_window_sum", "reduce_window_min", "select_and_scatter_add",
    "select_and_gather_add", "scan", "while", "cond", "cumsum", "dynamic_slice",
    "dynamic_update_slice", "concatenate", "rng_bit_generator", "random_bits",
    "dot_product_attention_fwd_wrapper", "dot_product_attention_bwd_wrapper",
}  # fmt: skip
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "argmax"}
# The same bytes under another name.
VIEWS = {
    "reshape", "squeeze", "expand_dims", "transpose", "copy", "pvary", "pcast", "psum_invariant",
    "psum", "stop_gradient", "optimization_barrier", "copy_p",
}  # fmt: skip


class Memory(NamedTuple):
    """Bytes on a device."""

    arguments: int
    temporary: int  # at the fullest moment, arguments apart
    traffic: int  # written and read in a step, arguments included
    fullest: str  # the scope of the operation at which it is fullest
    largest: tuple[tuple[str, int], ...]  # what lies there then: scope and bytes


def memory(program: Program) -> Memory:
    """Plays the program through, in its own order, with a compiler's habits:

    products, convolutions, gathers and the like read and write arrays; all between them is
    computed where it is read, so that what lies in memory for it are the arrays it is computed
    from; but an operand of a heavy operation, and a sum of more than `MOST_FUSED` arrays, is
    written once. An array lies from the operation that writes it to the last that reads it.
    """
    play = _Play(program)
    for time, operation in enumerate(program.operations):
        play.step(2 * time, operation)
    return play.result(2 * len(program.operations))


def _bodies(equation: Any) -> list[Any]:
    """Programs inside a loop or a condition."""
    names = {"scan": ["jaxpr"], "while": ["body_jaxpr"]}.get(equation.primitive.name, [])
    branches = equation.params["branches"] if equation.primitive.name == "cond" else []
    return [closed.jaxpr for closed in (*(equation.params[name] for name in names), *branches)]


MOST_FUSED = 6
NONE: frozenset[int] = frozenset()


class _Play:
    def __init__(self, program: Program):
        self.program = program
        self.sources: dict[int, frozenset[int]] = {v: frozenset((v,)) for v in program.inputs}
        self.unpadded: dict[int, int] = {}
        self.names: dict[int, int] = {}  # of views: the value that they show
        self.born: dict[int, int] = {}
        self.last: dict[int, int] = {}
        self.scopes: dict[int, str] = {}
        self.extra: list[tuple[int, int]] = []
        self.traffic = 0

    def step(self, time: int, operation: Operation) -> None:
        name, scope = operation.name, operation.scope
        if name in HEAVY:
            folds = name == "conv_general_dilated"
            for value in operation.inputs:
                value = self.names.get(value, value)
                value = self.unpadded.get(value, value) if folds else value
                self.write_down(value, time, scope)
                self.read(self.of(value), time + 1)
            for value in operation.outputs:
                self.write(value, time + 1, scope)
            bodies = list(map(self.inside, _bodies(operation.equation)))
            turns = operation.equation.params["length"] if name == "scan" else 1
            self.extra.append((time + 1, max((body.temporary for body in bodies), default=0)))
            self.traffic += turns * max((body.traffic for body in bodies), default=0)
        elif name in REDUCTIONS:
            for value in operation.inputs:
                self.read(self.of(value), time + 1)
            for value in operation.outputs:
                self.write(value, time + 1, scope)
        elif name in VIEWS:
            for value, source in zip(operation.outputs, operation.inputs, strict=True):
                self.names[value] = self.names.get(source, source)
                if self.names[value] in self.unpadded:
                    self.unpadded[value] = self.unpadded[self.names[value]]
        else:
            sources = NONE.union(*(self.of(value) for value in operation.inputs))
            for value in operation.outputs:
                self.sources[value] = sources
                self.scopes[value] = scope
                if len(sources) > MOST_FUSED:
                    self.write_down(value, time, scope)
            if name == "pad":
                inner = self.names.get(operation.inputs[0], operation.inputs[0])
                self.unpadded[operation.outputs[0]] = inner

    def inside(self, body: Any) -> Memory:
        return memory(flatten(body, self.program.platform))

    def of(self, value: int) -> frozenset[int]:
        """The arrays that a value is computed from."""
        return self.sources.get(self.names.get(value, value), NONE)

    def write_down(self, value: int, time: int, scope: str) -> None:
        sources = self.of(value)
        if value in sources or not sources:
            return
        self.read(sources, time)
        self.write(value, time, scope)

    def write(self, value: int, time: int, scope: str) -> None:
        self.sources[value] = frozenset((value,))
        self.born[value] = self.last[value] = time
        self.scopes[value] = scope
        self.traffic += self.program.bytes_of(value)

    def read(self, values: frozenset[int], time: int) -> None:
        for value in values:
            self.last[value] = max(time, self.last.get(value, time))
            self.traffic += self.program.bytes_of(value)

    def result(self, end: int) -> Memory:
        program = self.program
        for value in program.outputs:
            self.read(self.of(value), end)
        changes: collections.Counter[int] = collections.Counter()
        for value, born in self.born.items():
            changes[born] += program.bytes_of(value)
            changes[self.last[value] + 1] -= program.bytes_of(value)
        for time, size in self.extra:
            changes[time] += size
            changes[time + 1] -= size
        now = most = when = 0
        for time in sorted(changes):
            now += changes[time]
            if now > most:
                most, when = now, time
        there = [v for v, born in self.born.items() if born <= when <= self.last[v]]
        there.sort(key=program.bytes_of, reverse=True)
        return Memory(
            arguments=sum(map(program.bytes_of, program.inputs)),
            temporary=most,
            traffic=self.traffic,
            fullest=program.operations[min(when // 2, len(program.operations) - 1)].scope,
            largest=tuple((self.scopes[v], program.bytes_of(v)) for v in there[:20]),
        )
