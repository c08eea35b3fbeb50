"""ViT and wav2vec 2.0 in transformers' layout: spellings of the keys, and the JSON files beside."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from data_pipeline.errors import InputError
from reta_jax.experts.emotion_vit import EmotionViT
from reta_jax.experts.load import load_expert
from reta_jax.pretrained.load import load
from reta_jax.pretrained.sources import import_source, read_source
from tests.pretrained.states import TINY_VIT, TINY_VOICE, vit_state, voice_state, write_json
from tests.pretrained.torch_writer import BFLOAT16, save_legacy, save_zip

LABELS = {"0": "sad", "1": "disgust", "2": "angry", "3": "neutral", "4": "fear", "5": "surprise"}
LABELS |= {"6": "happy"}
NEW_NAMES = {  # of transformers 5
    "vit.encoder.layer.": "vit.layers.",
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
}
POSITIONS = "wav2vec2.encoder.pos_conv_embed.conv"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def write(folder, state, config, **files):
    save_file(state, folder / "model.safetensors")
    write_json(folder, config=config, **files)
    return folder / "model.safetensors"


def renamed(state):
    def rename(key):
        for old, new in NEW_NAMES.items():
            key = key.replace(old, new)
        return key

    return {rename(key): tensor for key, tensor in state.items()}


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


# ViT.


def test_old_and_new_names_of_the_vit(folder):
    published = read_source("emotion_vit", write(folder, vit_state(), TINY_VIT))[0]
    new = renamed(vit_state())
    assert "vit.layers.1.attention.o_proj.weight" in new and "vit.layers.0.mlp.fc2.bias" in new
    equal(
        read_source("emotion_vit", write(folder, new, TINY_VIT))[0].variables, published.variables
    )


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_the_bin_file_holds_the_same(folder, save):
    path = write(folder, vit_state(), TINY_VIT)
    expected = read_source("emotion_vit", path)[0]
    path.unlink()
    save(folder / "pytorch_model.bin", vit_state())
    equal(load("emotion_vit", str(folder)).variables, expected.variables)


def test_bfloat16_and_integers_in_safetensors(folder, tmp_path):
    state = {key: tensor.astype(BFLOAT16) for key, tensor in vit_state().items()}
    path = write(folder, state, TINY_VIT)
    import_source("emotion_vit", path, tmp_path / "out")
    expected = state["classifier.weight"].astype(np.float32).T
    for name in (folder, tmp_path / "out"):
        kernel = load("emotion_vit", str(name)).variables["params"]["classifier"]["kernel"]
        np.testing.assert_array_equal(kernel, expected, strict=True)
    state["vit.embeddings.position_ids"] = np.arange(5)
    with pytest.raises(InputError, match="unexpected: vit.embeddings.position_ids"):
        read_source("emotion_vit", write(folder, state, TINY_VIT))


def test_labels_in_the_files_own_order(folder, tmp_path):
    path = write(folder, vit_state(), TINY_VIT | {"id2label": LABELS})
    config = import_source("emotion_vit", path, tmp_path / "out")
    ours = ["sad", "disgusted", "angry", "neutral", "fear", "surprised", "happy"]
    assert config["labels"] == ours
    assert json.loads((tmp_path / "out" / "config.json").read_text())["labels"] == ours
    assert load("emotion_vit", str(folder)).config["labels"] == ours


def test_another_number_of_classes(folder):
    eight = LABELS | {"7": "contempt"}
    path = write(folder, vit_state(classes=8), TINY_VIT | {"id2label": eight})
    weights, _ = read_source("emotion_vit", path)
    assert weights.fields["classes"] == 8 and weights.labels[7] == "contempt"
    path = write(folder, vit_state(classes=7), TINY_VIT | {"id2label": eight})
    with pytest.raises(
        InputError, match=rf"{path}.*classifier\.weight is \(7, 16\), expected \(8, 16\)"
    ):
        read_source("emotion_vit", path)


@pytest.mark.parametrize(
    "labels",
    [
        {str(i): f"LABEL_{i}" for i in range(7)},
        LABELS | {"6": "cat"},
        LABELS | {"6": "sadness"},
    ],
    ids=["numbered", "animal", "twice"],
)
def test_unknown_labels(folder, tmp_path, labels):
    path = write(folder, vit_state(), TINY_VIT | {"id2label": labels})
    with pytest.raises(InputError) as error:
        import_source("emotion_vit", path, tmp_path / "out")
    for what in (str(path), labels["6"], "id2label", "angry, disgust"):
        assert what in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_whose_order_of_classes_nobody_states_is_refused(folder, tmp_path):
    path = write(folder, vit_state(), TINY_VIT | {"id2label": {}})
    with pytest.raises(InputError, match=f"{path}.*order of its classes is unknown.*config.json"):
        import_source("emotion_vit", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pixel_statistics_reach_the_network(folder, tmp_path):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = {"image_mean": mean, "image_std": std}
    path = write(folder, vit_state(), TINY_VIT, preprocessor_config=processor)
    import_source("emotion_vit", path, tmp_path / "out")
    plain = EmotionViT(32, 16, 16, 2, 2, 24, 7)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    adjusted = (((images + 1) / 2 - mean) / std).astype(np.float32)
    for name in (folder, tmp_path / "out"):
        network, loaded = load_expert("emotion_vit", str(name), {})
        assert hash(network) == hash(network.clone())  # as a constant of a compiled program must
        assert (network.mean, network.std) == (tuple(mean), tuple(std))
        expected = plain.apply(loaded.variables, jnp.asarray(adjusted))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            network.apply(loaded.variables, jnp.asarray(images)),
            expected,
        )
        assert loaded.provenance[0]["source"] == "emotion_vit"


@pytest.mark.parametrize(
    ("processor", "white", "black"),
    [
        ({}, 1, -1),
        ({"do_normalize": False, "image_mean": [0.3] * 3}, 1, 0),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 1, -1),
        ({"do_rescale": False, "rescale_factor": 1.0, "do_normalize": False}, 255, 0),
    ],
)
def test_what_becomes_of_white_and_black(folder, processor, white, black):
    """As transformers' image processor makes it of 255 and 0."""
    path = write(folder, vit_state(), TINY_VIT, preprocessor_config=processor)
    fields = read_source("emotion_vit", path)[0].fields
    for pixel, expected in ((1, white), (0, black)):
        found = (pixel - np.array(fields["mean"])) / fields["std"]
        np.testing.assert_allclose(found, [expected] * 3)


@pytest.mark.parametrize("other", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-5}])
def test_other_vision_transformers(folder, other):
    path = write(folder, vit_state(), TINY_VIT | other)
    with pytest.raises(InputError, match=f"{path} is another architecture.*{next(iter(other))}"):
        read_source("emotion_vit", path)


# wav2vec 2.0.


def test_both_spellings_of_the_weight_norm(folder):
    old = voice_state()
    expected = read_source("wav2vec2", write(folder, old, TINY_VOICE))[0].variables
    new = {key.removeprefix("wav2vec2."): tensor for key, tensor in old.items()}
    positions = POSITIONS.removeprefix("wav2vec2.")
    for i, part in enumerate(("weight_g", "weight_v")):
        new[f"{positions}.parametrizations.weight.original{i}"] = new.pop(f"{positions}.{part}")
    assert len(new) == len(old)
    equal(read_source("wav2vec2", write(folder, new, TINY_VOICE))[0].variables, expected)


@pytest.mark.parametrize(
    "names",
    [
        ("lm_head.weight", "lm_head.bias"),
        (
            *(
                "quantizer.codevectors",
                "quantizer.weight_proj.weight",
                "quantizer.weight_proj.bias",
            ),
            *("project_q.weight", "project_q.bias", "project_hid.weight", "project_hid.bias"),
        ),
    ],
    ids=["recogniser", "pretraining"],
)
def test_heads_are_left_out(folder, names):
    expected = read_source("wav2vec2", write(folder, voice_state(), TINY_VOICE))[0].variables
    head = {name: np.zeros(32, np.float32) for name in names}
    path = write(folder, voice_state() | head, TINY_VOICE)
    equal(read_source("wav2vec2", path)[0].variables, expected)


@pytest.mark.parametrize(
    "other",
    [
        {"do_stable_layer_norm": True},
        {"feat_extract_norm": "layer", "conv_bias": True},
        {"hidden_act": "relu"},
    ],
)
def test_other_architectures_of_wav2vec(folder, tmp_path, other):
    path = write(folder, voice_state(), TINY_VOICE | other)
    with pytest.raises(InputError) as error:
        import_source("wav2vec2", path, tmp_path / "out")
    for what in (str(path), "another architecture", *other):
        assert what in str(error.value)
    assert not (tmp_path / "out").exists()


def test_audio_that_is_not_normalised(folder):
    path = write(folder, voice_state(), TINY_VOICE, preprocessor_config={"do_normalize": False})
    with pytest.raises(InputError, match=f"{path} wants audio that is not normalised"):
        read_source("wav2vec2", path)


@pytest.mark.parametrize("content", ["{", "[1, 2]"])
def test_broken_json_beside_the_weights(folder, content):
    path = write(folder, voice_state(), TINY_VOICE)
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=str(folder / "config.json")):
        read_source("wav2vec2", path)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("wav2vec2", {"num_hidden_layers": "2"}),
        ("wav2vec2", {"conv_dim": [16]}),
        ("whisper", {"encoder_layers": None}),
        ("emotion_vit", {"id2label": ["angry"]}),
        ("emotion_vit", {"patch_size": 0}),
    ],
)
def test_json_of_other_kinds_of_values_is_refused(folder, tmp_path, name, wrong):
    states = {"wav2vec2": voice_state(), "emotion_vit": vit_state(), "whisper": voice_state()}
    configs = {"wav2vec2": TINY_VOICE, "emotion_vit": TINY_VIT, "whisper": {}}
    path = write(folder, states[name], configs[name] | wrong)
    with pytest.raises(InputError, match=f"{path}, or the config.json beside it, is not as {name}"):
        import_source(name, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
