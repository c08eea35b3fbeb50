"""Published 3DMMs: their units, what is kept of them, and files that are none."""

import numpy as np
import pytest
import scipy.io

from data_pipeline.errors import InputError
from reta_jax.config import paper
from reta_jax.pretrained import bfm, ict_facekit, load
from reta_jax.pretrained.load import load_morphable
from reta_jax.pretrained.sources import SOURCES, import_source, provenance, read_source
from tests.pretrained.states import NEUTRAL, SMILE, prepared_bfm, write_ict, write_raw_bfm


@pytest.fixture
def prepared(tmp_path):
    scipy.io.savemat(tmp_path / "BFM_model_front.mat", prepared_bfm())
    return tmp_path / "BFM_model_front.mat"


def test_bfm_is_centred_centimetres(prepared):
    weights = bfm.read(prepared)
    found, given = weights.variables, prepared_bfm()
    mean = given["meanshape"].reshape(-1, 3)
    np.testing.assert_allclose(found["mean"], 10 * (mean - mean.mean(0)), atol=1e-5)
    modes = 10 * given["exBase"].reshape(-1, 3, 64)
    np.testing.assert_allclose(found["expression"], modes, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["triangles"], given["tri"] - 1)
    assert len(weights.fields["names"]) == 64
    assert found["uv"].min() == 0 and found["uv"].max() == 1


def test_bfm_lips_are_what_is_near_the_mouths_landmarks(prepared):
    found = bfm.read(prepared).variables
    mouth = prepared_bfm()["keypoints"][0, 48:] - 1
    assert set(mouth) < set(found["lip_vertices"])
    distance = np.linalg.norm(found["mean"][:, None] - found["mean"][mouth][None], axis=-1).min(1)
    near = np.flatnonzero(distance < 1.0)
    np.testing.assert_array_equal(found["lip_vertices"], near)
    assert len(mouth) < len(near) < len(found["mean"])


def test_the_map_unrolls_a_head():
    """Left to right about the vertical axis, top of the map at the forehead."""
    points = np.array([[-5.0, 0, 0], [0, 5, 5], [0, -5, 5], [5, 0, 0], [0, 0, 6]])
    uv = bfm.cylinder_map(points)
    assert uv[0, 0] == 0 and uv[3, 0] == 1 and uv[4, 0] == pytest.approx(0.5)
    assert uv[1, 1] == 0 and uv[2, 1] == 1


def test_raw_folder_equals_the_prepared_file(prepared, tmp_path):
    raw = bfm.read(write_raw_bfm(tmp_path / "raw")).variables
    for name, expected in bfm.read(prepared).variables.items():
        np.testing.assert_allclose(raw[name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_raw_folder_says_all_that_it_lacks(tmp_path):
    folder = write_raw_bfm(tmp_path / "raw")
    (folder / "Exp_Pca.bin").unlink()
    (folder / "std_exp.txt").unlink()
    with pytest.raises(InputError, match=f"{folder} lacks Exp_Pca.bin, std_exp.txt"):
        import_source("bfm", folder, tmp_path / "out")


def test_damaged_raw_files(tmp_path):
    folder = write_raw_bfm(tmp_path / "raw")
    whole = {file: file.read_bytes() for file in folder.iterdir()}
    for file, content in whole.items():
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=str(folder)):
            bfm.read(folder)
        file.write_bytes(content)
    scipy.io.savemat(folder / "BFM_front_idx.mat", {"index": np.ones(80)})
    with pytest.raises(InputError, match=f"{folder}.* lacks 'idx'"):
        bfm.read(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"exBase": None}, "lacks 'exBase'"),
        ({"exBase": np.zeros((240, 29))}, r"not 64 modes"),
        ({"exBase": np.zeros((77, 64))}, "do not fit together"),
        ({"keypoints": np.full((1, 68), 999)}, "do not fit together"),
        ({"keypoints": np.ones((1, 5))}, "68 landmarks"),
    ],
)
def test_other_matlab_files(tmp_path, change, what):
    path = tmp_path / "other.mat"
    given = {k: v for k, v in (prepared_bfm() | change).items() if v is not None}
    scipy.io.savemat(path, given)
    with pytest.raises(InputError, match=f"{path}.*{what}"):
        import_source("bfm", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no matlab" * 50, b"MATLAB 7.3 MAT-file".ljust(600)])
def test_no_matlab_files(tmp_path, content):
    (tmp_path / "face.mat").write_bytes(content)
    with pytest.raises(InputError, match=f"{tmp_path / 'face.mat'} is no MATLAB file"):
        bfm.read(tmp_path / "face.mat")


def test_ict_modes_are_differences_from_the_neutral_shape(tmp_path):
    weights = ict_facekit.read(write_ict(tmp_path / "FaceXModel"))
    found = weights.variables
    assert weights.fields == {"names": ["mouthSmile_L", "jawOpen"]}
    np.testing.assert_allclose(found["mean"], NEUTRAL, atol=1e-6)
    np.testing.assert_allclose(found["expression"], np.stack([SMILE, -2 * SMILE], -1), atol=1e-6)
    np.testing.assert_array_equal(found["triangles"], [[0, 1, 2], [0, 2, 3], [2, 3, 4], [2, 4, 5]])
    np.testing.assert_allclose(found["uv"], [[0.1 * i, 0.2 * i] for i in range(6)])
    np.testing.assert_array_equal(found["lip_vertices"], [0, 1])  # vertex 0 is of the mouth


def test_only_the_face_of_ict_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(ict_facekit, "FACE", 4)
    found = ict_facekit.read(write_ict(tmp_path / "FaceXModel")).variables
    assert len(found["mean"]) == len(found["expression"]) == len(found["uv"]) == 4
    np.testing.assert_array_equal(found["triangles"], [[0, 1, 2], [0, 2, 3]])


def test_ict_in_its_repository(tmp_path):
    write_ict(tmp_path / "ICT" / "FaceXModel")
    _, record = read_source("ict_facekit", tmp_path / "ICT")
    names = {file["name"] for file in record["files"]}
    assert {"generic_neutral_mesh.obj", "jawOpen.obj", "vertex_indices.json"} <= names


def test_hidden_files_are_no_part_of_a_source(tmp_path):
    folder = write_ict(tmp_path / "FaceXModel")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("main")
    names = [file["name"] for file in provenance(SOURCES["ict_facekit"], folder)["files"]]
    assert len(names) == 4 and "HEAD" not in names


def test_what_an_ict_folder_lacks(tmp_path):
    folder = write_ict(tmp_path / "FaceXModel")
    with pytest.raises(InputError, match="generic_neutral_mesh.obj: name .* FaceXModel"):
        ict_facekit.read(tmp_path / "elsewhere")
    (folder / "jawOpen.obj").unlink()
    with pytest.raises(InputError, match=f"{folder} lacks jawOpen.obj"):
        ict_facekit.read(folder)
    (folder / "jawOpen.obj").write_text("v 0 0 0\n")
    with pytest.raises(InputError, match=r"jawOpen.obj has 1 vertices, the neutral shape 6"):
        ict_facekit.read(folder)
    (folder / "jawOpen.obj").write_bytes(b"\xff\xfe\x00 v")
    with pytest.raises(InputError, match="jawOpen.obj is no OBJ file"):
        ict_facekit.read(folder)
    (folder / "vertex_indices.json").write_text("[]")
    with pytest.raises(InputError, match="names no expressions"):
        ict_facekit.read(folder)


def test_an_imported_model_becomes_the_bridge(tmp_path):
    config = paper().model
    config.update({"morphable": str(tmp_path / "ict"), "uv_resolution": 16, "p_exp_dim": 2})
    import_source("ict_facekit", write_ict(tmp_path / "FaceXModel"), tmp_path / "ict")
    morphable, records = load_morphable(config)
    assert morphable.names == ("mouthSmile_L", "jawOpen") and morphable.expression.shape[-1] == 2
    assert records[0]["source"] == "ict_facekit"
    config.p_exp_dim = 64
    with pytest.raises(InputError, match=r"has 2 expressions; set model\.p_exp_dim=2, not 64"):
        load_morphable(config)


def test_a_limit_below_full_expressions_is_said(prepared, tmp_path, monkeypatch):
    """BFM's modes are standard deviations: of most faces one is little."""
    import_source("bfm", prepared, tmp_path / "bfm")
    import_source("ict_facekit", write_ict(tmp_path / "FaceXModel"), tmp_path / "ict")
    said = []
    monkeypatch.setattr(load.logging, "warning", lambda text, *about: said.append(text % about))
    for name, modes, limit in (("bfm", 64, 3.0), ("ict", 2, 1.0), ("bfm", 64, 1.0)):
        config = paper().model
        config.update({"morphable": str(tmp_path / name), "uv_resolution": 16})
        config.update({"p_exp_dim": modes, "p_exp_limit": limit})
        assert not said
        load_morphable(config)
    (sentence,) = said
    assert "p_exp_limit=1" in sentence and sentence.endswith("set it to 3")
