"""Every loss against its equation written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from reta_jax import losses
from reta_jax.config import paper


class Normals:
    """Standard normal arrays on the device."""

    def __init__(self):
        self._rng = np.random.default_rng(0)

    def __call__(self, *shape):
        return jnp.asarray(self._rng.normal(size=shape), jnp.float32)


@pytest.fixture
def rng():
    return Normals()


def test_l1_is_the_mean_absolute_difference(rng):
    a, b = rng(2, 2, 3, 4, 4, 3)
    np.testing.assert_allclose(losses.l1_loss(a, b), np.abs(a - b).mean(), rtol=1e-6)


def test_perceptual_sums_scales_and_taps_with_the_inner_ten(rng):
    shapes = [[(2, 8, 8, 4), (2, 4, 4, 8)], [(2, 4, 4, 4), (2, 2, 2, 8)]]
    a = [tuple(rng(*s) for s in scale) for scale in shapes]
    b = [tuple(rng(*s) for s in scale) for scale in shapes]
    expected = sum(
        10 * np.abs(x - y).mean()
        for p, q in zip(a, b, strict=True)
        for x, y in zip(p, q, strict=True)
    )
    np.testing.assert_allclose(losses.perceptual_loss(a, b), expected, rtol=1e-6)
    gradient = jax.grad(lambda b: losses.perceptual_loss(a, b))(b)
    assert all(not np.any(x) for x in jax.tree.leaves(gradient)), "the target is a constant"


def test_motion_counts_the_mask_alone(rng):
    a, b = rng(2, 2, 3, 4, 4, 3)
    mask = (rng(2, 4, 4, 1) > 0).astype(jnp.float32)
    expected = (np.abs(a - b) * mask[:, None]).mean()
    np.testing.assert_allclose(losses.motion_loss(a, b, mask), expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [2, 3])
def test_mouth_is_the_part_of_the_face_where_mouths_are(rng, axis):
    real = rng(2, 3, 80, 80, 3)
    shape = [1, 1, 1, 1, 1]
    shape[axis] = 80
    ramp = jnp.arange(80.0).reshape(shape)  # an error as large as the pixel's number
    boxes = np.float32([[0.3, 0.2, 0.8, 0.6], [0.4, 0.1, 0.9, 0.9]])
    top, left, bottom, right = boxes.T
    centre = top + 0.75 * (bottom - top) if axis == 2 else (left + right) / 2
    found = losses.mouth_loss(real + ramp, real, jnp.asarray(boxes))
    np.testing.assert_allclose(found, (80 * centre - 0.5).mean(), rtol=1e-5)


def test_false_colours_of_the_mouth_count_by_their_squares(rng):
    """A shift of one channel by d: L1 is d / 3, and the tint d (2, -1, -1) / 3."""
    (real,) = rng(1, 2, 2, 16, 16, 3)
    boxes = jnp.asarray([[0.2, 0.2, 0.9, 0.8]] * 2)
    for d in (0.1, 0.8):
        green = real + jnp.asarray([0.0, d, 0.0])[None, None, None, None]
        expected = d / 3 + 10 * d**2 * (4 + 1 + 1) / 9 / 3
        np.testing.assert_allclose(losses.mouth_loss(green, real, boxes), expected, rtol=1e-4)


def test_lips_are_compared_wherever_the_head_is(rng):
    real, bent = rng(2, 3, 20, 2), rng(2, 3, 20, 2)
    moved = real + jnp.asarray([0.3, -0.2])[None, None, None]
    np.testing.assert_allclose(losses.lip_shape_loss(moved, real), 0, atol=1e-9)
    bent -= bent.mean(-2, keepdims=True)
    expected = (bent**2).sum(-1).mean()
    np.testing.assert_allclose(losses.lip_shape_loss(moved + bent, real), expected, rtol=1e-5)
    assert not np.any(jax.grad(losses.lip_shape_loss, 1)(bent, real)), "the truth is a constant"


def test_openings_are_three_gaps_wherever_the_lips_are(rng):
    """Points 48-67 by their numbers among 68: 61-63 of the upper inner lip face 67-65."""
    mine, other = rng(2, 4, 20, 2)
    gap = lambda points, up, down: points[..., down - 48, 1] - points[..., up - 48, 1]
    pairs = ((61, 67), (62, 66), (63, 65))
    expected = sum(((gap(mine, *p) - gap(other, *p)) ** 2).mean() for p in pairs)
    np.testing.assert_allclose(losses.lip_opening_loss(mine, other), expected, rtol=1e-5)
    moved = other + jnp.float32([0.3, -0.2])[None, None]
    moved = moved.at[:, :13].add(rng(4, 13, 2))  # all but the gaps
    np.testing.assert_allclose(losses.lip_opening_loss(moved, other), 0, atol=1e-9)
    assert not np.any(jax.grad(losses.lip_opening_loss, 1)(mine, other)), "it is a constant"


def test_adversarial_is_pairwise_and_symmetric(rng):
    real, fake = rng(2, 5)
    np.testing.assert_allclose(
        losses.adversarial_loss(real, fake), np.log1p(np.exp(real - fake)).mean(), rtol=1e-6
    )
    # The generator's gain is the discriminator's loss: the gradients point apart.
    generator = jax.grad(lambda x: losses.adversarial_loss(jnp.asarray(real), x))(fake)
    discriminator = jax.grad(lambda x: losses.adversarial_loss(x, jnp.asarray(real)))(fake)
    assert np.all(generator < 0) and np.all(discriminator > 0)


def test_the_average_adversarial_compares_with_the_other_sides_mean(rng):
    real, fake = rng(2, 5)
    softplus = lambda x: np.log1p(np.exp(np.asarray(x)))
    expected = softplus(real - fake.mean()).mean() + softplus(real.mean() - fake).mean()
    average = lambda a, b: losses.adversarial_loss(a, b, "average")
    np.testing.assert_allclose(average(real, fake), expected / 2, rtol=1e-6)
    level = jnp.full(5, 0.3), jnp.full(5, -0.4)  # where all are alike, pairs say the same
    np.testing.assert_allclose(average(*level), losses.adversarial_loss(*level), rtol=1e-6)
    assert np.all(jax.grad(average, 0)(real, fake) > 0)
    assert np.all(jax.grad(average, 1)(real, fake) < 0)


def test_sync_is_one_minus_cosine(rng):
    v, s = rng(2, 4, 8)
    cosine = (v * s).sum(-1) / (np.linalg.norm(v, axis=-1) * np.linalg.norm(s, axis=-1))
    np.testing.assert_allclose(losses.sync_loss(v, s), (1 - cosine).mean(), rtol=1e-5)
    np.testing.assert_allclose(losses.sync_loss(v, v), 0, atol=1e-6)


def test_emotion_visual_is_the_divergence_from_the_true_frame(rng):
    real, generated = rng(2, 3, 4, 7)
    log_p, log_q = log_softmax(real, -1), log_softmax(generated, -1)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    np.testing.assert_allclose(losses.emotion_visual_loss(generated, real), expected, rtol=1e-5)
    assert np.any(jax.grad(losses.emotion_visual_loss, argnums=0)(generated, real))
    assert not np.any(jax.grad(losses.emotion_visual_loss, argnums=1)(generated, real))


def test_emotion_audio_teaches_the_student_alone(rng):
    student, teacher = rng(2, 3, 4, 8)
    cosine = (student * teacher).sum(-1)
    cosine /= np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    np.testing.assert_allclose(
        losses.emotion_audio_loss(student, teacher), (1 - cosine).mean(), rtol=1e-5
    )
    assert np.any(jax.grad(losses.emotion_audio_loss, argnums=0)(student, teacher))
    assert not np.any(jax.grad(losses.emotion_audio_loss, argnums=1)(student, teacher))


def test_cosine_has_a_finite_gradient_at_zero():
    zero, one = jnp.zeros((1, 4)), jnp.ones((1, 4))
    assert np.all(np.isfinite(jax.grad(lambda x: losses.emotion_audio_loss(x, one))(zero)))


def test_coefficient_prior_is_the_mean_square(rng):
    p_exp = rng(2, 3, 4)
    np.testing.assert_allclose(losses.coefficient_prior(p_exp), (p_exp**2).mean(), rtol=1e-6)


def test_gradient_penalty_is_half_the_squared_norm(rng):
    gradient = rng(3, 4, 4, 3)
    expected = 0.5 * (gradient.reshape(3, -1) ** 2).sum(1).mean()
    np.testing.assert_allclose(losses.gradient_penalty(gradient), expected, rtol=1e-6)


def test_weights_are_those_of_the_paper():
    weights = paper().loss
    assert (weights.l1, weights.motion, weights.emotion) == (2.0, 1.0, 2.0)  # Table 10, last row
    assert (weights.perceptual, weights.adversarial, weights.sync) == (1.0, 1.0, 1.0)  # D.2
