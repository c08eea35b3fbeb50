"""Everything that training changes, as one pytree."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from reta_jax.config import uses_discriminator
from reta_jax.models.discriminator import Discriminator
from reta_jax.models.morphable import MorphableModel
from reta_jax.models.reta import RETA, build_reta
from reta_jax.windows import AudioWindow


@flax.struct.dataclass
class TrainState:
    step: Any  # () int32; any leaf may be abstract, a sharding or a mask instead
    params: Any  # {"reta": ..., "projection": ...}
    opt_state: Any
    d_params: Any
    d_opt_state: Any
    ema: Any  # exponential moving average of params["reta"]: what is rendered and shared


class Networks(flax.struct.PyTreeNode):
    """The networks that training changes; they hold no arrays."""

    reta: RETA = flax.struct.field(pytree_node=False)
    discriminator: Discriminator = flax.struct.field(pytree_node=False)
    projection: nn.Dense = flax.struct.field(pytree_node=False)  # f_E -> the teacher's width


def build_networks(config: ml_collections.ConfigDict, teacher_width: int) -> Networks:
    model, remat = config.model, config.train.remat == "blocks"
    reta = build_reta(model)
    return Networks(
        reta=reta.clone(
            image_encoder=reta.image_encoder.clone(remat=remat),
            generator=reta.generator.clone(remat=remat),
        ),
        discriminator=Discriminator(
            size=model.size,
            channel_multiplier=model.channel_multiplier,
            minibatch_std_group=config.discriminator.minibatch_std_group,
            dtype=jnp.dtype(model.dtype),
            remat=remat,
        ),
        # f_E starts at zero: a bias away from zero gives its cosine a finite gradient there.
        projection=nn.Dense(
            teacher_width,
            bias_init=nn.initializers.normal(0.02),
            precision=jax.lax.Precision.HIGHEST,
        ),
    )


def teacher_width(config: ml_collections.ConfigDict, teacher: nn.Module | None) -> int:
    """Of f_V, to which f_E is projected; f_E's own where no loss needs a teacher."""
    return teacher.width if teacher else config.model.style_dim


def optimizers(
    config: ml_collections.ConfigDict,
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Adam for the generator's side and for the discriminator, at the learning rate of D.2.

    Each side's schedule counts the steps in which it learns.
    """
    train = config.train

    def adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
        schedule = learning_rate
        if train.warmup_steps:  # of no steps, optax would make a schedule of zero for ever
            schedule = optax.linear_schedule(0.0, learning_rate, train.warmup_steps)
        if train.decay:
            schedule = optax.warmup_cosine_decay_schedule(
                0.0, learning_rate, train.warmup_steps, steps, 0.05 * learning_rate
            )
        return optax.chain(
            optax.clip_by_global_norm(train.clip_norm), optax.adam(schedule, *train.betas)
        )

    def labels(params: Any) -> Any:
        kept = only_trained(config)(params)
        return jax.tree.map(lambda _, leaf: "frozen" if leaf is None else "trained", params, kept)

    generator = optax.partition(
        {"trained": adam(train.learning_rate, train.steps), "frozen": optax.set_to_zero()}, labels
    )
    # A discriminator that never learns has a schedule all the same, which has to have some steps.
    d_steps = train.steps - train.adversarial_start if uses_discriminator(config) else train.steps
    return generator, adam(train.d_learning_rate, d_steps)


def only_trained(config: ml_collections.ConfigDict) -> Callable[[Any], Any]:
    """A function of TrainState.params, or of their gradient: None for each leaf that is frozen."""
    is_tuned, only = config.model.audio_encoder.trainable, config.train.only

    def keep(path: tuple, leaf: Any) -> Any:
        # The projection is the student's way to its teacher.
        part = path[1].key if path[0].key == "reta" else "emotion_student"
        return leaf if (part in only if only else is_tuned or part != "audio_encoder") else None

    return lambda params: jax.tree_util.tree_map_with_path(keep, params)


def create_state(
    config: ml_collections.ConfigDict,
    networks: Networks,
    morphable: MorphableModel,
    key: jax.Array,
    reta_start: Any = None,
    d_start: Any = None,
) -> TrainState:
    """The state at step 0. `reta_start` and `d_start` replace what they fit of the random start.

    Meant to run under jit, so that no two leaves share a buffer (the state is donated).
    """
    key_reta, key_projection, key_d = jax.random.split(key, 3)
    size = config.model.size
    window = AudioWindow(**config.model.window)
    portrait = jnp.zeros((1, size, size, 3))
    reta = networks.reta.init(
        key_reta, portrait, jnp.zeros((1, window.samples)), jnp.zeros(1, int), 1, morphable
    )["params"]
    reta = take_fitting(reta, reta_start or {})
    code = jnp.zeros((1, config.model.style_dim))
    params = {
        "reta": reta,
        "projection": networks.projection.init(key_projection, code)["params"],
    }
    d_params = networks.discriminator.init(key_d, portrait)["params"]
    d_params = take_fitting(d_params, d_start or {})
    return first_state(config, params, d_params)


def first_key(config: ml_collections.ConfigDict) -> jax.Array:
    """What a run's first parameters are drawn with."""
    return jax.random.key(config.train.seed, impl="rbg")  # threefry takes a minute to compile


def state_shapes(
    config: ml_collections.ConfigDict, networks: Networks, morphable: MorphableModel
) -> TrainState:
    """The shapes of `create_state`."""
    create = functools.partial(create_state, config, networks)
    return jax.eval_shape(create, morphable, first_key(config))


def first_state(config: ml_collections.ConfigDict, params: Any, d_params: Any) -> TrainState:
    """The state at step 0 of given parameters."""
    generator_tx, discriminator_tx = optimizers(config)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=generator_tx.init(params),
        d_params=d_params,
        d_opt_state=discriminator_tx.init(d_params),
        ema=jax.tree.map(jnp.copy, params["reta"]),
    )


def take_fitting(params: Any, initial: Any) -> Any:
    """`params` with every leaf that `initial` has under the same name and shape."""
    if not isinstance(params, dict):
        fits = getattr(initial, "shape", None) == params.shape
        return jnp.asarray(initial, params.dtype) if fits else params
    return {
        name: take_fitting(value, initial[name]) if name in initial else value
        for name, value in params.items()
    }
