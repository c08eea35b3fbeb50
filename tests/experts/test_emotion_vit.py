"""The emotion ViT against the published network's outputs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.errors import InputError
from reta_jax.experts.emotion_vit import EmotionViT, resize
from reta_jax.pretrained import emotion_vit
from tests.golden.fill import golden, state_dict, uniform
from tests.weights import random_variables

SMALL = EmotionViT(size=32, patch=8, width=24, layers=2, heads=3, mlp_dim=48, classes=8)


def test_equals_the_published_network():
    variables = emotion_vit.convert(state_dict("vit_face_expression"))
    images = np.moveaxis(uniform("vit", (2, 3, 224, 224), -1, 1), 1, -1)
    features, logits = jax.jit(EmotionViT().apply)(variables, images)
    expected = golden("vit")
    np.testing.assert_allclose(features, expected["cls_ln"], atol=3e-5)
    np.testing.assert_allclose(logits, expected["logits"], atol=3e-5)


def test_has_the_published_number_of_parameters():
    images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    params = jax.eval_shape(EmotionViT().init, jax.random.key(0), images)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 85_804_039


def test_missing_and_unexpected_keys_are_named():
    state = dict(state_dict("vit_face_expression"))
    del state["vit.layernorm.bias"]
    state["pooler.weight"] = np.zeros(2)
    with pytest.raises(InputError, match=r"vit\.layernorm\.bias.*pooler\.weight"):
        emotion_vit.convert(state)


def test_any_size_is_resized_as_pil_does():
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    expected = Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR)
    resized = resize(jnp.asarray(picture[None], jnp.float32), 32)[0]
    np.testing.assert_allclose(resized, np.asarray(expected, np.float32), atol=1.0)  # PIL rounds


def test_images_receive_gradient_and_bfloat16_stays_close():
    images = jax.random.uniform(jax.random.key(1), (2, 48, 48, 3), minval=-1)
    variables = random_variables(SMALL, images)
    _, logits = jax.jit(SMALL.apply)(variables, images)
    gradient = jax.jit(jax.grad(lambda x: SMALL.apply(variables, x)[1][:, 0].sum()))(images)
    assert (np.abs(gradient).max(axis=(1, 2, 3)) > 0).all()
    _, half = jax.jit(SMALL.clone(dtype=jnp.bfloat16).apply)(variables, images)
    assert logits.dtype == half.dtype == jnp.float32
    np.testing.assert_allclose(half, logits, atol=0.05)
