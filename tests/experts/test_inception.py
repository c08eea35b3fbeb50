"""FID Inception against pytorch-fid's features."""

import jax
import numpy as np

from reta_jax.experts.inception import FIDInception
from reta_jax.pretrained import inception
from tests.golden.fill import golden, state_dict, uniform


def test_equals_the_published_network():
    variables = inception.convert(state_dict("fid_inception"))
    images = np.moveaxis(uniform("fid", (2, 3, 256, 256), 0, 1), 1, -1) * 2 - 1
    stages = {"2b": "b0", "4a": "b1"}  # before the max-pools whose outputs are stored

    @jax.jit
    def run(variables, images):
        kept = lambda module, _: module.name in stages
        return FIDInception().apply(variables, images, capture_intermediates=kept)

    features, captured = run(variables, images)
    expected = golden("fid_inception")
    np.testing.assert_allclose(features, expected["pool3"], atol=2e-6)
    for stage, name in stages.items():
        (x,) = captured["intermediates"][stage]["__call__"]
        pooled = jax.lax.reduce_window(
            x, -np.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID"
        ).mean(axis=(1, 2))
        np.testing.assert_allclose(pooled, expected[name], atol=1e-5)
