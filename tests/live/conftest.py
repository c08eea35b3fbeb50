"""What live tests share: a small model and a face."""

import cv2
import numpy as np
import pytest
import skimage.data

from reta_jax.renderer import Renderer
from tests.tiny import save_tiny_model


@pytest.fixture(scope="module")
def renderer(tmp_path_factory) -> Renderer:
    return Renderer.from_pretrained(save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny"))


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    woman = skimage.data.astronaut()[:300, 80:380]
    return cv2.resize(woman, (32, 32), interpolation=cv2.INTER_AREA)
