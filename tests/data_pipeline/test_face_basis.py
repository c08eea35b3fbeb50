"""The built-in face basis is sound: shapes, names, an injective UV map, modes as named."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import data_pipeline.face_basis
from data_pipeline.errors import InputError
from data_pipeline.face_basis import load_face_basis

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def basis():
    return load_face_basis()


def test_arrays_fit_together(basis):
    count = len(basis.mean)
    assert 2000 <= count <= 3200
    assert basis.mean.shape == (count, 3) and basis.mean.dtype == np.float32
    assert basis.expression.shape == (count, 3, 64) and basis.expression.dtype == np.float32
    assert basis.identity.shape == (count, 3, 40) and basis.identity.dtype == np.float32
    assert basis.uv.shape == (count, 2) and len(set(basis.names)) == 64
    assert np.array_equal(np.unique(basis.triangles), np.arange(count))
    assert basis.landmark_vertices.shape == (68,) and len(set(basis.landmark_vertices)) == 68
    assert np.isin(basis.landmark_vertices[48:], basis.lip_vertices).mean() > 0.8
    assert not basis.mean.flags.writeable


def test_asset_is_small():
    folder = Path(data_pipeline.face_basis.__file__).parent / "assets"
    assert (folder / "face_basis.npz").stat().st_size <= 1.5e6


def test_uv_map_is_injective_and_gives_the_mouth_room(basis):
    a, b, c = np.moveaxis(basis.uv[basis.triangles].astype(np.float64), 1, 0)
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert (area < 0).all() or (area > 0).all()
    assert np.abs(area).sum() / 2 < 1.0
    assert basis.uv.min() >= 0 and basis.uv.max() <= 1
    assert (np.ptp(basis.uv[basis.lip_vertices], axis=0) > 0.25).all()  # 16 of 64 texels
    assert np.corrcoef(basis.uv[:, 0], basis.mean[:, 0])[0, 1] > 0.7
    assert np.corrcoef(basis.uv[:, 1], basis.mean[:, 1])[0, 1] < -0.7


def test_triangles_face_outwards(basis):
    a, b, c = np.moveaxis(basis.mean[basis.triangles], 1, 0)
    normal = np.cross(b - a, c - a)
    nose = (basis.triangles == basis.landmark_vertices[30]).any(1)
    assert (normal[nose, 2] > 0).all()


def test_landmarks_lie_where_ibug_puts_them(basis):
    marks = basis.mean[basis.landmark_vertices]
    assert (marks[36:42, 0] < 0).all() and (marks[42:48, 0] > 0).all()
    assert marks[17:27, 1].min() > marks[36:48, 1].max() > marks[30, 1] > marks[51, 1] > marks[8, 1]
    assert np.allclose(marks[[0, 36, 48, 60], 0], -marks[[16, 45, 54, 64], 0], atol=0.02)
    assert 0 < marks[62, 1] - marks[66, 1] < 0.15  # closed lips


@pytest.mark.parametrize(
    ("mode", "landmark", "axis", "sign"),
    [
        ("jawOpen", 8, 1, -1),
        ("browInnerUp_L", 22, 1, 1),
        ("browDown_R", 20, 1, -1),
        ("mouthSmile_L", 54, 0, 1),
        ("mouthSmile_R", 48, 0, -1),
        ("eyeBlink_R", 37, 1, -1),
        ("mouthFrown_L", 54, 1, -1),
        ("nostrilFlare", 35, 0, 1),
        ("headPitch", 30, 1, -1),
        ("headYaw", 30, 0, 1),
    ],
)
def test_modes_move_what_they_name(basis, mode, landmark, axis, sign):
    moved = basis.expression[basis.landmark_vertices[landmark], axis, basis.names.index(mode)]
    assert sign * moved > 0.01


def test_errors_name_the_file(tmp_path):
    with pytest.raises(InputError, match="missing.npz does not exist"):
        load_face_basis(tmp_path / "missing.npz")
    broken = tmp_path / "broken.npz"
    np.savez(broken, mean=np.zeros(3))
    with pytest.raises(InputError, match="not a face basis"):
        load_face_basis(broken)


def test_decimation_keeps_protected_vertices_and_the_surface():
    spec = importlib.util.spec_from_file_location("maker", ROOT / "scripts" / "make_face_basis.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    y, x = np.mgrid[:15, :15].astype(np.float64)
    points = np.stack([x, y, 0.3 * np.sin(x / 3)], -1).reshape(-1, 3)
    r, c = np.mgrid[:14, :14].reshape(2, -1)
    a = r * 15 + c
    triangles = np.concatenate([np.stack([a, a + 1, a + 16], 1), np.stack([a, a + 16, a + 15], 1)])
    faces = maker.Decimator(points, triangles, np.ones(len(points)), {112}).run(120)
    assert len(np.unique(faces)) == 120 and 112 in faces
    assert len(maker.boundary_loops(faces)) == 1
    p, q, s = np.moveaxis(points[faces][..., :2], 1, 0)
    area = ((q - p)[:, 0] * (s - p)[:, 1] - (q - p)[:, 1] * (s - p)[:, 0]) / 2
    assert (area > 0).all() and np.isclose(area.sum(), 14 * 14)
