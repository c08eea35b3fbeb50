"""Faces as dlib's get_face_chip cuts them out, which is how published emotion judges know them."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.steady import similarity

# Corners of the eyes and base of the nose: of iBUG's 68 points, and in dlib's mean face.
POINTS = [45, 42, 36, 39, 33]
MEAN_FACE = np.array(
    [
        (0.8595674595992, 0.2134981538014),
        (0.6460604764104, 0.2289674387677),
        (0.1205750620789, 0.2137274526848),
        (0.3340850613712, 0.2290642403242),
        (0.4901123135679, 0.6277975316475),
    ]
)
PADDING = 0.25  # around the mean face, in its sides, as Emotion-FAN's alignment has it


def face_chip(
    frame: UInt8[np.ndarray, "h w 3"], points: Float[np.ndarray, "68 2"], size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The face upright and of one size; beyond the frame its edge is repeated.

    Args:
      points: x, y in the frame's pixels.
    """
    wanted = (PADDING + MEAN_FACE) / (1 + 2 * PADDING) * size
    # Pixel i has its centre at i + 1/2.
    place = similarity(wanted - 0.5, points[POINTS] - 0.5)
    return cv2.warpAffine(
        frame,
        place.T,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
