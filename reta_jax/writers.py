"""What a run leaves to be read: TensorBoard scalars and pictures, JSON lines beside them."""

import json
from pathlib import Path

import jax
import numpy as np
from tensorboardX import SummaryWriter


class Writer:
    """Writes on process 0 alone. Lines in metrics.jsonl are {"step": n, name: value, ...}."""

    def __init__(self, workdir: Path):
        self._active = jax.process_index() == 0
        if self._active:
            self._board = SummaryWriter(str(workdir / "tensorboard"))
            self._lines = (workdir / "metrics.jsonl").open("a", buffering=1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if self._active:
            self._lines.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """An RGB uint8 picture (h, w, 3)."""
        if self._active:
            self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if self._active:
            self._board.close()
            self._lines.close()
