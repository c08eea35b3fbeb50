"""Contact sheets, the colours of flow, masks and meshes, and previews."""

import colorsys
import types

import jax.numpy as jnp
import numpy as np

from configs.synthetic import get_config
from data_pipeline.face_basis import load_face_basis
from reta_jax import preview
from reta_jax.images import to_float
from reta_jax.metrics.image import compare_pixels
from reta_jax.models.morphable import builtin_morphable
from reta_jax.models.reta import build_reta
from reta_jax.pictures import (
    COLOUR_WHEEL,
    COLUMNS,
    FRAME_MARGIN,
    HEADER_HEIGHT,
    contact_sheet,
    flow_key,
    flow_picture,
    mask_picture,
    mesh_picture,
    model_row,
)


def plain(level: int, size: int) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


def test_a_contact_sheet_is_a_grid_of_tiles():
    tile, step = 40, 40 + FRAME_MARGIN
    rows = [[plain(10, 40), plain(60, 80)], [plain(110, 16), plain(160, 40)]]
    sheet = contact_sheet(rows, ["one", "two"], tile)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (HEADER_HEIGHT + 2 * step, 2 * step, 3)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = HEADER_HEIGHT + r * step, c * step
            assert (sheet[top : top + tile, left : left + tile] == picture[0, 0]).all()
    for edge in range(tile, tile + FRAME_MARGIN):  # white between the tiles
        assert (sheet[HEADER_HEIGHT + edge] == 255).all()
        assert (sheet[HEADER_HEIGHT:, edge] == 255).all()
    header = sheet[:HEADER_HEIGHT]
    assert (header[:, :step] < 128).any() and (header[:, step:] < 128).any()  # titles


# Red to yellow in 15 steps, to green in 6, to cyan in 4, to blue in 11, to magenta in 13, and 6
# back: left is step 27, up 40.5, right 0, down 13.5.
DIRECTIONS = {
    (1, 0): (255, 0, 0),
    (0, 1): (255, 255 * 13.5 / 15, 0),
    (-1, 0): (0, 255 * (1 - 2 / 11), 255),
    (0, -1): (255 * 4.5 / 13, 0, 255),
}


def test_flow_has_the_colours_of_middlebury():
    flow = np.zeros((3, 5, 2), np.float32)
    for column, direction in enumerate(DIRECTIONS, 1):
        flow[0, column] = 0.15 * np.array(direction)
        flow[1, column] = 0.075 * np.array(direction)
        flow[2, column] = 9 * np.array(direction)
    picture = flow_picture(flow)
    assert picture.shape == (3, 5, 3) and picture.dtype == np.uint8
    assert (picture[:, 0] == 255).all()  # at rest
    pure = np.array(list(DIRECTIONS.values()))
    for row, expected in enumerate((pure, (255 + pure) / 2, 0.75 * pure)):
        np.testing.assert_allclose(picture[row, 1:], expected, atol=1)


def test_the_wheel_has_every_hue_once():
    assert COLOUR_WHEEL.shape == (55, 3)
    hue = np.array([colorsys.rgb_to_hsv(*colour)[0] for colour in COLOUR_WHEEL])
    assert hue[0] == 0 and (np.diff(hue) > 0).all() and 1 - hue[-1] < 0.05
    assert (COLOUR_WHEEL.max(1) == 1).all() and (COLOUR_WHEEL.min(1) == 0).all()


def test_the_key_points_where_it_is():
    key = flow_key(41)
    assert key.shape == (41, 41, 3) and (key[20, 20] == 255).all()
    edges = {(1, 0): (20, 40), (0, 1): (40, 20), (-1, 0): (20, 0), (0, -1): (0, 20)}
    for direction, (row, column) in edges.items():
        np.testing.assert_allclose(key[row, column], DIRECTIONS[direction], atol=1)


def test_masks_are_grey():
    mask = np.array([[-1.0, 0.0, 0.5, 1.0, 2.0]])[..., None]
    assert mask_picture(mask).tolist() == [[[v] * 3 for v in (0, 0, 127, 255, 255)]]


def test_a_mesh_is_seen_from_the_front():
    basis = load_face_basis()
    picture = mesh_picture(basis.mean, basis.triangles, 96)
    assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8
    drawn = (picture < 250).all(-1)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    longest = max(np.ptp(rows), np.ptp(columns)) + 1
    assert abs(longest - 0.92 * 96) < 4  # it fills the picture, centred
    assert abs(rows.mean() - 47.5) < 2 and abs(columns.mean() - 47.5) < 2
    assert drawn.mean() > 0.3 and np.unique(picture[drawn]).size > 20  # shaded


def test_meshes_in_one_frame_keep_their_size():
    basis = load_face_basis()
    small = basis.mean.mean(0) + 0.5 * (basis.mean - basis.mean.mean(0))
    own, framed = (
        np.ptp(np.flatnonzero((mesh_picture(small, basis.triangles, 96, frame) < 250).any((1, 2))))
        for frame in (None, basis.mean)
    )
    assert abs(own - 2 * framed) <= 4


def test_the_nearer_triangle_covers_the_farther():
    near = [(-1, -1, 1), (1, -1, 1), (0, 1, 1)]  # faces the camera
    far = [(-3, -3, 0), (3, -3, 0.5), (0, 3, 0)]  # leans: of another grey
    grey = {}
    for order in ([0, 1], [1, 0]):
        triangles = np.array([[0, 1, 2], [3, 4, 5]])[order]
        picture = mesh_picture(np.array(near + far, np.float64), triangles, 64)
        grey[tuple(order)] = picture[34, 32, 0], picture[56, 32, 0]
    assert grey[0, 1] == grey[1, 0] and grey[0, 1][0] != grey[0, 1][1]
    away = np.array(near)[[0, 2, 1]].astype(np.float64)
    assert (mesh_picture(away, np.array([[0, 1, 2]]), 64) == 255).all()


def test_a_row_has_a_picture_for_every_column():
    basis = load_face_basis()
    arrays = plain(1, 32), plain(2, 32), plain(3, 32), np.zeros((32, 32, 2)), np.ones((32, 32, 1))
    row = model_row(*arrays, basis.mean, basis.triangles)
    assert len(row) == len(COLUMNS)
    assert [picture[0, 0, 0] for picture in row[:5]] == [1, 2, 3, 255, 255]
    assert (row[5] < 250).any()
    without = model_row(*arrays, None, basis.triangles)
    assert (without[5] == 255).all()
    assert contact_sheet([row, without], COLUMNS, 32).any()


class Batches:
    """Two clips of three frames, each with noise of its own."""

    def __next__(self):
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 200, (2, 3, 16, 16, 3), np.uint8)
        return {"portrait": frames[:, 0], "frames": frames}

    def close(self):
        pass


def test_a_previews_figures_are_of_all_frames(monkeypatch):
    """The second and third frames are brighter than the truth, by 10 and by 40 grey levels."""
    added = np.array([0, 10, 40], np.uint8)[None, :, None, None, None]

    def render_batch(reta, params, morphable, truth):
        shape = (2, 3, 16, 16)
        output = types.SimpleNamespace(
            frames=truth + params["by"] * added / 127.5,
            flows=[np.zeros((*shape, 2))],
            masks=[np.ones((*shape, 1))],
        )
        return types.SimpleNamespace(output=output, controls=types.SimpleNamespace(p_exp=None))

    monkeypatch.setattr(preview, "open_batches", lambda *_: Batches())
    monkeypatch.setattr(
        preview, "to_device_batch", lambda raw: to_float(jnp.asarray(raw["frames"]))
    )
    monkeypatch.setattr(preview, "render_batch", render_batch)
    config = get_config("smoke")
    show = preview.make_preview(config, build_reta(config.model), builtin_morphable(8))
    picture, figures = show({"by": jnp.float32(1)})
    psnr = [100.0, *(10 * np.log10(255**2 / x**2) for x in (10, 40))]
    truth = next(Batches())["frames"]
    ssim = [
        compare_pixels(t + a, t)["ssim"] for t, a in zip(truth, added.repeat(2, 0), strict=True)
    ]
    assert figures.keys() == {"held_out/psnr", "held_out/ssim"}
    np.testing.assert_allclose(figures["held_out/psnr"], np.mean(psnr), rtol=1e-5)
    np.testing.assert_allclose(figures["held_out/ssim"], np.mean(ssim), rtol=1e-5)
    row = [truth[0, 0]] * 3  # portrait, truth and the first frame, which is exact
    blank = np.full((32, 32, 3), 255, np.uint8)
    first = contact_sheet([[*row, blank, blank, blank]], COLUMNS)
    np.testing.assert_array_equal(picture[: len(first)], first)
