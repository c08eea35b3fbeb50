"""Small data sets of noise, with every field in order, for the tests that break or draw them."""

from pathlib import Path

import numpy as np

from data_pipeline.manifest import Row, Scores, write_manifest
from data_pipeline.records import Source, encode_jpeg, write_records

SIZE = 32


def example(clip: str, identity: str, count: int = 30, emotion: int = 5, **fields) -> dict:
    """A record of noise; `fields` go before what it has else."""
    rng = np.random.default_rng(len(clip))
    face = rng.uniform(0.3, 0.7, (68, 2)) + rng.normal(0, 0.01, (count, 68, 2))
    usual = {
        "frames": [encode_jpeg(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8))] * count,
        "audio": rng.integers(-9000, 9000, 640 * count).astype(np.int16),
        "landmarks": face.astype(np.float32),
        "sync_box": np.array([0.2, 0.2, 0.8, 0.8], np.float32),
        "boxes": np.full((count, 3), 50, np.float32),
        "emotion": np.int32(emotion),
        "identity": identity,
        "clip": clip,
        "coefficients": np.zeros((count, 64), np.float32),
        "phonemes": np.zeros(count, np.int32),
    }
    return usual | fields


def row(clip: str, identity: str, state: str = "accepted", reason: str = "", **fields) -> Row:
    """A row of a manifest; `fields` go before what it has else."""
    usual = {
        "clip": clip,
        "job": clip,
        "identity": identity,
        "emotion": "neutral",
        "source": "",
        "bytes": 0,
        "sha256": "",
        "start": 0.0,
        "end": 1.2,
        "scores": Scores(sharpness=40.0 + len(clip), sync=0.4),
        "state": state,
        "reason": reason,
    }
    return Row(**usual | fields)


def write_set(
    out: Path, examples: list[dict], rows: list[Row] | None = None, test=("zoe",)
) -> Path:
    """Writes records and a manifest, which is made up if it is not given."""
    sources = [Source(e["clip"], e["identity"], lambda e=e: e) for e in examples]
    write_records(sources, out, lambda s: "test" if s.identity == "zoe" else "train")
    if rows is None:
        rows = [row(e["clip"], e["identity"]) for e in examples]
    write_manifest(out, rows)
    return out


def small_set(out: Path, **fields) -> Path:
    """Three clips of two people; `fields` are of the second one, b."""
    examples = [example("a", "ann"), example("b", "ann", **fields), example("z", "zoe", emotion=4)]
    return write_set(out, examples)
