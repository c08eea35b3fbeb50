"""Videos of a public-domain face, for the tests that need one to be found."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from data_pipeline.face import MODEL_VARIABLE
from data_pipeline.manifest import Row, read_manifest
from data_pipeline.video import VideoWriter

REPOSITORY = Path(__file__).parents[2]
MODEL = Path(
    os.environ.get(MODEL_VARIABLE)
    or REPOSITORY.parent / "shared" / "models" / "face_landmarker.task"
)
needs_model = pytest.mark.skipif(not MODEL.is_file(), reason="no face landmarker model")

WOMAN = cv2.resize(skimage.data.astronaut()[:256, 96:352], (192, 192), interpolation=cv2.INTER_AREA)
EMPTY = np.full((192, 192, 3), 90, np.uint8)


def voice(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, count * 640).astype(np.float32)


def save(path: Path, frames, sound="voice") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.stack(frames)
    waveform = voice(len(frames)) if isinstance(sound, str) else sound
    with VideoWriter(path, frames.shape[1:3], waveform) as writer:
        writer.write(frames)
    return path


def swaying(count: int) -> list[np.ndarray]:
    """The face drifts 12 pixels to the right and back over the clip."""
    shifts = 12 * np.sin(np.pi * np.arange(count) / count)
    return [
        cv2.warpAffine(WOMAN, np.float64([[1, 0, s], [0, 1, 0]]), (192, 192), borderMode=1)
        for s in shifts
    ]


TWO = [np.concatenate([WOMAN, WOMAN[:, ::-1]], 1)]  # One frame, 384 x 192


def manifest_of(out: Path) -> dict[str, Row]:
    """The rows of a data set by their clips' names."""
    return {row.clip: row for row in read_manifest(out)}
