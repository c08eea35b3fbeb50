"""The training step: pure functions of state and batch, for one device of the mesh.

    L = L_rec + l_adv L_adv + l_syn L_syn + l_emo (L_emo^{v-v} + L_emo^{v-a})      (Eq. 2)

plus the cross-synthesis consistency of the emotion disentanglement strategy (EDS, section 3.3).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array

from reta_jax import losses
from reta_jax.experts.judges import Experts
from reta_jax.experts.vgg19 import image_pyramid
from reta_jax.images import to_float
from reta_jax.models.generator import GeneratorOutput
from reta_jax.models.morphable import MorphableModel
from reta_jax.models.reta import RETA, Controls, Identity
from reta_jax.ops.variance_mask import temporal_variance_mask
from reta_jax.parallel import AXIS
from reta_jax.state import Networks, TrainState, optimizers

SYNC_FRAMES = 5  # what the sync expert looks at, and so the shortest clip it can judge


class Constants(NamedTuple):
    """Arrays that training reads and never changes; replicated over the devices."""

    experts: Experts
    morphable: MorphableModel


class Batch(NamedTuple):
    """A batch on the device, images as float [-1, 1] (data_pipeline/loader.py has the fields)."""

    portrait: Array  # (b, h, w, 3)
    frames: Array  # (b, t, h, w, 3)
    audio: Array  # (b, n)
    offset: Array  # (b,)
    mel: Array  # (b, 80, 16)
    sync_box: Array  # (b, 4)


class Rendered(NamedTuple):
    """A forward pass of the generator's side."""

    output: GeneratorOutput
    identity: Identity
    controls: Controls


def make_step(config: ml_collections.ConfigDict, networks: Networks, adversarial: bool) -> Callable:
    """Builds `step(state, constants, batch) -> (state, metrics)` for one device of the mesh.

    Without `adversarial`, the discriminator rests: training from scratch begins so.
    """
    generator_tx, discriminator_tx = optimizers(config)

    def ema_decay(step: Array) -> Array:
        """Short at first, so that the average soon forgets the random start."""
        return jnp.minimum(config.train.ema_decay, (1.0 + step) / (10.0 + step))

    def step(state: TrainState, constants: Constants, raw: dict[str, Array]):
        batch = to_device_batch(raw)

        def generator_objective(params: Any):
            terms, frames = generator_terms(
                config, networks, params, state.d_params, constants, batch, adversarial
            )
            total = jax.lax.pmean(total_loss(terms, config), AXIS)
            return total, (terms, frames)

        (total, (terms, fake)), gradient = jax.value_and_grad(generator_objective, has_aux=True)(
            state.params
        )
        updates, opt_state = generator_tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = optax.incremental_update(params["reta"], state.ema, 1.0 - ema_decay(state.step))
        metrics = {"total": total, "grad_norm": optax.tree.norm(gradient)}
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)

        if adversarial:

            def discriminator_objective(d_params: Any):
                d_terms = discriminator_terms(
                    config, networks, d_params, batch.frames, fake, state.step
                )
                return jax.lax.pmean(sum(d_terms.values()), AXIS), d_terms

            (_, d_terms), d_gradient = jax.value_and_grad(discriminator_objective, has_aux=True)(
                state.d_params
            )
            updates, d_opt_state = discriminator_tx.update(
                d_gradient, state.d_opt_state, state.d_params
            )
            d_params = optax.apply_updates(state.d_params, updates)
            state = state.replace(d_params=d_params, d_opt_state=d_opt_state)
            terms = terms | d_terms
        return state, metrics | jax.lax.pmean(terms, AXIS)

    return step


def to_device_batch(raw: dict[str, Array]) -> Batch:
    return Batch(
        portrait=to_float(raw["portrait"]),
        frames=to_float(raw["frames"]),
        audio=raw["audio"],
        offset=raw["offset"],
        mel=raw["mel"],
        sync_box=raw["sync_box"],
    )


def render_batch(reta: RETA, params: Any, morphable: MorphableModel, batch: Batch) -> Rendered:
    frames = batch.frames.shape[1]
    return Rendered(
        *reta.apply(
            {"params": params}, batch.portrait, batch.audio, batch.offset, frames, morphable
        )
    )


def total_loss(terms: dict[str, Array], config: ml_collections.ConfigDict) -> Array:
    """Eq. 2: the weighted sum of the terms."""
    weights = losses.LossWeights(**config.loss)
    scale = {
        "l1": weights.l1,
        "perceptual": weights.perceptual,
        "motion": weights.motion,
        "adversarial": weights.adversarial,
        "sync": weights.sync,
        "emotion_visual": weights.emotion,
        "emotion_audio": weights.emotion,
        "emotion_cross": weights.emotion,
        "prior": weights.prior,
    }
    return sum(scale[name] * value for name, value in terms.items())


def generator_terms(
    config: ml_collections.ConfigDict,
    networks: Networks,
    params: Any,
    d_params: Any,
    constants: Constants,
    batch: Batch,
    adversarial: bool,
) -> tuple[dict[str, Array], Array]:
    """The terms of Eq. 2 on this device, unweighted, and the generated frames.

    Terms whose weight is zero are left out, with the networks that they alone need.
    """
    weights = losses.LossWeights(**config.loss)
    experts = constants.experts
    rendered = render_batch(networks.reta, params["reta"], constants.morphable, batch)
    generated, real = rendered.output.frames.astype(jnp.float32), batch.frames
    terms = {"l1": losses.l1_loss(generated, real)}
    if weights.perceptual:
        terms["perceptual"] = losses.perceptual_loss(
            vgg_taps(config, experts, generated), vgg_taps(config, experts, real)
        )
    if weights.motion:
        mask = motion_mask(config, networks.reta, params["reta"], real)
        terms["motion"] = losses.motion_loss(generated, real, mask)
    if adversarial and weights.adversarial:
        discriminator = networks.discriminator
        terms["adversarial"] = losses.adversarial_loss(
            discriminator.apply({"params": d_params}, _flat(real)),
            discriminator.apply({"params": d_params}, _flat(generated)),
        )
    if weights.sync:
        terms["sync"] = losses.sync_loss(
            experts.embed_faces(generated[:, :SYNC_FRAMES], batch.sync_box),
            experts.embed_voice(batch.mel),
        )
    if weights.prior and rendered.controls.p_exp is not None:
        terms["prior"] = losses.coefficient_prior(rendered.controls.p_exp)
    if weights.emotion and networks.reta.emotion_student is not None:
        terms |= emotion_terms(config, networks, params, experts, rendered, generated, real)
    return terms, generated


def emotion_terms(
    config: ml_collections.ConfigDict,
    networks: Networks,
    params: Any,
    experts: Experts,
    rendered: Rendered,
    generated: Array,
    real: Array,
) -> dict[str, Array]:
    """L_emo^{v-v}, L_emo^{v-a}, and L_emo^{v-v} of the cross-synthesis (EDS).

    Emotion changes slowly: the teacher may look at the first `emotion_frames` of a clip only.
    """
    weights = losses.LossWeights(**config.loss)
    frames = min(config.train.emotion_frames, real.shape[1])
    real, generated, batch = real[:, :frames], generated[:, :frames], len(real)
    f_v, logits = experts.teach(_flat(real))
    logits = logits.reshape(batch, frames, -1)
    terms = {}
    if weights.emotion_visual:
        _, logits_generated = experts.teach(_flat(generated))
        terms["emotion_visual"] = losses.emotion_visual_loss(
            logits, logits_generated.reshape(logits.shape)
        )
    if weights.emotion_audio:
        projected = networks.projection.apply(
            {"params": params["projection"]}, rendered.controls.emotion[:, :frames]
        )
        terms["emotion_audio"] = losses.emotion_audio_loss(
            projected, f_v.reshape(batch, frames, -1)
        )
    if config.train.eds:
        crossed = cross_synthesis(networks.reta, params["reta"], rendered, frames)
        _, logits_cross = experts.teach(_flat(crossed))
        terms["emotion_cross"] = losses.emotion_visual_loss(
            jnp.roll(logits, 1, axis=0), logits_cross.reshape(batch, frames, -1)
        )
    return terms


def cross_synthesis(reta: RETA, params: Any, rendered: Rendered, count: int) -> Array:
    """EDS: the portrait and the motion of sample m with the emotion of its neighbour n.

    The neighbour is the next sample on the same device (the batch rolled by one), so the swap
    moves nothing between devices. Returns the first `count` frames, (b, count, h, w, 3).
    """
    motion, emotion = rendered.controls.motion, rendered.controls.emotion
    crossed = Controls(
        motion=None if motion is None else motion[:, :count],
        emotion=jnp.roll(emotion, 1, axis=0)[:, :count],
        p_exp=None,
    )
    output = reta.apply({"params": params}, rendered.identity, crossed, method=RETA.generate)
    return output.frames.astype(jnp.float32)


def vgg_taps(
    config: ml_collections.ConfigDict, experts: Experts, frames: Array
) -> list[tuple[Array, ...]]:
    """VGG-19 taps of every scale of the image pyramid (REFERENCE: LIA's perceptual loss)."""
    scales = tuple(config.train.perceptual_scales)
    return [experts.perceive(images) for images in image_pyramid(_flat(frames), scales)]


def motion_mask(config: ml_collections.ConfigDict, reta: RETA, params: Any, real: Array) -> Array:
    """Algorithm 1 on E_I's features of the real clip: (b, h, w, 1), a constant."""
    tvm = config.tvm
    encode = lambda images: reta.apply({"params": params}, images, method=RETA.encode_portrait)
    textures = encode(_flat(real)).textures
    features = next(x for x in textures if x.shape[1] >= min(tvm.resolution, real.shape[2]))
    features = features.reshape(*real.shape[:2], *features.shape[1:])
    return temporal_variance_mask(
        jax.lax.stop_gradient(features),
        real.shape[2],
        tau_init=tvm.tau_init,
        kernel=tvm.kernel,
        sigma=tvm.sigma,
        tau_final=tvm.tau_final,
    )


def discriminator_terms(
    config: ml_collections.ConfigDict,
    networks: Networks,
    d_params: Any,
    real: Array,
    fake: Array,
    step: Array,
) -> dict[str, Array]:
    """The discriminator's symmetric loss and, lazily, R1 (weighted)."""
    real, fake = _flat(real), jax.lax.stop_gradient(_flat(fake))

    def judge(images: Array) -> Array:
        return networks.discriminator.apply({"params": d_params}, images)

    terms = {"discriminator": losses.adversarial_loss(judge(fake), judge(real))}
    gamma, every = config.train.r1_gamma, config.train.r1_every
    if gamma:

        def penalty() -> Array:
            return losses.gradient_penalty(jax.grad(lambda x: judge(x).sum())(real))

        rest = lambda: jax.lax.pcast(jnp.zeros((), jnp.float32), AXIS, to="varying")
        terms["r1"] = gamma * every * jax.lax.cond(step % every == 0, penalty, rest)
    return terms


def _flat(frames: Array) -> Array:
    return frames.reshape(-1, *frames.shape[2:])
