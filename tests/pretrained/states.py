"""Published files with made-up numbers: of full size where the network has one, else tiny."""

import json
import re
import zlib
from ast import literal_eval
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from reta_jax.experts.emotion_vit import EmotionViT
from reta_jax.models.wav2vec2 import Wav2Vec2
from reta_jax.pretrained import emotion_vit, wav2vec2, whisper
from tests.golden.fill import GOLDEN

State = dict[str, np.ndarray]

TINY_VIT = {
    "image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24,
    "id2label": {str(i): label for i, label in enumerate(emotion_vit.LABELS)},
}  # fmt: skip
TINY_VOICE = {
    "conv_dim": [8] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2], "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
TINY_WHISPER = {
    "model_type": "whisper", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "num_mel_bins": 80,
}  # fmt: skip


def full_state(name: str, unread: str = r"(?!)") -> State:
    """A published network's tensors, quickly made; those that nobody reads are a single number."""
    lines = (GOLDEN / "keys" / f"keys_{name}.txt").read_text().splitlines()
    entries = (line.split("\t")[:2] for line in lines)
    return {
        key: numbers(key, (1,) if re.fullmatch(unread, key) else literal_eval(shape))
        for key, shape in entries
    }


def numbers(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Small whole numbers, others for every key."""
    start = zlib.crc32(key.encode()) % 251
    count = int(np.prod(shape))
    return (np.arange(start, start + count, dtype=np.int32) % 251).astype(np.float32).reshape(shape)


def vit_state(classes: int = 7) -> State:
    """Of the tiny ViT, under the hub's names."""
    network = EmotionViT(
        **emotion_vit.network_fields(TINY_VIT, {}) | {"mean": (0.5,) * 3, "classes": classes}
    )
    return _published(emotion_vit.table(network))


def voice_state() -> State:
    """Of the tiny wav2vec 2.0, under the hub's names."""
    network = Wav2Vec2(**wav2vec2.network_fields(TINY_VOICE, Path("config.json")))
    state = _published(wav2vec2.table(network))
    return {f"wav2vec2.{key}": tensor for key, tensor in state.items()}


def whisper_state() -> State:
    """Of the tiny Whisper's encoder, under the hub's names, with a piece of its decoder."""
    table = whisper.table(whisper.Sizes(**whisper.network_fields(TINY_WHISPER)))
    state = _published({k: v for k, v in table.items() if not k.endswith("k_proj.bias")})
    decoder = {"model.decoder.layer_norm.weight": np.zeros(16, np.float32)}
    return {f"model.encoder.{key}": tensor for key, tensor in state.items()} | decoder


def _published(table: Mapping) -> State:
    return {key: numbers(key, entry.shape) / 251 for key, entry in table.items()}


def write_json(folder: Path, **files: dict[str, Any]) -> None:
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))


# Face models.

VERTICES, RAW_EXPRESSION, RAW_SHAPE = 80, 85, 90  # of the real ones: 35709, 53215, 53490
EXPRESSIONS = 79  # of which 64 are used


def bfm_numbers() -> dict[str, np.ndarray]:
    """The raw model's numbers, micrometres, and which vertices the prepared one keeps."""
    rng = np.random.default_rng(0)
    half = rng.normal(0, 6e4, (RAW_SHAPE // 2, 3))
    return {
        "shape": np.concatenate([half, half + 3e3]),  # neighbours half a centimetre apart
        "modes": rng.normal(0, 1, (EXPRESSIONS, RAW_EXPRESSION * 3)).astype(np.float32),
        "deviations": rng.uniform(1e3, 1e4, EXPRESSIONS),
        "trim": rng.permutation(RAW_SHAPE)[:RAW_EXPRESSION],
        "front": rng.permutation(RAW_EXPRESSION)[:VERTICES],
        "tri": rng.integers(0, VERTICES, (120, 3)),
        "keypoints": rng.permutation(VERTICES)[None, :68],
    }


def prepared_bfm() -> dict[str, np.ndarray]:
    """What BFM_model_front.mat holds: decimetres, indices from one."""
    n = bfm_numbers()
    modes = (n["modes"] * n["deviations"][:, None] / 1e5)[:64]
    modes = modes.T.reshape(RAW_EXPRESSION, 3, 64)[n["front"]]
    mean = n["shape"][n["trim"]][n["front"]] / 1e5
    return {
        "meanshape": mean.reshape(1, -1),
        "exBase": modes.reshape(-1, 64),
        "tri": n["tri"] + 1,
        "keypoints": n["keypoints"] + 1,
    }


def write_raw_bfm(folder: Path) -> Path:
    n = bfm_numbers()
    folder.mkdir()
    save = lambda name, **arrays: scipy.io.savemat(folder / name, arrays)
    save("01_MorphableModel.mat", shapeMU=n["shape"].reshape(-1, 1).astype(np.float32))
    save("BFM_exp_idx.mat", trimIndex=n["trim"][:, None] + 1)
    save("BFM_front_idx.mat", idx=n["front"][:, None] + 1)
    save("facemodel_info.mat", tri=n["tri"] + 1, keypoints=n["keypoints"] + 1)
    (folder / "std_exp.txt").write_text(" ".join(map(repr, n["deviations"].tolist())))
    mean = np.zeros(RAW_EXPRESSION * 3, np.float32)
    body = np.int32(EXPRESSIONS).tobytes() + mean.tobytes() + n["modes"].tobytes()
    (folder / "Exp_Pca.bin").write_bytes(body)
    return folder


NEUTRAL = np.array([[0, 0, 5], [0.5, 0, 5], [5, 0, 4], [0, 5, 4], [5, 5, 3], [9, 9, 0]], float)
SMILE = np.array([[0, 0.5, 0], [0.25, 0, 0]] + [[0, 0, 0]] * 4)


def write_ict(folder: Path, modes: dict[str, np.ndarray] | None = None) -> Path:
    """A mesh of two quadrangles; a mode is an OBJ file of the whole shape."""
    folder.mkdir(parents=True)
    modes = {"mouthSmile_L": SMILE, "jawOpen": -2 * SMILE} if modes is None else modes
    for name, offset in {"generic_neutral_mesh": 0 * NEUTRAL, **modes}.items():
        points = [f"v {x} {y} {z}" for x, y, z in NEUTRAL[: len(offset)] + offset]
        texture = [f"vt {0.1 * i} {0.2 * i}" for i in range(6)]
        faces = ["f 1/1/1 2/2/1 3/3/1 4/4/1", "f 3/3 4/4 5/5 6/6"]
        text = "\n".join(["# made up", *points, *texture, *faces, ""])
        (folder / f"{name}.obj").write_text(text)
    write_json(folder, vertex_indices={"expressions": list(modes)})
    return folder
