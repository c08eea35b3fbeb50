"""The 3DMM as a differentiable bridge (section 3.1, Eq. 7).

    s_t = s_mean + U_id p_id + U_exp p_exp,   with p_id = 0

U is fixed. Sampling a mesh on its UV map is linear in the vertices, so the expression basis is
rasterised to the UV map once, when the model is built; per frame the bridge is one matrix product.
Lengths are centimetres.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from data_pipeline.face_basis import load_face_basis


@flax.struct.dataclass
class MorphableModel:
    """A face model as arrays; any basis will do (built-in, ICT-FaceKit, BFM)."""

    mean: jax.Array  # (v, 3) mean shape s_mean
    expression: jax.Array  # (v, 3, k) U_exp
    uv_expression: jax.Array  # (r, r, 3, k) U_exp sampled on the UV map; zero off the face
    triangles: jax.Array  # (f, 3) int32 vertex indices
    lip_vertices: jax.Array  # (l,) int32, the lips' vertices, for the lip vertex error
    names: tuple[str, ...] = flax.struct.field(pytree_node=False)  # (k,) names of the modes


def build_morphable(
    mean: np.ndarray,
    expression: np.ndarray,
    triangles: np.ndarray,
    uv: np.ndarray,
    names: tuple[str, ...] = (),
    lip_vertices: np.ndarray | tuple[int, ...] = (),
    resolution: int = 64,
) -> MorphableModel:
    """Builds the bridge from any basis given as arrays.

    Args:
      mean: (v, 3) mean shape in centimetres.
      expression: (v, 3, k) expression basis, per unit of its coefficient.
      triangles: (f, 3) vertex indices.
      uv: (v, 2) texture coordinates in [0, 1].
      names: one name a mode; numbered if empty.
      lip_vertices: indices of the vertices that the lip vertex error is measured on.
      resolution: side of the UV map in pixels.
    """
    modes = expression.shape[-1]
    if expression.shape[:2] != mean.shape or mean.shape[1:] != (3,) or uv.shape != (len(mean), 2):
        raise ValueError(f"basis arrays disagree: {mean.shape=}, {expression.shape=}, {uv.shape=}")
    return MorphableModel(
        mean=jnp.asarray(mean, jnp.float32),
        expression=jnp.asarray(expression, jnp.float32),
        uv_expression=jnp.asarray(rasterise_to_uv(expression, triangles, uv, resolution)),
        triangles=jnp.asarray(triangles, jnp.int32),
        lip_vertices=jnp.asarray(lip_vertices, jnp.int32),
        names=tuple(names) or tuple(f"mode{i}" for i in range(modes)),
    )


def builtin_morphable(resolution: int = 64) -> MorphableModel:
    """The model that the package carries: 64 named modes (data_pipeline/face_basis.py).

    A coefficient of one is a full expression. The six modes that move the whole head are zero: the
    voice speaks of the face, the pose stays the portrait's.
    """
    basis = load_face_basis()
    is_expression = np.array([not name.startswith("head") for name in basis.names])
    return build_morphable(
        basis.mean,
        basis.expression * is_expression,
        basis.triangles,
        basis.uv,
        tuple(basis.names),
        basis.lip_vertices,
        resolution,
    )


def mesh(model: MorphableModel, p_exp: Float[Array, "*n k"]) -> Float[Array, "*n v 3"]:
    """Vertices s = s_mean + U_exp p_exp, in centimetres (Eq. 7 with p_id = 0)."""
    offsets = jnp.einsum(
        "vck,...k->...vc", model.expression, p_exp, precision=jax.lax.Precision.HIGHEST
    )
    return offsets + model.mean.reshape((1,) * (p_exp.ndim - 1) + model.mean.shape)


def position_map(model: MorphableModel, p_exp: Float[Array, "*n k"]) -> Float[Array, "*n r r 3"]:
    """Offsets s - s_mean on the UV map, in centimetres: what the motion encoder reads."""
    return jnp.einsum(
        "hwck,...k->...hwc", model.uv_expression, p_exp, precision=jax.lax.Precision.HIGHEST
    )


def rasterise_to_uv(
    values: np.ndarray, triangles: np.ndarray, uv: np.ndarray, resolution: int
) -> np.ndarray:
    """Interpolates per-vertex values (v, ...) over the UV map: (r, r, ...), zero off the mesh."""
    triangle, weights = uv_coverage(triangles, uv, resolution)
    corners = values[np.asarray(triangles)[triangle]]  # (r, r, 3, ...)
    weights = weights.reshape(*weights.shape, *(1,) * (values.ndim - 1))
    return (corners * weights).sum(2).astype(np.float32)


def uv_coverage(
    triangles: np.ndarray, uv: np.ndarray, resolution: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which triangle covers each texel's centre, and the barycentric weights there.

    Returns:
      (r, r) triangle indices and (r, r, 3) weights; weights are zero where no triangle lies.
    """
    corners = uv[np.asarray(triangles)].astype(np.float64) * resolution - 0.5  # texel centres: ints
    a, b, c = corners.transpose(1, 2, 0)  # (2, f) each
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    low = np.clip(np.ceil(corners.min(1) - 1e-9), 0, resolution).astype(int)
    high = np.clip(np.floor(corners.max(1) + 1e-9), -1, resolution - 1).astype(int)
    width, height = np.maximum(high - low + 1, 0).T
    texels = np.where(np.abs(area) < 1e-12, 0, width * height)  # in the box of each triangle
    triangle = np.repeat(np.arange(len(texels)), texels)
    place = np.arange(len(triangle)) - np.repeat(np.cumsum(texels) - texels, texels)
    x, y = low[triangle].T + np.stack([place % width[triangle], place // width[triangle]])
    a, b, c, area = a[:, triangle], b[:, triangle], c[:, triangle], area[triangle]
    wb = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / area
    wc = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / area
    barycentric = np.stack([1 - wb - wc, wb, wc], -1)
    inside = (barycentric >= -1e-9).all(-1)
    index = np.zeros((resolution, resolution), np.int64)
    weights = np.zeros((resolution, resolution, 3))
    # Where several lie, the last one counts.
    index[y[inside], x[inside]] = triangle[inside]
    weights[y[inside], x[inside]] = barycentric[inside]
    return index, weights
