"""The training step: pure functions of state and batch, for one device of the mesh.

    L = L_rec + l_adv L_adv + l_syn L_syn + l_emo (L_emo^{v-v} + L_emo^{v-a})      (Eq. 2)

plus the cross-synthesis consistency of the emotion disentanglement strategy (EDS, section 3.3).
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array

from reta_jax import losses
from reta_jax.config import swaps_emotions
from reta_jax.experts.teachers import Experts
from reta_jax.experts.vgg19 import image_pyramid
from reta_jax.images import to_float
from reta_jax.models.generator import GeneratorOutput
from reta_jax.models.morphable import MorphableModel
from reta_jax.models.reta import RETA, Controls, gain_to_light, in_light
from reta_jax.ops.variance_mask import Stages, temporal_variance_mask
from reta_jax.parallel import AXIS
from reta_jax.state import Networks, TrainState, only_trained, optimizers

REMAT = ("none", "experts", "blocks")  # choices of train.remat
GRADIENT_NORMS = "gradient_norms"
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
    key: Array | None  # of dropout; None: without


class Rendered(NamedTuple):
    """What the generator's side makes of a batch."""

    output: GeneratorOutput  # of every clip's own voice
    controls: Controls
    other_emotion: Array | None  # frames of the clip's portrait, see `emotion_of_the_neighbour`
    other_voice: Array | None  # and `voice_of_the_neighbour`


def make_step(config: ml_collections.ConfigDict, networks: Networks, adversarial: bool) -> Callable:
    """Builds `step(state, constants, batch) -> (state, metrics)` for one device of the mesh.

    Without `adversarial`, the discriminator rests: training from scratch begins so. A side whose
    loss or gradient is not finite keeps its parameters and its optimizer's state, so that what
    broke can be looked at. Metrics are scalars, but for GRADIENT_NORMS: for "params" (and
    "d_params") the norm of every leaf's gradient, in the order of jax.tree.leaves.

    With `train.accumulate`, both sides take the mean of gradients and metrics over micro-batches of
    as many clips each. Losses that are means over clips come out as of the whole batch; EDS swaps
    emotions, and the discriminator compares images of a group, within a micro-batch.
    """
    generator_tx, discriminator_tx = optimizers(config)
    trained = only_trained(config)

    def ema_decay(step: Array) -> Array:
        """Short at first, so that the average soon forgets the random start."""
        return jnp.minimum(config.train.ema_decay, (1.0 + step) / (10.0 + step))

    def step(state: TrainState, constants: Constants, raw: dict[str, Array]):
        raw = micro_batches(raw, config.train.accumulate)
        raw["key"] = dropout_keys(config, state.step)

        def generator_objective(params: Any, raw: dict[str, Array]):
            batch = to_device_batch(raw)
            terms, fake = generator_terms(
                config, networks, params, state.d_params, constants, batch, adversarial
            )
            return total_loss(terms, config), (terms, fake)

        total, terms, gradient, fake = mean_gradient(
            generator_objective, state.params, raw, trained
        )
        norms = {"params": leaf_norms(gradient)}
        metrics = {"total": total, "grad_norm": jnp.linalg.norm(norms["params"])}
        params, opt_state = descend(
            generator_tx, gradient, state.opt_state, state.params, total + metrics["grad_norm"]
        )
        ema = moved_average(state.ema, trained(params)["reta"], ema_decay(state.step))
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)

        if adversarial:

            def discriminator_objective(d_params: Any, images: tuple[Array, Array]):
                real, fake = images
                d_terms = discriminator_terms(
                    config, networks, d_params, to_float(real), fake, state.step
                )
                return sum(d_terms.values()), (d_terms, None)

            d_total, d_terms, gradient, _ = mean_gradient(
                discriminator_objective, state.d_params, (raw["frames"], fake), lambda x: x
            )
            norms["d_params"] = leaf_norms(gradient)
            metrics["d_grad_norm"] = jnp.linalg.norm(norms["d_params"])
            d_params, d_opt_state = descend(
                discriminator_tx, gradient, state.d_opt_state, state.d_params,
                d_total + metrics["d_grad_norm"],
            )  # fmt: skip
            state = state.replace(d_params=d_params, d_opt_state=d_opt_state)
            terms = terms | d_terms
        return state, metrics | terms | {GRADIENT_NORMS: norms}

    return step


def micro_batches(raw: dict[str, Array], count: int) -> dict[str, Array]:
    """A device's rows in `count` parts of neighbours: (b, ...) to (count, b / count, ...)."""
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), raw)


def dropout_keys(config: ml_collections.ConfigDict, step: Array) -> Array:
    """A key for each micro-batch of this device at this step."""
    key = jax.random.key(config.train.seed)
    for number in (step, jax.lax.axis_index(AXIS)):
        key = jax.random.fold_in(key, number)
    return jax.random.split(key, config.train.accumulate)


def mean_gradient(
    objective: Callable, params: Any, parts: Any, trained: Callable[[Any], Any]
) -> tuple[Array, dict[str, Array], Any, Any]:
    """Loss, its terms and its gradient as means over micro-batches and devices.

    The gradient is taken with respect to parameters that are marked as the device's own: it then
    is of the device's clips alone, and is summed over devices once a step, not once a micro-batch.

    Args:
      objective: of (params, part), returns (loss, (terms, output)).
      parts: a pytree whose leaves have the micro-batches along their first axis.
      trained: puts None for the frozen leaves of a gradient, which are zero and not exchanged.

    Returns:
      Loss, terms, gradient, and the outputs of all micro-batches, stacked.
    """
    own = jax.lax.pcast(params, AXIS, to="varying")

    def differentiate(part: Any):
        (loss, (terms, output)), gradient = jax.value_and_grad(objective, has_aux=True)(own, part)
        return (loss, terms, trained(gradient)), output

    count = len(jax.tree.leaves(parts)[0])
    if count == 1:
        sums, outputs = differentiate(jax.tree.map(lambda x: x[0], parts))
        outputs = jax.tree.map(lambda x: x[None], outputs)
    else:
        first = jax.tree.map(lambda x: x[0], parts)
        zeros = jax.tree.map(_own_zeros, jax.eval_shape(differentiate, first)[0])

        def add(sums: Any, part: Any):
            values, output = differentiate(part)
            return jax.tree.map(jnp.add, sums, values), output

        sums, outputs = jax.lax.scan(add, zeros, parts)
    loss, terms, gradient = jax.lax.pmean(jax.tree.map(lambda x: x / count, sums), AXIS)
    whole = jax.tree.map(lambda p, g: jnp.zeros_like(p) if g is None else g, params, gradient)
    return loss, terms, whole, outputs


def _own_zeros(like: jax.ShapeDtypeStruct) -> Array:
    return jax.lax.pcast(jnp.zeros(like.shape, like.dtype), AXIS, to="varying")


def leaf_norms(gradient: Any) -> Array:
    """The norm of every leaf: (leaves,)."""
    return jnp.stack([jnp.linalg.norm(leaf.ravel()) for leaf in jax.tree.leaves(gradient)])


def descend(
    optimizer: optax.GradientTransformation,
    gradient: Any,
    opt_state: Any,
    params: Any,
    must_be_finite: Array,
) -> tuple[Any, Any]:
    """Parameters and optimizer state after a step; as they were if a number is not finite.

    Args:
      must_be_finite: a scalar that is not finite whenever the loss or any gradient is not.
    """
    updates, after = optimizer.update(gradient, opt_state, params)
    new = (optax.apply_updates(params, updates), after)
    is_finite = jnp.isfinite(must_be_finite)
    return jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new, (params, opt_state))


def moved_average(average: Any, params: Any, decay: Array) -> Any:
    """The moving average after a step; where `params` has None, for what is frozen, as it was.

    A frozen leaf is its own average, which rounding would move.
    """
    move = lambda old, new: old if new is None else decay * old + (1.0 - decay) * new
    return jax.tree.map(move, average, params)


def to_device_batch(raw: dict[str, Array]) -> Batch:
    return Batch(
        portrait=to_float(raw["portrait"]),
        frames=to_float(raw["frames"]),
        audio=raw["audio"],
        offset=raw["offset"],
        mel=raw["mel"],
        sync_box=raw["sync_box"],
        key=raw.get("key"),
    )


def at_coarser_levels(networks: Networks, batch: Batch, size: int) -> tuple[Networks, Batch]:
    """The networks with a G that ends at `size` pixels, and the batch with frames of as many.

    A mouth is settled at levels that are cheaper than the finest one, which stays as it is.
    """
    b, t, height, width, _ = batch.frames.shape
    frames = batch.frames.reshape(b, t, size, height // size, size, width // size, 3).mean((3, 5))
    reta = networks.reta
    reta = reta.clone(generator=reta.generator.clone(size=size))
    return networks.replace(reta=reta), batch._replace(frames=frames)


def render_batch(
    reta: RETA,
    params: Any,
    morphable: MorphableModel,
    batch: Batch,
    other_emotion: int = 0,
    other_voice: bool = False,
) -> Rendered:
    """One pass of G: all that a portrait says and feels are more frames of it.

    other_emotion: frames of each clip that are rendered with its neighbour's emotion, too.
    other_voice: whether all are rendered with its neighbour's voice, too.
    """
    apply = functools.partial(reta.apply, {"params": params})
    identity = apply(batch.portrait, method=RETA.encode_portrait)
    controls = apply(
        *(batch.audio, batch.offset, batch.frames.shape[1], morphable),
        method=RETA.encode_voice,
        rngs={} if batch.key is None else {"dropout": batch.key},
    )
    takes = [controls]
    if other_emotion:
        takes.append(emotion_of_the_neighbour(controls, other_emotion))
    if other_voice:
        takes.append(voice_of_the_neighbour(controls))
    takes = [take._replace(p_exp=None) for take in takes]
    whole = apply(identity, _one_after_another(*takes), method=RETA.generate)
    outputs = _cut(whole, [_length(take) for take in takes])
    return Rendered(
        output=outputs.pop(0),
        controls=controls,
        other_emotion=outputs.pop(0).frames if other_emotion else None,
        other_voice=outputs.pop(0).frames if other_voice else None,
    )


def emotion_of_the_neighbour(controls: Controls, count: int) -> Controls:
    """EDS: the motion of sample m with the emotion of its neighbour n; the first `count` frames.

    The neighbour is the sample before it on the same device (the batch rolled by one), so the swap
    moves nothing between devices.
    """
    emotion = jnp.roll(controls.emotion, 1, axis=0)
    return _stretch(Controls(controls.motion, emotion, None), 0, count)


def voice_of_the_neighbour(controls: Controls) -> Controls:
    """All that the voice of its neighbour says, for sample m.

    People are few, and a mouth has to open in a portrait that no film goes with.
    """
    return jax.tree.map(lambda code: jnp.roll(code, 1, axis=0), controls)


def _length(controls: Controls) -> int:
    return jax.tree.leaves(controls)[0].shape[1]


def _one_after_another(*trees: Any) -> Any:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), *trees)


def _cut(tree: Any, lengths: Sequence[int]) -> list[Any]:
    """What `_one_after_another` brought together."""
    ends = itertools.accumulate(lengths)
    return [_stretch(tree, end - n, end) for n, end in zip(lengths, ends, strict=True)]


def _stretch(tree: Any, start: int, end: int) -> Any:
    return jax.tree.map(lambda x: x[:, start:end], tree)


def total_loss(terms: dict[str, Array], config: ml_collections.ConfigDict) -> Array:
    """Eq. 2: the weighted sum of the terms."""
    weight = lambda name: config.loss["emotion" if name.startswith("emotion_") else name]
    return sum(weight(name) * value for name, value in terms.items())


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
    weights, experts = config.loss, constants.experts
    if config.train.size:
        networks, batch = at_coarser_levels(networks, batch, config.train.size)
    rendered = render_batch(
        *(networks.reta, params["reta"], constants.morphable, batch),
        other_emotion=judged_frames(config, batch) if swaps_emotions(config) else 0,
        other_voice=bool(weights.lips and weights.lips_cross),
    )
    generated, real = rendered.output.frames, batch.frames
    terms = {"l1": losses.l1_loss(generated, real)}
    if weights.perceptual:
        taps = vgg_taps(config, experts.perceive, real)
        perceive = recomputed(config, experts.perceive)
        terms["perceptual"] = losses.perceptual_loss(vgg_taps(config, perceive, generated), taps)
    if weights.motion:
        mask = motion_mask(config, networks.reta, params["reta"], real).mask
        terms["motion"] = losses.motion_loss(generated, real, mask)
    if adversarial and weights.adversarial:
        discriminator = networks.discriminator
        terms["adversarial"] = losses.adversarial_loss(
            discriminator.apply({"params": d_params}, _flat(real)),
            discriminator.apply({"params": d_params}, _flat(generated)),
            weights.relativistic,
        )
    if weights.sync:
        terms["sync"] = losses.sync_loss(
            recomputed(config, experts.embed_faces)(generated[:, :SYNC_FRAMES], batch.sync_box),
            experts.embed_voice(batch.mel),
        )
    if weights.mouth:
        terms["mouth"] = losses.mouth_loss(generated, real, batch.sync_box)
    if weights.lips:
        terms |= lip_terms(config, experts, rendered, batch)
    if weights.prior and rendered.controls.p_exp is not None:
        terms["prior"] = losses.coefficient_prior(rendered.controls.p_exp)
    if weights.emotion and networks.reta.emotion_student is not None:
        terms |= emotion_terms(config, networks, params, experts, rendered, batch)
    return terms, generated


def lip_terms(
    config: ml_collections.ConfigDict, experts: Experts, rendered: Rendered, batch: Batch
) -> dict[str, Array]:
    """The lips' shape in the generated frames, and their opening with the neighbour's voice."""
    boxes = jnp.repeat(batch.sync_box, batch.frames.shape[1], 0)
    find_lips = recomputed(config, experts.find_lips)
    lips = experts.find_lips(_flat(batch.frames), boxes)
    if rendered.other_voice is None:
        found = find_lips(_flat(rendered.output.frames), boxes)
        return {"lips": losses.lip_shape_loss(found, lips)}
    shown = jnp.concatenate([rendered.output.frames, rendered.other_voice])
    found, crossed = jnp.split(find_lips(_flat(shown), jnp.concatenate([boxes, boxes])), 2)
    asked = jnp.roll(lips, batch.frames.shape[1], axis=0)  # by a clip
    return {
        "lips": losses.lip_shape_loss(found, lips),
        "lips_cross": losses.lip_opening_loss(crossed, asked),
    }


def judged_frames(config: ml_collections.ConfigDict, batch: Batch) -> int:
    """Emotion changes slowly: the teacher may look at the first frames of a clip only."""
    return min(config.train.emotion_frames, batch.frames.shape[1])


def emotion_terms(
    config: ml_collections.ConfigDict,
    networks: Networks,
    params: Any,
    experts: Experts,
    rendered: Rendered,
    batch: Batch,
) -> dict[str, Array]:
    """L_emo^{v-v}, L_emo^{v-a}, and L_emo^{v-v} of the cross-synthesis (EDS)."""
    count = judged_frames(config, batch)
    f_v, logits = experts.teach(_flat(batch.frames[:, :count]))
    f_v, logits = (x.reshape(-1, count, x.shape[-1]) for x in (f_v, logits))
    terms = {}
    if config.loss.emotion_audio:
        projected = networks.projection.apply(
            {"params": params["projection"]}, rendered.controls.emotion[:, :count]
        )
        terms["emotion_audio"] = losses.emotion_audio_loss(projected, f_v)
    shown, asked = {}, {}
    if config.loss.emotion_visual:
        shown["emotion_visual"] = rendered.output.frames[:, :count]
        asked["emotion_visual"] = logits
    if rendered.other_emotion is not None:
        shown["emotion_cross"] = rendered.other_emotion
        asked["emotion_cross"] = jnp.roll(logits, 1, axis=0)
    if shown:
        _, found = recomputed(config, experts.teach)(_flat(jnp.concatenate([*shown.values()])))
        found = jnp.split(found.reshape(-1, count, found.shape[-1]), len(shown))
        for name, judged in zip(shown, found, strict=True):
            terms[name] = losses.emotion_visual_loss(judged, asked[name])
    return terms


def vgg_taps(
    config: ml_collections.ConfigDict, perceive: Callable, frames: Array
) -> list[tuple[Array, ...]]:
    """VGG-19 taps of every scale of the image pyramid (REFERENCE: LIA's perceptual loss)."""
    scales = tuple(config.train.perceptual_scales)
    return [perceive(images) for images in image_pyramid(_flat(frames), scales)]


def recomputed(config: ml_collections.ConfigDict, expert: Callable) -> Callable:
    """A frozen network that is computed again for the gradient if `train.remat` says so."""
    return expert if config.train.remat == "none" else jax.checkpoint(expert)


def motion_mask(config: ml_collections.ConfigDict, reta: RETA, params: Any, real: Array) -> Stages:
    """Algorithm 1 on E_I's features of the real clip; its mask is (b, h, w, 1), a constant."""
    tvm = config.tvm
    if reta.light:  # a gain for each frame would move with the mouth, and all behind it too
        real = in_light(real, gain_to_light(real[:, 0], reta.light)[:, None])
        reta = reta.clone(light=())
    encode = lambda images: reta.apply({"params": params}, images, method=RETA.encode_portrait)
    textures = encode(_flat(real)).textures
    features = next(x for x in textures if x.shape[1] >= min(tvm.resolution, real.shape[2]))
    features = features.reshape(*real.shape[:2], *features.shape[1:])
    return temporal_variance_mask(
        features,
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
    """The discriminator's symmetric loss and, lazily, R1 (weighted).

    `step` counts from 1, as the log does: R1 is of every `r1_every`-th step.
    """
    real, fake = _flat(real), jax.lax.stop_gradient(_flat(fake))

    def judge(images: Array) -> Array:
        return networks.discriminator.apply({"params": d_params}, images)

    loss = losses.adversarial_loss(judge(fake), judge(real), config.loss.relativistic)
    terms = {"discriminator": loss}
    gamma, every = config.train.r1_gamma, config.train.r1_every
    if gamma:

        def penalty() -> Array:
            return losses.gradient_penalty(jax.grad(lambda x: judge(x).sum())(real))

        rest = lambda: jax.lax.pcast(jnp.zeros((), jnp.float32), AXIS, to="varying")
        terms["r1"] = gamma * every * jax.lax.cond(step % every == 0, penalty, rest)
    return terms


def _flat(frames: Array) -> Array:
    return frames.reshape(-1, *frames.shape[2:])
