"""The losses of section 3.3, one function each; every one is a mean over what it is given.

Images are float [-1, 1], NHWC. Losses are computed in float32.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reta_jax.ops.crop import crop_resize

MOUTH = ((0.55, 0.2), (0.95, 0.8))  # corners (y, x) in a face's box
TINTS = 10.0  # of the mouth, beside its L1

Relativistic = Literal["pairwise", "average"]
RELATIVISTIC = get_args(Relativistic)


def l1_loss(generated: Float[Array, "*s"], real: Float[Array, "*s"]) -> Float[Array, ""]:
    """First term of Eq. 3, as a mean over pixels and channels."""
    return jnp.abs(_f32(generated) - _f32(real)).mean()


def perceptual_loss(
    generated: list[tuple[Array, ...]], real: list[tuple[Array, ...]]
) -> Float[Array, ""]:
    """Second term of Eq. 3 as LIA and EDTalk have it: sum over scales and taps of 10 mean|d|.

    Args:
      generated, real: for each scale of the image pyramid, the VGG-19 taps. `real` is a constant.
    """
    total = jnp.zeros(())
    for taps_generated, taps_real in zip(generated, real, strict=True):
        for g, r in zip(taps_generated, taps_real, strict=True):
            total += 10.0 * jnp.abs(_f32(g) - jax.lax.stop_gradient(_f32(r))).mean()
    return total


def motion_loss(
    generated: Float[Array, "b t h w c"],
    real: Float[Array, "b t h w c"],
    mask: Float[Array, "b h w 1"],
) -> Float[Array, ""]:
    """Third term of Eq. 3: L1 inside the motion mask of Algorithm 1, as a mean over all pixels."""
    return (jnp.abs(_f32(generated) - _f32(real)) * mask[:, None]).mean()


def mouth_loss(
    generated: Float[Array, "b t h w c"],
    real: Float[Array, "b t h w c"],
    face_box: Float[Array, "b 4"],
) -> Float[Array, ""]:
    """L1 inside the part of a face's box (y0, x0, y1, x1 in [0, 1]) where mouths are, and tints.

    A mouth covers a twentieth of a picture. Where heads move, most of a picture's error lies
    outside of it. A tint is the difference of a pixel's channels from their mean. A tooth of a
    false colour is only a few pixels, so tints count by their squares, `TINTS` times.
    """
    start, side = face_box[:, :2], face_box[:, 2:] - face_box[:, :2]
    first, last = (start + side * jnp.asarray(corner)[None] for corner in MOUTH)
    box = jnp.repeat(jnp.concatenate([first, last], 1), real.shape[1], 0)
    difference = (_f32(generated) - _f32(real)).reshape(-1, *real.shape[2:])
    difference = crop_resize(difference, box, real.shape[2] // 2)
    tint = difference - difference.mean(-1, keepdims=True)
    return jnp.abs(difference).mean() + TINTS * jnp.square(tint).mean()


def lip_shape_loss(
    generated: Float[Array, "*n k 2"], real: Float[Array, "*n k 2"]
) -> Float[Array, ""]:
    """Mean square distance of landmarks from each other, each set seen from its own centre.

    One voice goes with many shapes of the lips. Squares ask for the mean of these shapes; L1 of
    pixels asks for their median, which is mostly shut. Sets are centred because no voice tells
    where a head is.

    Args:
      real: a constant.
    """
    generated, real = _f32(generated), jax.lax.stop_gradient(_f32(real))
    shape = lambda points: points - points.mean(-2, keepdims=True)
    return jnp.square(shape(generated) - shape(real)).sum(-1).mean()


def lip_opening_loss(
    generated: Float[Array, "*n 20 2"], real: Float[Array, "*n 20 2"]
) -> Float[Array, ""]:
    """Square difference of the three gaps between the inner lips, summed, of two people's mouths.

    Gaps alone, because that is what two mouths that say the same have in common.

    Args:
      generated, real: points 48-67 of iBUG's 68, x, y in shares of the faces' boxes. `real` is a
        constant.
    """
    upper, lower = slice(13, 16), slice(19, 16, -1)
    gaps = lambda points: _f32(points)[..., lower, 1] - _f32(points)[..., upper, 1]
    return jnp.square(gaps(generated) - jax.lax.stop_gradient(gaps(real))).sum(-1).mean()


def adversarial_loss(
    logits_first: Float[Array, " n"],
    logits_second: Float[Array, " n"],
    relativistic: Relativistic = "pairwise",
) -> Float[Array, ""]:
    """Eq. 4, pairwise relativistic: E softplus(D(first) - D(second)).

    The generator minimises it with (real, generated), the discriminator with (generated, real).

    Args:
      relativistic: "average" compares each logit with the mean of the other side's logits given:
        half of E softplus(D(first) - E D(second)) + E softplus(E D(first) - D(second)).
    """
    first, second = _f32(logits_first), _f32(logits_second)
    if relativistic == "pairwise":
        return jax.nn.softplus(first - second).mean()
    of_first = jax.nn.softplus(first - second.mean()).mean()
    return (of_first + jax.nn.softplus(first.mean() - second).mean()) / 2


def sync_loss(faces: Float[Array, "n d"], voices: Float[Array, "n d"]) -> Float[Array, ""]:
    """Eq. 5: 1 - cos(v, s) of SyncNet's embeddings."""
    return (1.0 - cosine_similarity(faces, voices)).mean()


def emotion_visual_loss(
    logits_generated: Float[Array, "*n c"], logits_real: Float[Array, "*n c"]
) -> Float[Array, ""]:
    """Eq. 6: KL(softmax(sg(z_gt)) || softmax(z_gen)), the teacher's view of both frames."""
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(_f32(logits_real)))
    log_q = jax.nn.log_softmax(_f32(logits_generated))
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()


def emotion_audio_loss(
    student: Float[Array, "*n d"], teacher: Float[Array, "*n d"]
) -> Float[Array, ""]:
    """L_emo^{v-a} of section 3.1: 1 - cos(f_E, sg(f_V)), f_E already projected to f_V's width."""
    return (1.0 - cosine_similarity(student, jax.lax.stop_gradient(teacher))).mean()


def coefficient_prior(p_exp: Float[Array, "*n k"]) -> Float[Array, ""]:
    """Mean square of the 3DMM's coefficients: the Gaussian prior of model fitting.

    No other loss asks the mesh to look like the face. With this one, modes that do not help stay
    at rest.
    """
    return jnp.square(_f32(p_exp)).mean()


def gradient_penalty(gradient: Float[Array, "n h w c"]) -> Float[Array, ""]:
    """R1: half the mean squared norm of the discriminator's gradient at real images."""
    return 0.5 * jnp.square(_f32(gradient)).sum((1, 2, 3)).mean()


def cosine_similarity(a: Float[Array, "*n d"], b: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """a.b / max(|a||b|, 1e-8), with a finite gradient at zero."""
    a, b = _f32(a), _f32(b)
    norms = jnp.sqrt(jnp.maximum((a * a).sum(-1) * (b * b).sum(-1), 1e-16))
    return (a * b).sum(-1) / norms


def _f32(x: Array) -> Array:
    return x.astype(jnp.float32)
