"""Prepared networks hear and see what they heard and saw before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.experts.emotion_vit import EmotionViT
from reta_jax.experts.landmark_net import LandmarkNet
from reta_jax.experts.vgg19 import VGG19
from reta_jax.models.prepare import prepare_network
from reta_jax.models.tcn import TCN
from reta_jax.models.wav2vec2 import Wav2Vec2
from reta_jax.models.whisper import Whisper
from tests.weights import random_variables

NETWORKS = {
    "wav2vec2": Wav2Vec2(
        conv_features=(16,) * 7, width=32, layers=2, heads=4, mlp_dim=64, position_kernel=8,
        position_groups=4,
    ),
    "whisper": Whisper(width=16, layers=2, heads=4, mlp_dim=24, bins=80),
    "tcn": TCN(outputs=8, features=16, dilations=(1, 2), linear=3),
    "emotion_vit": EmotionViT(
        size=32, patch=8, width=24, layers=2, heads=3, mlp_dim=48, classes=8
    ),
    "vgg19": VGG19(channel_multiplier=0.125),
    "landmark_net": LandmarkNet(width=8),
}  # fmt: skip
SHAPES = {"wav2vec2": (2, 3200), "whisper": (2, 3200), "tcn": (2, 10, 6)}
IMAGES = (2, 64, 64, 3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_prepared_networks_give_the_same(name, dtype):
    network = NETWORKS[name].clone(dtype=dtype)
    x = np.random.default_rng(0).normal(size=SHAPES.get(name, IMAGES))
    x = jnp.asarray(x, jnp.float32)
    params = random_variables(network, x)["params"]
    prepared = prepare_network(params, dtype)
    before, now = (jax.jit(network.apply)({"params": p}, x) for p in (params, prepared))
    tolerance = 1e-5 if dtype == jnp.float32 else 0.02  # sums of one product, in another order
    for outputs in zip(*map(jax.tree.leaves, (now, before)), strict=True):
        np.testing.assert_allclose(*map(np.float32, outputs), rtol=tolerance, atol=tolerance)


def test_what_networks_would_make_of_their_parameters_is_made():
    """One product for three projections, a kernel for a weight norm, types but of last layers."""
    network = NETWORKS["wav2vec2"].clone(dtype=jnp.bfloat16)
    prepared = prepare_network(
        random_variables(network, jnp.zeros((1, 3200)))["params"], jnp.bfloat16
    )
    attention = prepared["layer_1"]["attention"]
    assert attention.keys() == {"joined", "out"}
    assert attention["joined"]["kernel"].shape == (32, 96)
    assert prepared["positional_conv"].keys() == {"kernel", "bias"}
    layers = attention["joined"], prepared["positional_conv"], prepared["feature_projection"]
    assert {leaf.dtype for layer in layers for leaf in layer.values()} == {jnp.bfloat16.dtype}
    assert prepared["norm"]["scale"].dtype == jnp.float32
    decoder = NETWORKS["tcn"]
    prepared = prepare_network(
        random_variables(decoder, jnp.zeros((1, 10, 6)))["params"], jnp.bfloat16
    )
    assert prepared["stem"]["kernel"].dtype == jnp.bfloat16
    assert {prepared[name]["kernel"].dtype for name in ("head", "linear")} == {jnp.float32.dtype}
    teacher = random_variables(NETWORKS["emotion_vit"], jnp.zeros(IMAGES))
    prepared = prepare_network(teacher, jnp.bfloat16)["params"]
    assert prepared["patches"]["kernel"].dtype == jnp.bfloat16
    assert prepared["classifier"]["kernel"].dtype == jnp.float32
