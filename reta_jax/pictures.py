"""Pictures of what the model does: contact sheets of frames, flow, masks and meshes (uint8 RGB)."""

import cv2
import numpy as np

COLUMNS = ["portrait", "truth", "generated", "flow", "mask", "mesh"]
HEADER_HEIGHT = 20
FRAME_MARGIN = 2


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
            shrinking = picture.shape[0] > tile
            resized = cv2.resize(
                picture,
                (tile, tile),
                interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC,
            )
            sheet[top : top + tile, left : left + tile] = resized
    return sheet


def flow_picture(flow: np.ndarray, full_scale: float = 0.15) -> np.ndarray:
    """Colours a flow field (h, w, 2): hue is direction, saturation is length / `full_scale`."""
    angle = np.arctan2(flow[..., 1], flow[..., 0])
    length = np.clip(np.hypot(flow[..., 0], flow[..., 1]) / full_scale, 0, 1)
    hue = ((angle + np.pi) / (2 * np.pi) * 179).astype(np.uint8)
    hsv = np.stack([hue, (255 * length).astype(np.uint8), np.full_like(hue, 255)], -1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def mask_picture(mask: np.ndarray) -> np.ndarray:
    """Grey picture of an occlusion mask (h, w, 1) in [0, 1]; white keeps the warped texture."""
    return np.repeat((255 * np.clip(mask, 0, 1)).astype(np.uint8), 3, -1)


def mesh_picture(vertices: np.ndarray, triangles: np.ndarray, size: int = 256) -> np.ndarray:
    """Shades a mesh (v, 3; x right, y up, z to the camera) seen from the front."""
    points = vertices[:, :2] * (1, -1)
    low, high = points.min(0), points.max(0)
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
