"""ICT-FaceKit's light model (MIT): the folder FaceXModel of OBJ files.

Every OBJ is a whole shape in centimetres; a mode is its difference from the neutral one.
"""

import json
from pathlib import Path

import numpy as np

from data_pipeline.errors import InputError
from reta_jax.pretrained.source import Source, Weights

FACE = 9409  # the first vertices are the face with its neck; eyes, teeth and hair follow
NEUTRAL, INDICES = "generic_neutral_mesh.obj", "vertex_indices.json"
# The iBUG landmarks 48 to 67 on this mesh.
MOUTH = (
    5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841, 5702, 5711, 5533, 6216,
    6207, 6470, 5517, 5966,
)  # fmt: skip
LIP_RADIUS = 0.6  # centimetres around a mouth landmark


def read(path: Path) -> Weights:
    """Mean shape, one mode an expression, and the model's own UV map.

    Raises InputError if the folder lacks a file, or one has another topology.
    """
    folder = path / "FaceXModel" if (path / "FaceXModel").is_dir() else path
    for name in (NEUTRAL, INDICES):
        if not (folder / name).is_file():
            raise InputError(f"{folder} lacks {name}: name ICT-FaceKit's folder FaceXModel")
    try:
        names = json.loads((folder / INDICES).read_text())["expressions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / INDICES} names no expressions: {error}") from error
    mean, uv, triangles = read_obj(folder / NEUTRAL)
    missing = [name for name in names if not (folder / f"{name}.obj").is_file()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(f'{name}.obj' for name in missing)}")
    modes = [_vertices(folder / f"{name}.obj", len(mean)) - mean for name in names]
    mean, face = mean[:FACE], min(FACE, len(mean))
    lips = mean[[i for i in MOUTH if i < face]]
    distance = np.linalg.norm(mean[:, None] - lips[None], axis=-1).min(1)
    arrays = {
        "mean": mean.astype(np.float32),
        "expression": np.stack(modes, -1)[:FACE].astype(np.float32),
        "triangles": triangles[(triangles < face).all(1)].astype(np.int32),
        "uv": uv[:FACE].astype(np.float32),
        "lip_vertices": np.flatnonzero(distance < LIP_RADIUS).astype(np.int32),
    }
    return Weights("morphable", arrays, {"names": list(names)})


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (v, 3), one UV (v, 2) for each (its last, at seams), triangles (f, 3)."""
    points, texture, corners = [], [], []
    try:
        for line in path.read_text().splitlines():
            head, *words = line.split() or [""]
            if head == "v":
                points.append([float(word) for word in words[:3]])
            elif head == "vt":
                texture.append([float(word) for word in words[:2]])
            elif head == "f":
                ring = [[int(n) - 1 for n in word.split("/")[:2]] for word in words]
                corners += [(ring[0], ring[i], ring[i + 1]) for i in range(1, len(ring) - 1)]
        faces = np.array(corners)  # (f, 3, 2): vertex and its texture point
        uv = np.zeros((len(points), 2))
        uv[faces[..., 0].ravel()] = np.array(texture)[faces[..., 1].ravel()]
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path} is no OBJ file with a UV map: {error}") from error
    return np.array(points), uv, faces[..., 0]


def _vertices(path: Path, count: int) -> np.ndarray:
    try:
        lines = path.read_text().splitlines()
        points = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], float)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no OBJ file: {error}") from error
    if len(points) != count:
        raise InputError(f"{path} has {len(points)} vertices, the neutral shape {count}")
    return points


SOURCE = Source(
    name="ict_facekit",
    gives="3DMM of the bridge",
    published=("FaceXModel/",),
    where="https://github.com/ICT-VGL/ICT-FaceKit",
    licence="MIT",
    is_commercial=True,
    megabytes=250,
    read=read,
)
