"""Renders with what `reta_jax.export` wrote; needs neither flax nor the model's code.

renderer = ExportedRenderer.load("exported")
frames = renderer.render(portrait, waveform)  # as Renderer does
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Float, UInt8

from data_pipeline.errors import InputError
from reta_jax import __version__
from reta_jax.weights import CONFIG_FILE, PARAMS_FILE, checksum, flatten, load_weights
from reta_jax.windows import AudioWindow, ChunkRenderer

KIND = "exported"
ENCODE, RENDER = "encode_portrait.stablehlo", "render_chunk.stablehlo"
SEAL = "seal"


def is_exported(folder: Path) -> bool:
    """Whether `export` wrote this folder."""
    return (Path(folder) / RENDER).is_file()


class ExportedRenderer(ChunkRenderer):
    """An exported model, ready to render; the interface is `reta_jax.renderer.Renderer`'s.

    Args:
      size: of the frames in pixels.
      encode, render: jitted programs of the weights and arrays.
      provenance: records of the weights behind it.
    """

    def __init__(
        self,
        weights: Any,
        size: int,
        window: AudioWindow,
        encode: Any,
        render: Any,
        provenance: Sequence[dict[str, Any]] = (),
    ):
        self.weights, self.size, self.window = weights, size, window
        self.provenance = provenance
        self.closes_in_silence = "silence" in weights
        self._encode, self._render = encode, render

    @classmethod
    def load(cls, folder: str | Path) -> "ExportedRenderer":
        """Reads a folder that `export` wrote.

        Raises:
          InputError: it is none, it is damaged, or it is not of this version, this platform or
            this JAX.
        """
        folder = Path(folder)
        weights, values = load_weights(folder)
        if values.get("kind") != KIND:
            raise InputError(f"{folder} holds {values.get('kind')!r} weights, no exported model")
        said = {name: value for name, value in values.items() if name not in (SEAL, "format")}
        if values.get(SEAL) != seal_of(said):
            raise InputError(
                f"{folder / CONFIG_FILE} is not what the export wrote there: export the model again"
            )
        if values["reta_jax"] != __version__:
            raise InputError(
                f"{folder} was exported by reta_jax {values['reta_jax']}, and this is "
                f"{__version__}: export the model again"
            )
        if checksum(flatten(weights)) != values["crc32"]:
            raise InputError(
                f"{folder / PARAMS_FILE} holds the weights of another export: export the model "
                f"again"
            )
        platform = jax_export.default_export_platform()
        if platform not in values["platforms"]:
            raise InputError(
                f"{folder} was exported for {', '.join(values['platforms'])}, and this machine is "
                f"{platform}: export it again with --platforms {platform}"
            )
        programs = [_read_program(folder, name, values) for name in (ENCODE, RENDER)]
        weights, window = _as_taken(weights, programs[1]), AudioWindow(*values["window"])
        encode, render = (jax.jit(program.call) for program in programs)
        provenance = values.get("provenance", [])  # older exports have none
        return cls(weights, values["size"], window, encode, render, provenance)

    def encode(self, portraits: UInt8[np.ndarray, "b h w 3"]) -> tuple[Array, ...]:
        return self._encode(self.weights, portraits)

    def render_windows(
        self, identities: tuple[Array, ...], audio: Float[np.ndarray, "b n"]
    ) -> UInt8[Array, "b t h w 3"]:
        return self._render(self.weights, audio, *identities)


def _as_taken(weights: Any, program: jax_export.Exported) -> Any:
    """The weights on the device, in the types of the program's first argument: files know few."""
    (taken, *_), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    return jax.tree.map(lambda x, aval: jnp.asarray(x, aval.dtype), weights, taken)


def _read_program(folder: Path, name: str, values: dict[str, Any]) -> jax_export.Exported:
    try:
        program = (folder / name).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {folder / name}: {error.strerror}") from error
    if sha256_of(program) != values["sha256"][name]:
        raise InputError(f"{folder / name} is damaged: its hash is not what config.json says")
    try:
        exported = jax_export.deserialize(bytearray(program))
        exported.mlir_module()  # the program itself is read here
        return exported
    except (ValueError, jax.errors.JaxRuntimeError) as error:  # readable for half a year
        raise InputError(
            f"{folder} was exported with JAX {values['jax']}, which JAX {jax.__version__} cannot "
            f"read: export it again"
        ) from error


def sha256_of(program: bytes) -> str:
    return hashlib.sha256(program).hexdigest()


def seal_of(values: dict[str, Any]) -> str:
    """A hash of all that the config says: program, weights and sizes belong together."""
    return sha256_of(json.dumps(values, sort_keys=True).encode())
