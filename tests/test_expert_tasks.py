"""What experts learn from a batch: of what is known alone, and where frames are attacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax import expert_tasks
from reta_jax.expert_tasks import (
    Outcome,
    attacked,
    emotion_clips,
    emotion_frames,
    face_points,
    mouth_points,
)
from reta_jax.train_expert import diagnose

pytestmark = pytest.mark.usefixtures("quickly_compiled")


class Constant:
    """A network whose logits are what they are, of frames or of clips."""

    def __init__(self, logits, of_clips):
        self.logits, self.of_clips = jnp.asarray(logits), of_clips

    def apply(self, variables, frames, **_):
        return (self.logits, None) if self.of_clips else (None, self.logits)


@pytest.mark.parametrize(("task", "of_clips"), [(emotion_frames, False), (emotion_clips, True)])
def test_clips_without_a_label_teach_nothing(task, of_clips):
    logits = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    labels = np.array([2, -1, 7])
    batch = {"frames": jnp.zeros((3, 1, 4, 4, 3)), "emotion": jnp.asarray(labels)}

    def outcome(logits):
        return task(Constant(logits, of_clips), {}, batch, False)

    found = outcome(logits)
    chance = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(found.loss, -(chance[0, 2] + chance[2, 7]) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.score, (logits.argmax(1) == labels)[[0, 2]].mean())
    gradient = jax.grad(lambda x: outcome(x).loss)(jnp.asarray(logits))
    assert not gradient[1].any() and gradient[0].any() and found.examples == 2

    outputs = np.asarray(logits), labels
    one = diagnose("emotion_fan", 0.0, Outcome(0, 0, None, outputs), 9)
    other = diagnose("emotion_fan", 0.0, Outcome(0, 0, None, tuple(x[::2] for x in outputs)), 9)
    assert one == other
    assert diagnose("emotion_fan", 0.0, Outcome(0, 0, None, (logits, np.full(3, -1))), 9) == {}


class Points:
    """A network whose points are what they are."""

    size = 16

    def __init__(self, points):
        self.points = jnp.asarray(points)

    def apply(self, variables, frames):
        return self.points


@pytest.mark.parametrize(("task", "count"), [(face_points, 68), (mouth_points, 20)])
def test_clips_without_landmarks_teach_nothing(task, count):
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(4, count, 2)).astype(np.float32)
    landmarks = rng.uniform(size=(4, 1, 68, 2)).astype(np.float32)
    landmarks[1] = 0
    batch = {
        "frames": jnp.zeros((4, 1, 32, 32, 3)),
        "sync_box": jnp.tile(jnp.asarray([[0.1, 0.2, 0.9, 0.8]]), (4, 1)),
        "landmarks": jnp.asarray(landmarks),
    }
    known = jax.tree.map(lambda x: x[np.array([0, 2, 3])], batch)
    every, some = (
        task(Points(x), {}, b, True) for x, b in ((points, batch), (points[[0, 2, 3]], known))
    )
    np.testing.assert_allclose([every.loss, every.score], [some.loss, some.score], rtol=1e-5)
    assert (every.examples, some.examples) == (3, 3)
    nobody = task(Points(points), {}, batch | {"landmarks": 0 * batch["landmarks"]}, True)
    assert (nobody.loss, nobody.score, nobody.examples) == (0, 0, 0)


def test_the_score_of_landmarks_is_pearsons_correlation():
    a, b = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    known = np.arange(9) % 3 > 0
    found = expert_tasks._correlation(jnp.asarray(a), jnp.asarray(b), jnp.asarray(known))
    np.testing.assert_allclose(found, np.corrcoef(a[known], b[known])[0, 1], rtol=1e-5)


def test_frames_are_attacked_within_their_radius():
    """Of a linear loss the worst frame is the gradient's way, as far as is allowed."""
    rng = np.random.default_rng(0)
    slope, frames = rng.normal(size=(2, 2, 3, 4, 4, 3)).astype(np.float32)
    slope[1, 2] = 0  # a frame that the loss does not see stays as it is
    found = attacked(lambda x: (x * slope).sum(), jnp.asarray(frames), jnp.float32(0.5))
    length = np.sqrt(np.square(slope).sum((2, 3, 4), keepdims=True))
    np.testing.assert_allclose(found - frames, 0.5 * slope / np.maximum(length, 1e-9), atol=1e-5)
