"""A model as two programs that run anywhere: python -m reta_jax.export --checkpoint DIR --out DIR

The folder holds the weights once and two StableHLO programs (`jax.export`) that take them: the
portrait's, and the chunk's. They serve any number of streams (the batch is symbolic) on every
platform that they were exported for, and need neither flax nor the model's code:
`reta_jax.exported` renders with them.

`python -m reta_jax.render --checkpoint exported …` takes such a folder too. With --onnx the same
two are ONNX models that hold the weights (inputs: the portrait; the window of sound, f_STY, f_TEX).
Compiled programs are kept in the user's cache, so the second start takes seconds. With --compile,
what XLA makes of the two for one stream on this machine lies beside them, so that another machine
of its kind starts as quickly the first time. It is machine code, and used where it is asked for:

    JAX_COMPILATION_CACHE_DIR=exported/xla python -m reta_jax.render --checkpoint exported …

Scripts that are no command of ours say JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES=none besides.
"""

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import Array

from data_pipeline.errors import InputError
from reta_jax import __version__
from reta_jax.commands import PORTABLE_CACHE, check_device, sentences_for_errors, set_up_xla
from reta_jax.exported import ENCODE, KIND, RENDER, SEAL, ExportedRenderer, seal_of, sha256_of
from reta_jax.models.reta import Controls
from reta_jax.ops.platforms import forms_of
from reta_jax.pretrained.licences import print_licences
from reta_jax.render import add_choices
from reta_jax.renderer import Renderer, encode_portrait, render_chunk
from reta_jax.weights import (
    CONFIG_FILE,
    SHIPPED_WEIGHTS,
    as_float32,
    check_outside,
    check_target,
    checksum,
    flatten,
    new_folder,
    save_weights,
)

PLATFORMS = ("cpu", "cuda", "tpu")
ONNX = "onnx"
RENDER_ONNX = f"{Path(RENDER).stem}.{ONNX}"
COMPILED = "xla"


class ExportedFunction(NamedTuple):
    """A function of weights and arrays, for any number of streams."""

    function: Callable[..., Any]
    arrays: tuple[Any, ...]  # their shapes


def export(renderer: Renderer, folder: Path, platforms: Sequence[str] = PLATFORMS) -> None:
    """Writes a renderer's two programs and its weights, complete or not at all.

    Raises:
      InputError: it cannot be written there, or there is something else.
    """
    check_target(folder, KIND)
    weights = _weights(renderer, platforms[0] if len(platforms) == 1 else None)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
    (batch,) = jax_export.symbolic_shape("batch")
    files = {
        name: _stablehlo(program.function, platforms, abstract, *program.arrays)
        for name, program in _programs(renderer, abstract, batch).items()
    }
    values = _about(renderer, KIND, files) | {
        "platforms": list(platforms),
        "jax": jax.__version__,
        "crc32": checksum(as_float32(flatten(weights))),
    }
    save_weights(folder, weights, values | {SEAL: seal_of(values)}, files=files)


def export_onnx(renderer: Renderer, folder: Path) -> None:
    """Writes the same two programs for one stream as ONNX models, which hold the weights.

    Complete or not at all.

    Raises:
      InputError: it cannot be written there, there is something else, or the converter is not
        installed.
    """
    check_target(folder, ONNX, RENDER_ONNX)
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise InputError(
            "ONNX needs the extra onnx (Python 3.12 or newer): docs/export.md has its command"
        ) from error
    weights, files = _weights(renderer, None), {}
    for name, program in _programs(renderer, weights, 1).items():
        function = functools.partial(program.function, weights)
        with forms_of("simple"):
            model = to_onnx(function, program.arrays, model_name=Path(name).stem)
        files[f"{Path(name).stem}.{ONNX}"] = model.SerializeToString()
    about = json.dumps(_about(renderer, ONNX, files), indent=1)
    with new_folder(folder, RENDER_ONNX) as new:
        for name, content in (files | {CONFIG_FILE: about.encode()}).items():
            (new / name).write_bytes(content)


def keep_compiled(folder: Path) -> None:
    """Renders a chunk of one stream, and keeps in the folder all that is compiled for it.

    Raises:
      InputError: it cannot be written there.
    """
    cache = str(folder / COMPILED)
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": cache,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        **PORTABLE_CACHE,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    _use_cache(settings)
    try:
        jax.clear_caches()  # what this process has compiled already would not be written
        renderer = ExportedRenderer.load(folder)
        portrait = np.zeros((renderer.size, renderer.size, 3), np.uint8)
        renderer.render(portrait, np.zeros(1, np.float32))
    finally:
        _use_cache(before)
    if not any(Path(cache).glob("*")):
        raise InputError(f"nothing that was compiled could be written to {cache}")


def _use_cache(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # it remembers its folder


def _weights(renderer: Renderer, platform: str | None) -> dict[str, Any]:
    """All that decides what a renderer makes, as arguments of its programs."""
    weights: dict[str, Any] = {
        "params": renderer.prepare(platform),
        "uv_expression": renderer.morphable.uv_expression,
    }
    if renderer.silence is not None:
        weights["silence"] = {k: x for k, x in renderer.silence._asdict().items() if x is not None}
    return weights


def _programs(renderer: Renderer, weights: Any, batch: Any) -> dict[str, ExportedFunction]:
    """What encodes portraits and what renders chunks, by name, and what they take."""
    reta, size = renderer.reta, renderer.size

    def look(weights: Any, portrait: Array) -> Any:
        return encode_portrait(reta, weights["params"], portrait)

    def encode(weights: Any, portrait: Array) -> tuple[Array, ...]:
        return tuple(jax.tree.leaves(look(weights, portrait)))

    def chunk(weights: Any, audio: Array, *identity: Array) -> Array:
        morphable = renderer.morphable.replace(uv_expression=weights["uv_expression"])
        silence = None
        if renderer.silence is not None:
            silence = Controls(*(weights["silence"].get(name) for name in Controls._fields))
        identity = jax.tree.unflatten(structure, identity)
        return render_chunk(reta, weights["params"], morphable, identity, audio, silence)

    shape = lambda *sides, dtype=jnp.float32: jax.ShapeDtypeStruct((batch, *sides), dtype)
    portrait, audio = shape(size, size, 3, dtype=jnp.uint8), shape(renderer.window.samples)
    structure = jax.tree.structure(jax.eval_shape(look, weights, portrait))
    identity = jax.eval_shape(encode, weights, portrait)
    return {
        ENCODE: ExportedFunction(encode, (portrait,)),
        RENDER: ExportedFunction(chunk, (audio, *identity)),
    }


def _about(renderer: Renderer, kind: str, files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "kind": kind,
        "reta_jax": __version__,
        "size": renderer.size,
        "window": list(renderer.window),
        "provenance": list(renderer.provenance),
        "sha256": {name: sha256_of(program) for name, program in files.items()},
    }


def _stablehlo(function: Any, platforms: Sequence[str], *arguments: Any) -> bytes:
    with forms_of(*platforms):
        exported = jax_export.export(jax.jit(function), platforms=platforms)(*arguments)
    return bytes(exported.serialize())


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.export", description="A model as programs that run anywhere."
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=SHIPPED_WEIGHTS, help="weights folder or workdir"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--platforms", nargs="+", choices=PLATFORMS, help="to run on; by default all"
    )
    parser.add_argument("--chunk", type=int, help="frames a call; the model's own by default")
    more = parser.add_mutually_exclusive_group()
    more.add_argument(
        "--compile", action="store_true", help="keep what is compiled for machines like this, too"
    )
    more.add_argument(
        "--onnx", action="store_true", help="ONNX models instead, for one stream at a time"
    )
    add_choices(parser)
    return parser.parse_args(argv)


def _platforms(arguments: argparse.Namespace) -> list[str]:
    """Each once."""
    return list(dict.fromkeys(arguments.platforms or PLATFORMS))


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raises InputError for what would fail, or destroy something, when the work is done."""
    check_target(arguments.out, *((ONNX, RENDER_ONNX) if arguments.onnx else (KIND,)))
    check_outside(arguments.checkpoint, arguments.out)
    if arguments.onnx and arguments.platforms:
        raise InputError("--onnx models are for every platform: leave --platforms out")
    platform = jax_export.default_export_platform()
    if arguments.compile and platform not in _platforms(arguments):
        raise InputError(
            f"--compile is for machines like this one, which is {platform}: add {platform} to "
            f"--platforms, or leave --compile out"
        )


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with sentences_for_errors():
        check_device()
        check_arguments(arguments)
        renderer = Renderer.from_pretrained(
            arguments.checkpoint,
            arguments.close_in_silence,
            arguments.dtype,
            arguments.expression_scale,
        )
        print_licences(renderer.provenance)
        if arguments.chunk is not None:
            renderer = renderer.with_chunk(arguments.chunk)
        if arguments.onnx:
            export_onnx(renderer, arguments.out)
        else:
            export(renderer, arguments.out, _platforms(arguments))
            if arguments.compile:
                keep_compiled(arguments.out)
        megabytes = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
        megabytes /= 1e6
    readers = ONNX if arguments.onnx else ", ".join(_platforms(arguments))
    print(f"{arguments.out}: {megabytes:.1f} MB for {readers}")


if __name__ == "__main__":
    set_up_xla()
    main()
