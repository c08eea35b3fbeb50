"""Whisper's encoder against plain NumPy and transformers' spectrogram; its two kinds of file."""

import math
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.errors import InputError
from reta_jax.models.whisper import Whisper, positions, whisper_log_mel
from reta_jax.pretrained import whisper
from reta_jax.pretrained.sources import read_source
from tests.weights import random_variables

SMALL = Whisper(width=16, layers=2, heads=4, mlp_dim=24, bins=80)


def voice(samples: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    seconds = np.arange(samples) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (200 + 3000 * seconds) * seconds)
    return np.float32(tone * (seconds % 0.2 > 0.05) + 1e-3 * rng.standard_normal(samples))


def test_log_mel_is_the_published_one():
    from transformers import WhisperFeatureExtractor

    audio = voice(16_000)
    published = WhisperFeatureExtractor(feature_size=80)(
        audio, sampling_rate=16_000, return_tensors="np"
    )["input_features"][0]
    ours = whisper_log_mel(jnp.asarray(audio)[None], 80)[0]
    assert ours.shape == (100, 80) and np.ptp(ours) > 1.9  # from the loudest to its floor
    # The published window goes on with zeros, where ours is mirrored.
    np.testing.assert_allclose(ours[:98], published.T[:98], atol=1e-4)


def test_positions_are_the_published_ones():
    ours = positions(124, 384)
    assert ours.shape == (124, 384)
    for step, channel in ((0, 0), (1, 0), (7, 100), (123, 191)):
        angle = step * math.exp(-math.log(10_000) / 191 * channel)
        assert ours[step, channel] == pytest.approx(math.sin(angle), abs=1e-6)
        assert ours[step, 192 + channel] == pytest.approx(math.cos(angle), abs=1e-6)


def numpy_encoder(params: dict, mel: np.ndarray, network: Whisper) -> np.ndarray:
    """Step by step in float64: (s, bins) to (s / 2, width)."""
    erf = np.vectorize(math.erf)
    gelu = lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))
    dense = lambda p, x: x @ p["kernel"] + p["bias"]

    def norm(p, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

    def conv(p, x, stride):
        x = np.pad(x, ((1, 1), (0, 0)))
        taps = [x[i : len(x) - 2 + i] @ p["kernel"][i] for i in range(3)]
        return (sum(taps) + p["bias"])[::stride]

    def attend(p, x):
        q, k, v = (np.split(dense(p[n], x), network.heads, -1) for n in ("query", "key", "value"))
        mixed = []
        for one_q, one_k, one_v in zip(q, k, v, strict=True):
            scores = np.exp(one_q @ one_k.T / math.sqrt(one_q.shape[1]))
            mixed.append(scores / scores.sum(1, keepdims=True) @ one_v)
        return dense(p["out"], np.concatenate(mixed, -1))

    x = gelu(conv(params["conv_0"], mel, 1))
    x = gelu(conv(params["conv_1"], x, 2)) + positions(len(mel) // 2, network.width)
    for i in range(network.layers):
        layer = params[f"layer_{i}"]
        x = x + attend(layer["attention"], norm(layer["attention_norm"], x))
        y = gelu(dense(layer["mlp_in"], norm(layer["mlp_norm"], x)))
        x = x + dense(layer["mlp_out"], y)
    return norm(params["norm"], x)


def test_network_is_numpys():
    audio = jnp.asarray(np.stack([voice(6400), voice(6400)[::-1]]))
    variables = random_variables(SMALL, audio)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), variables
    )
    ours = jax.jit(SMALL.apply)(variables, audio)
    assert ours.shape == (2, 20, 16)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    mels = np.asarray(whisper_log_mel(audio, 80), np.float64)
    expected = np.stack([numpy_encoder(params, mel, SMALL) for mel in mels])
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def hub_state() -> dict[str, np.ndarray]:
    """The small network's tensors under the hub's names; the keys' biases are not published."""
    rng = np.random.default_rng(2)
    table = whisper.table(SMALL)
    state = {
        f"model.encoder.{key}": rng.standard_normal(entry.shape).astype(np.float16)
        for key, entry in table.items()
        if not key.endswith("k_proj.bias")
    }
    state["model.encoder.embed_positions.weight"] = np.zeros((1500, 16), np.float16)
    state["model.decoder.layer_norm.weight"] = np.zeros(16, np.float16)
    return state


def ctranslate2_file(path, state: dict[str, np.ndarray], dtype: int = 4):
    """The same as CTranslate2 writes it: names end with a zero, the first attention is fused."""
    tensors = {"encoder/num_heads": (2, np.int16(SMALL.heads))}
    parts = {"weight": "gamma", "bias": "beta"}
    renamed = {new: old for old, new in whisper.LAYER.items()}
    for key, value in state.items():
        if not key.startswith("model.encoder.") or "embed" in key:
            continue
        place, _, part = key.removeprefix("model.encoder.").rpartition(".")
        part = parts[part] if "norm" in place else part
        *layer, rest = place.removeprefix("layers.").split(".", 1)
        if "_proj" in rest and "out" not in rest:
            continue
        where = f"layer_{layer[0]}/{renamed[rest]}" if layer else place
        tensors[f"encoder/{where}/{part}"] = (dtype, value)
    for i in range(SMALL.layers):
        key = f"model.encoder.layers.{i}.self_attn"
        for part in ("weight", "bias"):
            q, v = state[f"{key}.q_proj.{part}"], state[f"{key}.v_proj.{part}"]
            k = state.get(f"{key}.k_proj.{part}", np.zeros_like(q))
            fused = np.concatenate([q, k, v])
            tensors[f"encoder/layer_{i}/self_attention/linear_0/{part}"] = (dtype, fused)
    tensors["decoder/layer_norm/gamma"] = (4, np.zeros(16, np.float16))

    text = lambda s: struct.pack("<H", len(s) + 1) + s.encode() + b"\0"
    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for name, (kind, value) in tensors.items():
        data += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", kind, value.nbytes) + value.tobytes()
    path.write_bytes(data + struct.pack("<I", 0))
    return path


def test_both_kinds_of_file_are_one_network(tmp_path):
    state = hub_state()
    found = whisper.read(ctranslate2_file(tmp_path / "model.bin", state))
    assert found.kind == "whisper"
    assert found.fields == {"width": 16, "layers": 2, "heads": 4, "mlp_dim": 24, "bins": 80}
    jax.tree.map(np.testing.assert_array_equal, found.variables, whisper.convert(state, SMALL))
    shapes = jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, 640)))["params"]
    jax.tree.map(lambda ours, x: np.testing.assert_equal(x.shape, ours.shape), shapes,
                 found.variables)  # fmt: skip
    assert not found.variables["layer_0"]["attention"]["key"]["bias"].any()


def test_refuses_a_cut_and_a_quantised_file(tmp_path):
    whole = ctranslate2_file(tmp_path / "model.bin", hub_state()).read_bytes()
    (tmp_path / "cut.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut.bin is no whole CTranslate2 model"):
        whisper.read(tmp_path / "cut.bin")
    state = {key: value.astype(np.int8) for key, value in hub_state().items()}
    with pytest.raises(InputError, match="quantised"):
        whisper.read(ctranslate2_file(tmp_path / "int8.bin", state, dtype=1))


@pytest.mark.parametrize("left_out", ["conv1", "layers.0.fc1"])
def test_refuses_a_file_without_what_its_sizes_are_read_off(tmp_path, left_out):
    state = {key: value for key, value in hub_state().items() if f".{left_out}." not in key}
    path = ctranslate2_file(tmp_path / "model.bin", state)
    with pytest.raises(InputError, match=f"{path}.* is not as whisper is published .*{left_out}"):
        read_source("whisper", path)


def test_names_every_misfit():
    state = hub_state()
    del state["model.encoder.layer_norm.bias"]
    state["model.encoder.adapter.weight"] = np.zeros(3)
    with pytest.raises(InputError) as error:
        whisper.convert(state, SMALL)
    assert "layer_norm.bias" in str(error.value) and "adapter.weight" in str(error.value)
