"""Pictures of what the model does: contact sheets of frames, flow, masks and meshes (uint8 RGB)."""

import cv2
import numpy as np

from data_pipeline.video import resized

COLUMNS = ["portrait", "truth", "generated", "flow", "mask", "mesh"]
HEADER_HEIGHT = 20
FRAME_MARGIN = 2


def _colour_wheel() -> np.ndarray:
    """(55, 3) in [0, 1]: Baker et al., "A Database and Evaluation Methodology for Optical Flow".

    Hues turn slowly where the eye tells them apart best.
    """
    red, yellow, green, cyan = (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1)
    blue, magenta = (0, 0, 1), (1, 0, 1)
    corners = np.array([red, yellow, green, cyan, blue, magenta, red])
    places = np.cumsum([0, 15, 6, 4, 11, 13, 6])
    return np.stack([np.interp(np.arange(55), places, channel) for channel in corners.T], -1)


COLOUR_WHEEL = _colour_wheel()


def model_row(
    portrait: np.ndarray,
    truth: np.ndarray,
    generated: np.ndarray,
    flow: np.ndarray,
    mask: np.ndarray,
    vertices: np.ndarray | None,
    triangles: np.ndarray,
) -> list[np.ndarray]:
    """One moment of a clip as the pictures of COLUMNS; the mesh is blank without `vertices`."""
    blank = np.full((32, 32, 3), 255, np.uint8)
    return [
        portrait,
        truth,
        generated,
        flow_picture(flow),
        mask_picture(mask),
        blank if vertices is None else mesh_picture(vertices, triangles),
    ]


def contact_sheet(rows: list[list[np.ndarray]], titles: list[str], tile: int = 128) -> np.ndarray:
    """Lays pictures out in rows under column titles; every picture is resized to `tile` pixels."""
    width = len(titles) * (tile + FRAME_MARGIN)
    sheet = np.full((HEADER_HEIGHT + len(rows) * (tile + FRAME_MARGIN), width, 3), 255, np.uint8)
    for column, title in enumerate(titles):
        origin = (column * (tile + FRAME_MARGIN) + 3, 14)
        cv2.putText(sheet, title, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    for r, row in enumerate(rows):
        top = HEADER_HEIGHT + r * (tile + FRAME_MARGIN)
        for c, picture in enumerate(row):
            left = c * (tile + FRAME_MARGIN)
            sheet[top : top + tile, left : left + tile] = resized(picture, tile, tile)
    return sheet


def flow_picture(flow: np.ndarray, full_scale: float = 0.15) -> np.ndarray:
    """Colours a flow field (h, w, 2; x right, y down) by the colour wheel of Middlebury.

    Hue is direction (right red, down yellow, left cyan, up violet), saturation is length over
    `full_scale`: no motion is white. What is longer is darkened by a quarter.
    """
    x, y = flow[..., 0] / full_scale, flow[..., 1] / full_scale
    spoke = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (len(COLOUR_WHEEL) - 1)
    length = np.hypot(x, y)[..., None]
    pure = np.stack(
        [np.interp(spoke, np.arange(len(COLOUR_WHEEL)), channel) for channel in COLOUR_WHEEL.T], -1
    )
    shaded = np.where(length <= 1, 1 - length * (1 - pure), 0.75 * pure)
    return np.round(255 * shaded).astype(np.uint8)


def flow_key(size: int = 96) -> np.ndarray:
    """The legend of `flow_picture`: each pixel has the colour of the flow to it from the centre.

    The circle that touches the border is the full scale.
    """
    axis = np.linspace(-1, 1, size)
    return flow_picture(np.stack(np.meshgrid(axis, axis), -1), full_scale=1.0)


def mask_picture(mask: np.ndarray) -> np.ndarray:
    """Grey picture of an occlusion mask (h, w, 1) in [0, 1]; white keeps the warped texture."""
    return np.repeat((255 * np.clip(mask, 0, 1)).astype(np.uint8), 3, -1)


def mesh_picture(
    vertices: np.ndarray,
    triangles: np.ndarray,
    size: int = 256,
    framed_by: np.ndarray | None = None,
) -> np.ndarray:
    """Shades a mesh (v, 3; x right, y up, z to the camera) seen from the front.

    The picture shows the extent of the vertices `framed_by`, of the mesh itself without: meshes
    that are compared need one frame.
    """
    points = vertices[:, :2] * (1, -1)
    framing = (vertices if framed_by is None else framed_by)[:, :2] * (1, -1)
    low, high = framing.min(0), framing.max(0)
    scale = 0.92 * size / (high - low).max()
    pixels = ((points - (low + high) / 2) * scale + size / 2).astype(np.float32)
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    light = np.array([0.3, 0.5, 0.81])
    shade = (60 + 180 * np.clip(normals @ light, 0, 1)).astype(int)
    order = np.argsort(corners[..., 2].mean(1))
    picture = np.full((size, size, 3), 255, np.uint8)
    fixed_point = np.round(pixels[triangles] * 16).astype(np.int32)
    for t in order[normals[order, 2] > 0]:
        value = int(shade[t])
        cv2.fillConvexPoly(picture, fixed_point[t], (value, value, value), cv2.LINE_AA, shift=4)
    return picture
