"""Previews during training: pictures and figures of the same few held-out clips, every time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from reta_jax.batches import open_batches
from reta_jax.images import to_uint8
from reta_jax.metrics.image import compare_pixels
from reta_jax.models.morphable import MorphableModel, mesh
from reta_jax.models.reta import RETA
from reta_jax.pictures import COLUMNS, contact_sheet, model_row
from reta_jax.step import render_batch, to_device_batch

CLIPS = 4
HELD_OUT = "held_out/"  # before the names of their figures


class Preview(NamedTuple):
    """What the model makes of the held-out clips."""

    picture: np.ndarray  # uint8 RGB, one row a clip with the columns of pictures.COLUMNS
    figures: dict[str, float]  # means over all frames: PSNR in dB, SSIM


def make_preview(
    config: ConfigDict, reta: RETA, morphable: MorphableModel
) -> Callable[[Any], Preview]:
    """Builds `preview(params) -> Preview`."""
    morphable = of_one_device(morphable)
    batches = open_batches(config, "test", CLIPS)
    raw = next(batches)
    batches.close()

    @jax.jit
    def forward(params: Any, morphable: MorphableModel, raw: dict[str, Array]):
        batch = to_device_batch(raw)
        rendered = render_batch(reta, params, morphable, batch)
        output, p_exp = rendered.output, rendered.controls.p_exp
        vertices = None if p_exp is None else mesh(morphable, p_exp[:, 0])
        return (
            to_uint8(output.frames),
            output.flows[-1][:, 0],
            output.masks[-1][:, 0],
            vertices,
        )

    def preview(params: Any) -> Preview:
        shown = forward(of_one_device(params), morphable, raw)
        frames, flows, masks, vertices = jax.device_get(shown)
        triangles = np.asarray(morphable.triangles)
        rows = [
            model_row(
                raw["portrait"][i],
                raw["frames"][i, 0],
                frames[i, 0],
                flows[i],
                masks[i],
                None if vertices is None else vertices[i],
                triangles,
            )
            for i in range(len(frames))
        ]
        return Preview(contact_sheet(rows, COLUMNS), held_out_figures(frames, raw["frames"]))

    return preview


def of_one_device(tree: Any) -> Any:
    """This process's own copy of replicated arrays, where it lies: others have no part in it."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def held_out_figures(
    frames: UInt8[np.ndarray, "b t h w 3"], truth: UInt8[np.ndarray, "b t h w 3"]
) -> dict[str, float]:
    """PSNR and SSIM as reta_jax.evaluate has them."""
    figures = compare_pixels(*(video.reshape(-1, *video.shape[2:]) for video in (frames, truth)))
    return {f"{HELD_OUT}{name}": figures[name] for name in ("psnr", "ssim")}
