"""Networks saved by transformers itself, imported, and compared with what torch computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import transformers  # noqa: E402

from reta_jax.experts.emotion_vit import EmotionViT  # noqa: E402
from reta_jax.models.wav2vec2 import Wav2Vec2  # noqa: E402
from reta_jax.models.whisper import Whisper, whisper_log_mel  # noqa: E402
from reta_jax.pretrained.load import load  # noqa: E402

TOLERANCE = 1e-5
LABELS = ("sad", "disgust", "angry", "neutral", "fear", "surprise", "happy")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randomise(network):
    """Every parameter, norms and biases too, away from its start."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network.eval()


def tuples(fields):
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}


def test_wav2vec2(tmp_path):
    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    network = randomise(transformers.Wav2Vec2Model(config))
    network.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)

    audio = np.random.default_rng(0).standard_normal((2, 6400)).astype(np.float32)
    audio = (audio - audio.mean(1, keepdims=True)) / np.sqrt(audio.var(1, keepdims=True) + 1e-7)
    with torch.no_grad():
        expected = network(torch.from_numpy(audio)).last_hidden_state.numpy()

    found = load("wav2vec2", str(tmp_path))
    ours = Wav2Vec2(**tuples(found.config["fields"]), pad=0)
    features = jax.jit(ours.apply)({"params": found.variables}, audio)
    assert features.shape == expected.shape
    error = np.abs(features - expected).max()
    print(f"wav2vec2: {error:.1e}")
    assert error < TOLERANCE


def test_whisper(tmp_path):
    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_source_positions=62,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    network = transformers.WhisperModel(config)
    positions = network.encoder.embed_positions.weight.clone()
    randomise(network)
    with torch.no_grad():
        network.encoder.embed_positions.weight.copy_(positions)
    network.save_pretrained(tmp_path)

    audio = 0.1 * np.random.default_rng(0).standard_normal((2, 62 * 320)).astype(np.float32)
    mel = np.asarray(whisper_log_mel(jnp.asarray(audio), 80)).transpose(0, 2, 1)
    with torch.no_grad():
        expected = network.encoder(torch.from_numpy(mel.copy())).last_hidden_state.numpy()

    found = load("whisper", str(tmp_path))
    features = jax.jit(Whisper(**found.config["fields"]).apply)({"params": found.variables}, audio)
    assert features.shape == expected.shape
    error = np.abs(features - expected).max()
    print(f"whisper: {error:.1e}")
    assert error < TOLERANCE


def test_vit_for_image_classification(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=48,
        patch_size=16,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    network = randomise(transformers.ViTForImageClassification(config))
    network.save_pretrained(tmp_path)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    transformers.ViTImageProcessorPil(image_mean=mean, image_std=std).save_pretrained(tmp_path)

    images = np.random.default_rng(0).uniform(0, 1, (2, 48, 48, 3)).astype(np.float32)
    pixels = np.moveaxis((images - np.float32(mean)) / np.float32(std), -1, 1)
    with torch.no_grad():
        answer = network(torch.from_numpy(pixels), output_hidden_states=True)
        feature = network.vit.layernorm(answer.hidden_states[-1])[:, 0].numpy()

    found = load("emotion_vit", str(tmp_path))
    assert found.config["labels"] == [
        "sad", "disgusted", "angry", "neutral", "fear", "surprised", "happy",
    ]  # fmt: skip
    ours = EmotionViT(**tuples(found.config["fields"]))
    assert ours.mean == mean and ours.std == std
    f_v, logits = jax.jit(ours.apply)(found.variables, 2 * images - 1)
    for name, value, expected in (
        ("feature", f_v, feature),
        ("logits", logits, answer.logits.numpy()),
    ):
        error = np.abs(value - expected).max()
        print(f"vit {name}: {error:.1e}")
        assert error < TOLERANCE
