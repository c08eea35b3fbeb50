"""The tables' shapes against the published files' own lists, and against the networks."""

import re
from ast import literal_eval

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.experts.emotion_fan import EmotionFAN
from reta_jax.experts.emotion_vit import EmotionViT
from reta_jax.experts.inception import FIDInception
from reta_jax.experts.syncnet import SyncNetExpert, SyncNetV2
from reta_jax.experts.vgg19 import VGG19
from reta_jax.models.discriminator import Discriminator
from reta_jax.models.wav2vec2 import Wav2Vec2
from reta_jax.pretrained import (
    edtalk,
    emotion_fan,
    emotion_vit,
    inception,
    lia,
    syncnet,
    vgg19,
    wav2vec2,
)
from reta_jax.pretrained.adain import image_network_shapes
from tests.golden.fill import GOLDEN
from tests.pretrained.states import TINY_VIT, TINY_VOICE


def published(name):
    """Arrays of the listed shapes without any memory."""
    lines = (GOLDEN / "keys" / f"keys_{name}.txt").read_text().splitlines()
    entries = (line.split("\t")[:2] for line in lines)
    return {key: hollow(literal_eval(shape)) for key, shape in entries}


def hollow(shape):
    return np.broadcast_to(np.float32(0), shape)


def shapes(network, *inputs):
    arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs)
    return jax.eval_shape(network.init, jax.random.key(0), *arrays)


def same_shapes(params, expected):
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, expected)


IMAGE, VIT_IMAGE = (1, 256, 256, 3), (1, 224, 224, 3)
FACES, VOICE = (1, 48, 96, 15), (1, 3200)


@pytest.mark.parametrize(
    ("name", "convert", "network", "inputs"),
    [
        ("edtalk_dis", edtalk.convert_discriminator, Discriminator(256), [IMAGE]),
        ("wav2vec2_base_960h", wav2vec2.convert, Wav2Vec2(), [VOICE]),
        ("vit_face_expression", emotion_vit.convert, EmotionViT(), [VIT_IMAGE]),
        ("emotion_fan_7", emotion_fan.convert, EmotionFAN(), [(1, 2, *VIT_IMAGE[1:])]),
        ("wav2lip_syncnet", syncnet.convert_expert, SyncNetExpert(), [FACES, (1, 80, 16)]),
        ("syncnet_v2", syncnet.convert_v2, SyncNetV2(), [(1, 5, *VIT_IMAGE[1:]), (1, 13, 20)]),
        ("vgg19_torchvision", vgg19.convert, VGG19(), [(1, 32, 32, 3)]),
        ("fid_inception", inception.convert, FIDInception(), [(1, 299, 299, 3)]),
    ],
)  # fmt: skip
def test_published_tensors_fill_the_network(name, convert, network, inputs):
    expected = shapes(network, *inputs)
    params = convert(published(name))
    same_shapes(params, expected if "params" in params else expected["params"])


@pytest.mark.parametrize("name", ["lia_gen", "edtalk_gen", "edtalk_lip_pose_gen"])
def test_published_tensors_fill_the_image_networks(name):
    convert = lia.convert if name.startswith("lia") else edtalk.convert
    same_shapes(convert(published(name)), image_network_shapes("modconv"))


@pytest.mark.parametrize(
    ("source", "network", "inputs"),
    [
        (wav2vec2, Wav2Vec2(**wav2vec2.network_fields(TINY_VOICE, GOLDEN)), VOICE),
        (emotion_vit, EmotionViT(**emotion_vit.network_fields(TINY_VIT, {})), (1, 32, 32, 3)),
    ],
)
def test_tables_follow_the_config(source, network, inputs):
    """Other numbers for the same fields; no two of them equal where they could be confused."""
    table = source.table(network)
    state = {key: hollow(entry.shape) for key, entry in table.items()}
    expected = shapes(network, inputs)
    params = source.convert(state, network)
    same_shapes(params, expected if "params" in params else expected["params"])


@pytest.mark.parametrize(
    ("source", "network"), [(wav2vec2, Wav2Vec2()), (emotion_vit, EmotionViT())]
)
def test_default_sizes_are_the_networks(source, network):
    for name, value in source.Sizes()._asdict().items():
        assert getattr(network, name) == value, name


def test_leaves_stay_views_of_the_file():
    """But for one small and one flattened kernel, so that no second copy of a file is held."""
    for name, convert in (
        ("lia_gen", lia.convert),
        ("wav2vec2_base_960h", wav2vec2.convert),
        ("vit_face_expression", emotion_vit.convert),
        ("edtalk_dis", edtalk.convert_discriminator),
        ("syncnet_v2", syncnet.convert_v2),
    ):
        leaves = jax.tree_util.tree_leaves_with_path(convert(published(name)))
        copies = [jax.tree_util.keystr(path) for path, leaf in leaves if any(leaf.strides)]
        assert not [path for path in copies if not re.search(r"dense'|lip_|mask_vector", path)]
