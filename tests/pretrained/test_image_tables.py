"""The tables of the image networks against the published key lists."""

import jax
import numpy as np
import pytest

from data_pipeline.errors import InputError
from reta_jax.pretrained import edtalk, lia
from reta_jax.pretrained.adain import to_adain
from tests.golden.fill import state_dict


def test_lia_and_edtalk_give_the_same_trees():
    """Their shared keys carry the same seeded weights."""
    trees = [
        convert(state_dict(name))
        for convert, name in (
            (lia.convert, "lia_gen"),
            (edtalk.convert, "edtalk_gen"),
            (edtalk.convert, "edtalk_lip_pose_gen"),
        )
    ]
    for tree in trees[1:]:
        jax.tree.map(np.testing.assert_array_equal, trees[0], tree)


def test_adain_adds_a_zero_beta():
    published = lia.convert(state_dict("lia_gen"))
    plain, adain = published["generator"], to_adain(published, None)["generator"]
    betas = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(adain)
        if "beta" in jax.tree_util.keystr(path)
    ]
    assert len(betas) == 2 * 19
    assert not any(leaf.any() for leaf in betas)
    spreads = 19
    assert len(jax.tree.leaves(adain)) == len(jax.tree.leaves(plain)) + len(betas) + spreads
    np.testing.assert_array_equal(
        adain["level_64"]["up"]["kernel"], plain["level_64"]["up"]["kernel"]
    )


def test_every_misfit_is_named_at_once():
    state = dict(state_dict("edtalk_dis"))
    del state["final_conv.0.weight"], state["convs.3.skip.1.weight"]
    state["convs.0.0.weight"] = np.zeros((32, 3, 1, 1), np.float32)
    state["final_linear.1.weight"] = np.zeros((1, 512, 1, 1), np.float32)
    state["convs.9.surprise"] = np.zeros(1, np.float32)
    with pytest.raises(InputError) as error:
        edtalk.convert_discriminator(state)
    message = str(error.value)
    assert "2 missing: convs.3.skip.1.weight, final_conv.0.weight" in message
    assert "1 unexpected: convs.9.surprise" in message
    assert "2 mis-shaped" in message
    assert "convs.0.0.weight" in message and "final_linear.1.weight" in message
