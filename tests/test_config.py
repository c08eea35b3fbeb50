"""The experiments: what they say of themselves, and what is no experiment."""

import pytest

from configs import ablations, corpus, hdtf, lite, mead, synthetic
from configs.judges import corpus as judges_of_filmed_faces
from configs.judges import synthetic as judges_of_the_world
from reta_jax.checks import check_config
from reta_jax.config import swaps_emotions
from reta_jax.differences import differences
from reta_jax.weights import config_to_dict


@pytest.mark.parametrize(
    ("experiment", "variant", "known"),
    [
        (hdtf, "Smoke", "smoke"), (mead, "smok", "smoke"), (lite, "smok", "smoke"),
        (synthetic, "smok", "warmup, smoke"),
        (corpus, "vioce", "64, 128, 256, voice, smoke"), (corpus, "100", "64, 128"),
        (ablations, "no_mouth", "full, no_gpl"),
        (judges_of_the_world, "foo", "emotion_vit, "),
        (judges_of_filmed_faces, "", "emotion_vit, "),
    ],
)  # fmt: skip
def test_a_variant_that_is_none_is_refused(experiment, variant, known):
    """Else a mistyped one would start the whole experiment."""
    with pytest.raises(ValueError, match=f"there is no variant '{variant}': name one of {known}"):
        experiment.get_config(variant)


@pytest.mark.parametrize("variant", ["", "smoke"])
@pytest.mark.parametrize("experiment", [corpus, hdtf, lite, mead, synthetic])
def test_experiments_are_accepted(experiment, variant):
    config = experiment.get_config(variant)
    check_config(config, devices=1)
    assert config.name.endswith("_smoke") == bool(variant)


@pytest.mark.parametrize("variant", ["64", "128", "256", "voice"])
def test_the_stages_of_the_corpus_are_accepted(variant):
    check_config(corpus.get_config(variant), devices=1)


@pytest.mark.parametrize("row", [*ablations.ROWS, *ablations.WEIGHTS, "base", "full,64"])
def test_the_rows_of_the_ablation_are_accepted(row):
    check_config(ablations.get_config(row), devices=1)


def test_mead_is_hdtf_with_people_who_feel():
    """The model, the losses and the schedule are one recipe's."""
    paper = hdtf.get_config()
    changes = differences(config_to_dict(paper), mead.get_config())
    assert changes.keys() == {"name", "data.dirs", "data.weights"}
    assert swaps_emotions(paper) and paper.data.pair_for_eds
