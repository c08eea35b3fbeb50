"""Weights by hub id: from the hub's cache, or a sentence that helps. No test asks a network."""

import types

import jax
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import save_file

from data_pipeline.errors import InputError
from reta_jax.pretrained.hub import cached_folder, is_hub_id, resolve
from reta_jax.pretrained.load import load
from reta_jax.pretrained.reta import load_reta
from reta_jax.pretrained.sources import import_source
from tests.pretrained.states import TINY_VIT, TINY_VOICE, vit_state, voice_state, write_json
from tests.pretrained.torch_writer import save_zip

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The hub's cache, empty, and no network behind it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def online(monkeypatch):
    """Has the hub answer every download with an error, or by writing files."""

    def answer(what):
        def download(hub_id, local_files_only=False, **_):
            if local_files_only:
                raise errors.LocalEntryNotFoundError("not in the cache")
            if isinstance(what, Exception):
                raise what
            return what

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    return answer


def cached(cache, hub_id):
    """The folder of a repository's files, laid out as the hub's client does."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    (repository / "snapshots" / REVISION).mkdir(parents=True)
    return repository / "snapshots" / REVISION


def failure(kind, status):
    response = types.SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("refused", response=response)


def test_cached_repositories_load_without_a_network(cache, tmp_path):
    folder = cached(cache, "facebook/wav2vec2-base-960h")
    save_file(voice_state(), folder / "model.safetensors")
    write_json(folder, config=TINY_VOICE)
    assert cached_folder("facebook/wav2vec2-base-960h") == folder
    found = load("wav2vec2", "facebook/wav2vec2-base-960h")
    import_source("wav2vec2", folder / "model.safetensors", tmp_path / "out")
    again = load("wav2vec2", str(tmp_path / "out"))
    jax.tree.map(np.testing.assert_array_equal, found.variables, again.variables)
    assert found.config["fields"] == again.config["fields"]
    assert found.provenance == again.provenance
    assert found.provenance[0]["source"] == "wav2vec2" and found.config["kind"] == "wav2vec2"


def test_an_older_repository_without_safetensors(cache):
    folder = cached(cache, "somebody/faces")
    save_zip(folder / "pytorch_model.bin", vit_state())
    write_json(folder, config=TINY_VIT)
    found = load("emotion_vit", "somebody/faces")
    assert found.config["fields"]["width"] == 16
    save_file(vit_state(classes=3), folder / "model.safetensors")  # the safer one comes first
    with pytest.raises(InputError, match="model.safetensors"):
        load("emotion_vit", "somebody/faces")


def test_a_local_folder_comes_first(cache, tmp_path):
    folder = tmp_path / "somebody" / "faces"
    folder.mkdir(parents=True)
    assert resolve("somebody/faces", "emotion_vit", on_hub=True).samefile(folder)
    with pytest.raises(InputError, match="no weights for emotion_vit in somebody/faces"):
        load("emotion_vit", "somebody/faces")
    save_file(vit_state(), folder / "model.safetensors")
    write_json(folder, config=TINY_VIT)
    assert load("emotion_vit", "somebody/faces").config["labels"][0] == "angry"


def test_a_cache_with_half_a_repository_does_not_count(cache):
    folder = cached(cache, "somebody/faces")
    write_json(folder, config=TINY_VIT)
    assert cached_folder("somebody/faces") is None


def test_offline_without_a_cache_says_how_to_get_the_files():
    with pytest.raises(InputError) as error:
        load("wav2vec2", "facebook/wav2vec2-base-960h")
    for what in (
        "no weights for wav2vec2 from facebook/wav2vec2-base-960h",
        "no such folder",
        "the hub cannot be reached",
        "hf download facebook/wav2vec2-base-960h --local-dir DIR",
    ):
        assert what in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (failure(errors.RepositoryNotFoundError, 404), "the hub has no such repository, and .*no"),
        (failure(errors.GatedRepoError, 403), "gated.*hf auth login"),
        (failure(errors.HfHubHTTPError, 503), "cannot be reached"),
        (OSError("connection refused"), "cannot be reached"),
    ],
)
def test_what_the_hub_may_answer(online, answer, what):
    online(answer)
    with pytest.raises(InputError, match=f"no weights for emotion_vit from some/where: .*{what}"):
        load("emotion_vit", "some/where")


def test_a_repository_of_something_else(online, tmp_path):
    (tmp_path / "downloaded").mkdir()
    online(str(tmp_path / "downloaded"))
    with pytest.raises(InputError, match="it holds none of model.safetensors, pytorch_model.bin"):
        load("emotion_vit", "some/where")


@pytest.mark.parametrize("weights", ["../weights", "a--b/c", "-x/y", "some/.hidden"])
def test_paths_that_look_like_hub_ids(weights):
    assert is_hub_id(weights)
    with pytest.raises(InputError, match=f"no weights for wav2vec2 from {weights}: .*no such"):
        load("wav2vec2", weights)


@pytest.mark.parametrize(
    ("kind", "weights", "what"),
    [
        ("vgg19", "weights/vgg19", "reta_jax.pretrained import vgg19 FILE.*random"),
        ("sync_expert", "weights/sync", "Rudrabha/Wav2Lip.*import sync_expert FILE"),
        ("image_networks", "weights/edtalk", "import edtalk FILE"),
        ("morphable", "bfm", "import bfm FILE"),
        ("landmark_net", "weights/landmarks", "reta_jax.train_expert"),
        ("wav2vec2", "/nowhere/wav2vec2", "import wav2vec2 FILE"),
    ],
)
def test_what_is_missing_says_how_to_import_it(kind, weights, what):
    sentence = f"no weights for {kind}: there is no folder {weights}; .*{what}"
    with pytest.raises(InputError, match=sentence):
        load(kind, weights)


def test_a_model_of_ours_that_is_not_there():
    with pytest.raises(InputError, match="no weights for RETA from some/where: .*no such folder"):
        load_reta("some/where")
    with pytest.raises(InputError, match="no weights for RETA: there is no folder nowhere"):
        load_reta("nowhere")


def test_weights_of_the_repository_are_told_where_they_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reta_jax.pretrained.hub.REPOSITORY", tmp_path / "clone")
    with pytest.raises(InputError, match="clone/weights/x .the weights come with a clone of the"):
        resolve(str(tmp_path / "clone/weights/x"), "RETA", on_hub=True)
    (tmp_path / "clone/weights/x").mkdir(parents=True)
    with pytest.raises(InputError, match="no folder weights/x here .there is in .*clone: give"):
        resolve("weights/x", "teacher", on_hub=False)
