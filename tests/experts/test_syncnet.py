"""Both lip-sync judges against the published networks' outputs, and the crop before the expert."""

import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.errors import InputError
from reta_jax.experts.syncnet import (
    SyncNetExpert,
    SyncNetV2,
    frames_to_input,
    frames_to_v2_input,
    unit_vectors,
)
from reta_jax.metrics.sync import crop_face, face_places
from reta_jax.pretrained import syncnet
from tests.golden.fill import golden, state_dict, uniform
from tests.weights import random_variables

EXPERT_INPUTS = jnp.zeros((1, 48, 96, 15)), jnp.zeros((1, 80, 16))
V2_INPUTS = jnp.zeros((1, 5, 224, 224, 3)), jnp.zeros((1, 13, 20))


def test_expert_equals_the_published_network():
    variables = syncnet.convert_expert(state_dict("wav2lip_syncnet"))
    faces = np.moveaxis(uniform("faces", (2, 15, 48, 96), 0, 1), 1, -1)
    mel = uniform("mel1", (2, 1, 80, 16), -4, 4)[:, 0]
    face, audio = jax.jit(SyncNetExpert().apply)(variables, faces, mel)
    expected = golden("wav2lip_syncnet")
    np.testing.assert_allclose(face, expected["vid"], atol=3e-6)
    np.testing.assert_allclose(audio, expected["aud"], atol=3e-6)


def test_v2_equals_the_published_network():
    variables = syncnet.convert_v2(state_dict("syncnet_v2"))
    lips = uniform("lip5", (2, 3, 5, 224, 224), 0, 255).transpose(0, 2, 3, 4, 1)
    mfcc = uniform("mfcc", (2, 1, 13, 20), -20, 20)[:, 0]
    lip, audio = jax.jit(SyncNetV2().apply)(variables, lips, mfcc)
    expected = golden("syncnet_v2")
    np.testing.assert_allclose(lip, expected["lip"], atol=1e-5 * np.abs(expected["lip"]).max())
    np.testing.assert_allclose(audio, expected["aud"], atol=1e-5 * np.abs(expected["aud"]).max())


@pytest.mark.parametrize(
    ("network", "inputs", "count"),
    [(SyncNetExpert(), EXPERT_INPUTS, 16_435_072), (SyncNetV2(), V2_INPUTS, 13_631_616)],
)
def test_has_the_published_number_of_parameters(network, inputs, count):
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count


def test_prefix_is_accepted_and_misfits_are_named():
    state = {f"module.{key}": value for key, value in state_dict("wav2lip_syncnet").items()}
    del state["module.face_encoder.16.conv_block.1.running_var"]
    state["module.audio_encoder.0.conv_block.0.weight"] = np.zeros((32, 3, 3, 3))
    with pytest.raises(InputError) as error:
        syncnet.convert_expert(state)
    for name in ("1 missing: face_encoder.16", "1 mis-shaped: audio_encoder.0.conv_block.0.weight"):
        assert name in str(error.value)
    assert "unexpected" not in str(error.value)


def test_narrow_expert_learns_which_voice_belongs_to_which_face():
    network = SyncNetExpert(channel_multiplier=0.125)
    keys = jax.random.split(jax.random.key(0))
    faces = jax.random.uniform(keys[0], (4, 48, 96, 15))
    mel = jax.random.uniform(keys[1], (4, 80, 16), minval=-4, maxval=4)
    variables = random_variables(network, faces, mel)
    params, stats = variables["params"], variables["batch_stats"]

    def loss(params, stats):
        variables = {"params": params, "batch_stats": stats}
        (face, audio), new = network.apply(
            variables, faces, mel, train=True, mutable=["batch_stats"]
        )
        cosines = jnp.clip(face @ audio.T, 1e-6, 1 - 1e-6)
        same = jnp.eye(4)
        return -(same * jnp.log(cosines) + (1 - same) * jnp.log(1 - cosines)).mean(), (new, cosines)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (first, (new, _)), _ = step(params, stats)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), stats, new["batch_stats"])
    assert min(jax.tree.leaves(moved)) > 0
    for _ in range(15):
        (last, (new, cosines)), gradient = step(params, stats)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        stats = new["batch_stats"]
    assert last < first / 2
    assert (np.argmax(cosines, axis=1) == np.arange(4)).all()


def test_unit_vectors_survive_zero():
    rows = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_vectors(rows), [[0.6, 0.8], [0, 0]], atol=1e-7)
    assert np.isfinite(jax.grad(lambda x: unit_vectors(x).sum())(rows)).all()


def test_crop_of_exactly_96_pixels_is_a_copy():
    frames = jax.random.uniform(jax.random.key(0), (1, 5, 128, 160, 3), minval=-1)
    box = jnp.array([[8 / 128, 32 / 160, 104 / 128, 128 / 160]])
    faces = np.asarray(frames_to_input(frames, box))
    expected = (frames[0, :, 8 + 48 : 104, 32:128, ::-1] + 1) / 2  # lower half, BGR
    for t in range(5):
        np.testing.assert_allclose(faces[0, ..., 3 * t : 3 * t + 3], expected[t], atol=1e-5)


def test_crop_resizes_as_jax_does_and_batches_apart():
    frames = jax.random.uniform(jax.random.key(0), (2, 5, 120, 120, 3), minval=-1)
    boxes = jnp.array([[0, 0, 1, 1], [0.1, 0.3, 0.8, 0.9]])
    faces = frames_to_input(frames, boxes)
    whole = jax.image.resize(frames[0], (5, 96, 96, 3), "bilinear", antialias=True)
    expected = ((whole[:, 48:, :, ::-1] + 1) / 2).transpose(1, 2, 0, 3).reshape(48, 96, 15)
    # jax weighs the border by what is inside; here it repeats. All else is equal.
    np.testing.assert_allclose(faces[0, :-1, 1:-1], expected[:-1, 1:-1], atol=1e-5)
    np.testing.assert_allclose(frames_to_input(frames[1:], boxes[1:])[0], faces[1], atol=1e-6)
    assert faces.min() >= 0 and faces.max() <= 1


def test_crop_beyond_the_frame_is_finite_and_differentiable():
    frames = jax.random.uniform(jax.random.key(0), (1, 5, 64, 64, 3), minval=-1)
    box = jnp.array([[0.5, -0.2, 1.3, 1.4]])
    assert np.isfinite(frames_to_input(frames, box)).all()
    gradient = jax.grad(lambda x: (frames_to_input(x, box) ** 2).sum())(frames)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:, :, :32]).max() == 0  # above the box
    assert np.abs(gradient[:, :, 60:]).min() > 0


def test_v2_learns_from_the_crop_that_it_judges():
    """Smooth pictures, of which training samples between pixels and the pipeline does not."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 3, 3, 3), np.uint8)
    frames = np.stack([cv2.resize(picture, (256, 256)) for picture in coarse])
    box = np.array([0.4, 0.35, 0.7, 0.6], np.float32)
    places = face_places(frames, box)
    judged = [crop_face(frame, *at)[..., ::-1] for frame, at in zip(frames, places, strict=True)]
    shown = jnp.asarray(frames[None], jnp.float32) / 127.5 - 1
    learnt = frames_to_v2_input(shown, jnp.asarray(box[None]))
    assert learnt.shape == (1, 5, 224, 224, 3)
    assert np.abs(np.asarray(learnt[0]) - np.float64(judged)).mean() < 1
