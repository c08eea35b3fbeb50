"""Preview pictures during training: the same few held-out clips, every time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from reta_jax.batches import open_batches
from reta_jax.images import to_uint8
from reta_jax.models.morphable import MorphableModel, mesh
from reta_jax.models.reta import RETA
from reta_jax.pictures import COLUMNS, contact_sheet, model_row
from reta_jax.step import render_batch, to_device_batch

CLIPS = 4


def make_preview(
    config: ConfigDict, reta: RETA, morphable: MorphableModel
) -> Callable[[Any], np.ndarray]:
    """Builds `preview(params) -> picture`: one row a clip with the columns of pictures.COLUMNS."""
    morphable = jax.tree.map(lambda x: jnp.asarray(jax.device_get(x)), morphable)  # this process'
    batches = open_batches(config, "test", CLIPS)
    raw = next(batches)
    batches.close()

    @jax.jit
    def forward(params: Any):
        batch = to_device_batch(raw)
        output, _, controls = render_batch(reta, params, morphable, batch)
        p_exp = controls.p_exp
        vertices = None if p_exp is None else mesh(morphable, p_exp[:, 0])
        return (
            to_uint8(output.frames[:, 0]),
            output.flows[-1][:, 0],
            output.masks[-1][:, 0],
            vertices,
        )

    def preview(params: Any) -> np.ndarray:
        # From the host: an array of all processes cannot be used by one of them.
        frames, flows, masks, vertices = jax.device_get(forward(jax.device_get(params)))
        triangles = np.asarray(morphable.triangles)
        rows = [
            model_row(
                raw["portrait"][i],
                raw["frames"][i, 0],
                frames[i],
                flows[i],
                masks[i],
                None if vertices is None else vertices[i],
                triangles,
            )
            for i in range(len(frames))
        ]
        return contact_sheet(rows, COLUMNS)

    return preview
