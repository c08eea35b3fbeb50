"""All weights that a run lacks are named at once, and none that it does not need."""

import pytest

from configs import corpus, hdtf
from data_pipeline.errors import InputError
from reta_jax.needed import check_at_hand
from reta_jax.weights import save_weights


@pytest.fixture(autouse=True)
def without_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def missing(config, is_start=True):
    with pytest.raises(InputError) as error:
        check_at_hand(config, is_start)
    return str(error.value)


def test_a_user_without_weights_hears_of_all_of_them_at_once():
    config = hdtf.get_config()
    config.model.morphable = "weights/bfm"
    told = missing(config)
    assert told.startswith("6 sets of weights are missing: (1) no weights for emotion_vit from ")
    for what in (
        "(2) no weights for sync_expert: there is no folder weights/sync_expert; ",
        "(3) no weights for vgg19: there is no folder weights/vgg19; import the published file (",
        "(4) no weights for morphable: there is no folder weights/bfm; ",
        "(5) no weights for init_from: there is no folder weights/edtalk; ",
        "(6) no weights for wav2vec2 from facebook/wav2vec2-base-960h: ",
    ):
        assert what in told


def test_a_run_that_goes_on_needs_no_start():
    told = missing(hdtf.get_config(), is_start=False)
    assert told.startswith("3 sets of weights") and "init_from" not in told


@pytest.mark.parametrize(("kind", "number"), [("mel", 2), ("whisper", 1)])
def test_an_audio_encoder_that_comes_with_the_start_is_not_looked_for(tmp_path, kind, number):
    config = corpus.get_config()
    config.init_from = str(tmp_path / "start")
    model = {"audio_encoder": {"kind": kind}}
    save_weights(tmp_path / "start", {}, {"kind": "reta", "model": model})
    told = missing(config)
    assert told.count("no weights for") == number
    assert "no weights for landmark_net: there is no folder weights/corpus/landmark_net " in told
    assert ("no weights for whisper" in told) is (kind == "mel")


def test_random_weights_are_looked_for_nowhere():
    check_at_hand(hdtf.get_config("smoke"), is_start=True)
