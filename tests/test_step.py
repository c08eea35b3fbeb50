"""The training step on the smoke model and a made-up batch: what moves and what rests."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from configs.hdtf import get_config
from reta_jax import losses, parallel
from reta_jax.checks import PARTS
from reta_jax.experts.load import KINDS, example_inputs, load_experts, wanted_experts
from reta_jax.experts.teachers import Experts
from reta_jax.models.morphable import builtin_morphable
from reta_jax.models.reta import RETA, Controls, build_reta
from reta_jax.ops.blur import upsample
from reta_jax.state import (
    build_networks,
    create_state,
    first_state,
    only_trained,
    optimizers,
    state_shapes,
)
from reta_jax.step import (
    GRADIENT_NORMS,
    Constants,
    at_coarser_levels,
    dropout_keys,
    emotion_terms,
    generator_terms,
    make_step,
    motion_mask,
    moved_average,
    render_batch,
    to_device_batch,
    total_loss,
)
from tests.light import LIGHT_MODEL
from tests.weights import random_variables

pytestmark = pytest.mark.usefixtures("quickly_compiled")

LOSSES = {"l1", "perceptual", "motion", "adversarial", "sync", "prior", "mouth", "lips",
          "lips_cross", "emotion_visual", "emotion_audio", "emotion_cross"}  # fmt: skip


def smoke_config(**train):
    config = get_config("smoke")
    config.loss.update({"prior": 0.02, "mouth": 0.5, "lips": 0.5, "lips_cross": 0.5})
    # The first step of a warm-up has a learning rate of zero.
    config.train.update(
        {"warmup_steps": 0, "decay": False, "ema_decay": 0.15, "r1_every": 2} | train
    )
    return config


def make_batch(clips=4, size=32, frames=5, window=62):
    """Noise in the shapes and ranges of data_pipeline/loader.py."""
    random = np.random.default_rng(0)
    image = functools.partial(random.integers, 0, 256, dtype=np.uint8)
    return {
        "portrait": image((clips, size, size, 3)),
        "frames": image((clips, frames, size, size, 3)),
        "audio": 0.2 * random.standard_normal((clips, 640 * window)).astype(np.float32),
        "offset": random.integers(0, 6, clips).astype(np.int32),
        "mel": random.uniform(-4, 4, (clips, 80, 16)).astype(np.float32),
        "sync_box": np.tile(np.float32([0.2, 0.2, 0.8, 0.8]), (clips, 1)),
    }


def leaves(tree):
    return {jax.tree_util.keystr(path): np.array(x) for path, x in jax.tree.leaves_with_path(tree)}


def same(a, b):
    return {key for key in a if np.array_equal(a[key], b[key])}


class Setup:
    """Networks, frozen arrays and a compiled step of a config."""

    def __init__(self, config):
        self.config = config
        self.experts = random_experts(config)
        self.networks = build_networks(config, config.experts.teacher.fields.width)
        self.morphable = builtin_morphable(config.model.uv_resolution)
        self.constants = Constants(self.experts, self.morphable)
        self.mesh = parallel.make_mesh()

    def create(self):
        key = jax.random.key(0, impl="rbg")
        create = functools.partial(create_state, self.config, self.networks)
        placed = jax.jit(create, out_shardings=parallel.replicated(self.mesh))
        return placed(self.morphable, key)

    def params(self, batch):
        """Parameters of which no kernel is zero."""

        def init(key, *arrays):
            return self.networks.reta.init(key, *arrays, 5, self.morphable)

        reta = types.SimpleNamespace(init=init)
        code = jnp.zeros((1, self.config.model.style_dim))
        return {
            "reta": random_variables(reta, batch.portrait, batch.audio, batch.offset)["params"],
            "projection": random_variables(self.networks.projection, code)["params"],
        }

    def steps(self, state, batch, adversarial, count):
        """Yields what every step makes of the state, and its metrics."""
        step = make_step(self.config, self.networks, adversarial)
        step = parallel.data_parallel(step, self.mesh)
        batch = parallel.shard_batch(batch, self.mesh)
        constants = parallel.replicate(self.constants, self.mesh)
        for _ in range(count):
            state, metrics = step(state, constants, batch)
            metrics.pop(GRADIENT_NORMS)
            yield state, {name: float(value) for name, value in metrics.items()}


def random_experts(config):
    """As load_experts, without compiling the initialisers."""
    found = {}
    for name, (kind, is_needed) in wanted_experts(config).items():
        network = KINDS[kind](**config.experts[name].fields) if is_needed else None
        variables = random_variables(network, *example_inputs(kind)) if is_needed else None
        found |= {name: network, f"{name}_variables": variables}
    return Experts(**found)


@pytest.fixture(scope="module")
def setup():
    return Setup(smoke_config())


@pytest.fixture(scope="module")
def history(setup):
    """State and metrics at step 0 and after each of three adversarial steps."""
    state = setup.create()
    states, metrics, frozen = [leaves(state)], [], [leaves(setup.constants)]
    for after, values in setup.steps(state, make_batch(), adversarial=True, count=3):
        states.append(leaves(after))  # copies: the state is donated
        metrics.append(values)
        frozen.append(leaves(setup.constants))
    return states, metrics, frozen


@pytest.fixture(scope="module")
def plain():
    """The state before and after a step without adversary, experts and tuned audio encoder."""
    config = smoke_config()
    config.model.audio_encoder.trainable = False
    config.loss.update({"perceptual": 0.0, "motion": 0.0, "sync": 0.0, "emotion": 0.0})
    config.loss.update({"prior": 0.0, "mouth": 0.0, "lips": 0.0, "lips_cross": 0.0})
    setup = Setup(config)
    batch = make_batch()
    device_batch = to_device_batch(jax.tree.map(jnp.asarray, batch))
    params = setup.params(device_batch)
    d_params = random_variables(setup.networks.discriminator, device_batch.portrait)["params"]
    state = parallel.replicate(first_state(config, params, d_params), setup.mesh)
    before = leaves(state)
    ((state, metrics),) = setup.steps(state, batch, adversarial=False, count=1)
    return before, leaves(state), metrics


@pytest.mark.slow
def test_every_loss_is_there_and_finite(history):
    _, metrics, _ = history
    for values in metrics:
        assert set(values) == LOSSES | {"discriminator", "r1", "total", "grad_norm", "d_grad_norm"}
        assert all(np.isfinite(list(values.values())))
        assert values["grad_norm"] > 0
    assert [values["r1"] > 0 for values in metrics] == [False, True, False]  # every second step


def test_total_is_the_weighted_sum(history):
    _, metrics, _ = history
    weight = smoke_config().loss.to_dict()
    for name in ("emotion_visual", "emotion_audio", "emotion_cross"):
        weight[name] = weight["emotion"]
    for values in metrics:
        expected = sum(weight[name] * values[name] for name in LOSSES)
        np.testing.assert_allclose(values["total"], expected, rtol=1e-5)


def test_every_trained_parameter_moves(history):
    """In three steps, for kernels that start at zero let no gradient through to what lies before.

    The flow's kernels move first; then the motion encoder's head, which only the flow can tell
    anything; then the rest of the motion encoder. The student has a loss of its own on its head.
    """
    states, _, _ = history
    names = {name for name in states[0] if name.startswith(".params")}
    parts = {name.split("'")[3] for name in names if name.startswith(".params['reta']")}
    assert parts == PARTS - {"fusion"}, "train.only knows every part by its name"
    rest = [same(states[0], state) & names for state in states[1:]]
    of = lambda *parts: {name for name in names if all(f"['{part}']" in name for part in parts)}
    assert len(of("motion_encoder")) == 12 and len(of("motion_encoder", "head")) == 2
    assert of("motion_encoder") <= rest[0]
    assert of("motion_encoder") & rest[1] == of("motion_encoder") - of("motion_encoder", "head")
    assert of("emotion_student") - rest[0] == of("emotion_student", "head")
    assert {name for name in of("generator") if "to_flow']['kernel" in name} & rest[0] == set()
    assert sorted(rest[2]) == []


def test_moving_average(history):
    """The decay is (1 + step) / (10 + step) until it reaches train.ema_decay."""
    states, _, _ = history
    emas = {name for name in states[0] if name.startswith(".ema")}
    assert len(emas) > 100
    for decay, (before, after) in zip((0.1, 0.15, 0.15), itertools.pairwise(states), strict=True):
        for name in emas:
            params = after[name.replace(".ema", ".params['reta']")]
            expected = decay * before[name] + (1 - decay) * params
            np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-6)


def test_the_average_of_what_is_frozen_is_not_moved_by_rounding():
    x = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)
    decay = jnp.float32(0.3)
    found = moved_average({"frozen": x, "trained": x}, {"frozen": None, "trained": x + 1}, decay)
    np.testing.assert_array_equal(found["frozen"], x)
    np.testing.assert_allclose(found["trained"], x + 0.7, atol=1e-6)
    assert np.any(moved_average(x, x, decay) != x), "rounding does move it"


def test_discriminator_moves_in_the_adversarial_step(history):
    """All but the logit's bias: the relativistic loss sees differences of logits alone."""
    (start, first, *_), _, _ = history
    names = {name for name in start if name.startswith(".d_params")}
    assert same(start, first) & names == {".d_params['logit']['bias']"}


def test_steps_are_counted_and_frozen_arrays_stay(history):
    states, _, frozen = history
    assert [int(state[".step"]) for state in states] == [0, 1, 2, 3]
    assert len(frozen[0]) > 50
    for later in frozen[1:]:
        assert same(frozen[0], later) == frozen[0].keys()


@pytest.mark.slow
def test_discriminator_rests_in_the_plain_step(plain):
    before, after, metrics = plain
    assert set(metrics) == {"l1", "total", "grad_norm"}
    judge = {name for name in before if name.startswith((".d_params", ".d_opt_state"))}
    assert len(judge) > 50 and judge <= same(before, after)


def test_frozen_audio_encoder_is_bit_identical_after_a_step(plain):
    before, after, _ = plain
    trained = {name for name in before if name.startswith(".params['reta']")}
    frozen = {name for name in trained if "['audio_encoder']" in name}
    assert len(frozen) > 10 and same(before, after) & trained == frozen


def test_only_the_parts_named_move_and_a_tuned_encoder_is_none_of_them():
    config = smoke_config(only=("motion_decoder", "generator"))
    params = {
        "reta": {part: {"w": jnp.ones(2)} for part in PARTS},
        "projection": {"kernel": jnp.ones(2)},
    }
    kept = only_trained(config)(params)
    moving = {"motion_decoder", "generator"}
    assert {part for part, leaf in kept["reta"].items() if leaf["w"] is not None} == moving
    assert kept["projection"]["kernel"] is None
    update, _ = optimizers(config)[0].update(params, optimizers(config)[0].init(params), params)
    assert {part for part, leaf in update["reta"].items() if leaf["w"].any()} == moving
    student = only_trained(smoke_config(only=("emotion_student",)))(params)
    assert student["projection"]["kernel"] is not None, "its way to the teacher goes with it"


def test_dropout_has_a_key_of_its_own_at_each_step_on_each_device_and_in_each_micro_batch():
    config = smoke_config(accumulate=2)
    mesh = parallel.make_mesh()
    keys = jax.jit(
        jax.shard_map(
            lambda step: jax.random.key_data(dropout_keys(config, step)),
            mesh=mesh, in_specs=P(), out_specs=P(parallel.AXIS),
        )
    )  # fmt: skip
    drawn = np.concatenate([keys(jnp.int32(step)) for step in (0, 1)])
    assert len(drawn) == 4 * jax.device_count()
    assert len(np.unique(drawn, axis=0)) == len(drawn)


def test_warm_up_begins_at_zero_and_zero_steps_of_it_begin_at_once():
    def first_update(warmup_steps):
        config = smoke_config(warmup_steps=warmup_steps)
        params = {"w": jnp.ones(3)}
        optimizer = optimizers(config)[1]
        update, _ = optimizer.update({"w": jnp.ones(3)}, optimizer.init(params), params)
        return float(jnp.abs(update["w"]).max())

    assert first_update(2) == 0
    np.testing.assert_allclose(first_update(0), smoke_config().train.d_learning_rate, rtol=1e-4)


def test_each_side_s_rate_decays_over_its_own_steps():
    """The discriminator's first update is at its start, its last one near 5 % of its rate."""

    def last_share(side, count, **train):
        config = smoke_config(decay=True, warmup_steps=2, steps=20, **train)
        params = {"reta": {"generator": jnp.ones(3)}, "projection": {}}
        optimizer = optimizers(config)[side]
        state = optimizer.init(params)
        for _ in range(count):
            update, state = optimizer.update(params, state, params)
        rate = (config.train.learning_rate, config.train.d_learning_rate)[side]
        return float(jnp.abs(update["reta"]["generator"]).max()) / rate

    expected = lambda count: 0.05 + 0.95 * (1 + np.cos(np.pi * (count - 3) / (count - 2))) / 2
    np.testing.assert_allclose(last_share(0, 20, adversarial_start=10), expected(20), rtol=1e-3)
    np.testing.assert_allclose(last_share(1, 10, adversarial_start=10), expected(10), rtol=1e-3)
    assert last_share(1, 1, adversarial_start=1_000) == 0, "of no steps there would be no schedule"


def test_a_mouth_that_opens_is_no_motion_of_the_background():
    """Of a model with a light of its own, whose gain follows the middle of a portrait."""
    config = smoke_config()
    config.model.size, config.model.light = 16, (0.6, 0.5, 0.4)
    reta = build_reta(config.model)
    clip = np.repeat(np.random.default_rng(0).uniform(-0.5, 0.5, (1, 1, 16, 16, 3)), 3, axis=1)
    mouth = (slice(None), slice(1, None), slice(9, 12), slice(6, 10))
    clip[mouth] = -1.0
    params = {"image_encoder": random_variables(reta.image_encoder, clip[:, 0])["params"]}
    mask = functools.partial(motion_mask, config, reta)
    variance = np.array(jax.jit(mask)(params, jnp.asarray(clip, jnp.float32)).variance)
    still = variance.copy()
    still[:, *mouth[2:]] = 0
    np.testing.assert_allclose(variance.max(), 1, rtol=1e-6)  # XLA multiplies by 1 / span
    assert still.max() == 0


# The emotion disentanglement strategy.


@pytest.fixture(scope="module")
def crossed(setup):
    """A batch of three clips, rendered with weights of which none is zero."""
    reta = setup.networks.reta
    batch = to_device_batch(jax.tree.map(jnp.asarray, make_batch(3)))
    params = setup.params(batch)

    @jax.jit
    def everything(params, morphable, batch):
        identity = reta.apply(
            {"params": params["reta"]}, batch.portrait, method=RETA.encode_portrait
        )
        return identity, render_batch(reta, params["reta"], morphable, batch, 2, other_voice=True)

    return params, batch, *everything(params, setup.morphable, batch)


def test_cross_synthesis_is_identity_and_motion_of_one_with_emotion_of_the_other(setup, crossed):
    params, _, identity, rendered = crossed
    frames = rendered.other_emotion
    assert frames.shape == (3, 2, 32, 32, 3)
    row = lambda tree, m: jax.tree.map(lambda x: x[m : m + 1], tree)
    clip = lambda x, m: x[m : m + 1, :2]
    generate = jax.jit(
        lambda identity, controls: (
            setup.networks.reta.apply(
                {"params": params["reta"]}, identity, controls, method=RETA.generate
            ).frames
        )
    )
    for m in range(3):
        n = (m - 1) % 3  # jnp.roll(x, 1) puts the row before at each place
        controls = Controls(
            clip(rendered.controls.motion, m), clip(rendered.controls.emotion, n), None
        )
        by_hand = generate(row(identity, m), controls)
        np.testing.assert_allclose(frames[m], by_hand[0], rtol=1e-4, atol=1e-4)
        assert jnp.abs(frames[m] - rendered.output.frames[m, :2]).max() > 1e-2


def test_cross_synthesis_is_judged_by_the_emotion_of_the_other(setup, crossed):
    params, batch, _, rendered = crossed
    config = smoke_config(emotion_frames=2)
    generated = rendered.output.frames
    terms = jax.jit(
        lambda params, experts: emotion_terms(
            config, setup.networks, params, experts, rendered, batch
        )
    )(params, setup.experts)

    @jax.jit
    def teach(frames):
        f_v, logits = setup.experts.teach(frames[:, :2].reshape(-1, *frames.shape[2:]))
        return f_v.reshape(3, 2, -1), logits.reshape(3, 2, -1)

    def kl(real, made):
        p, q = (np.asarray(jax.nn.softmax(x), np.float64) for x in (real, made))
        return (p * np.log(p / q)).sum(-1).mean()

    f_v, real = teach(batch.frames)
    np.testing.assert_allclose(
        terms["emotion_visual"], kl(real, teach(generated)[1]), rtol=1e-3, atol=1e-6
    )
    cross = teach(rendered.other_emotion)[1]
    expected = np.mean([kl(real[(m - 1) % 3], cross[m]) for m in range(3)])
    np.testing.assert_allclose(terms["emotion_cross"], expected, rtol=1e-3, atol=1e-6)
    projection = params["projection"]
    f_e = np.asarray(rendered.controls.emotion[:, :2] @ projection["kernel"])
    cosine = (f_e * f_v).sum(-1) / np.linalg.norm(f_e, axis=-1) / np.linalg.norm(f_v, axis=-1)
    np.testing.assert_allclose(terms["emotion_audio"], 1 - cosine.mean(), rtol=1e-4)


# One's portrait with another's voice, and G's coarser levels alone.


def test_a_portrait_with_the_neighbours_voice_is_asked_for_the_neighbours_opening(setup, crossed):
    params, batch, identity, rendered = crossed
    networks, experts = setup.networks, setup.experts
    config = smoke_config()
    config.loss.update({"perceptual": 0.0, "motion": 0.0, "sync": 0.0, "emotion": 0.0})

    @jax.jit
    def by_hand(params, experts, batch, identity, rendered):
        swapped = jax.tree.map(lambda code: code[jnp.array([2, 0, 1])], rendered.controls)
        made = networks.reta.apply(
            {"params": params["reta"]}, identity, swapped, method=RETA.generate
        ).frames
        found = [
            experts.find_lips(frames, jnp.repeat(batch.sync_box[m : m + 1], 5, 0))
            for m, frames in enumerate(made)
        ]
        asked = [
            experts.find_lips(batch.frames[n], jnp.repeat(batch.sync_box[n : n + 1], 5, 0))
            for n in (2, 0, 1)
        ]
        return losses.lip_opening_loss(jnp.stack(found), jnp.stack(asked))

    terms = jax.jit(
        lambda params, constants, batch: generator_terms(
            config, networks, params, None, constants, batch, adversarial=False
        )[0]
    )(params, setup.constants, batch)
    expected = by_hand(params, experts, batch, identity, rendered)
    np.testing.assert_allclose(terms["lips_cross"], expected, rtol=1e-3)
    assert expected > 0


def test_coarser_levels_make_the_frames_that_they_make_in_the_whole_model(setup, crossed):
    """And what they are compared with are means of the filmed pixels; the finest level rests."""
    params, batch, _, _ = crossed
    networks, small = at_coarser_levels(setup.networks, batch, 16)
    np.testing.assert_allclose(
        small.frames[1, 2, 3, 5], batch.frames[1, 2, 6:8, 10:12].mean((0, 1)), atol=1e-6
    )
    config = smoke_config(size=16)
    config.loss.update({"perceptual": 0.0, "motion": 0.0, "sync": 0.0, "emotion": 0.0})

    def l1(params, constants):
        terms, frames = generator_terms(
            config, setup.networks, params, None, constants, batch, adversarial=False
        )
        return terms["l1"], frames

    gradient, frames = jax.jit(jax.grad(l1, has_aux=True))(params, setup.constants)
    norms = {
        name: sum(np.abs(leaf).sum() for leaf in jax.device_get(jax.tree.leaves(level)))
        for name, level in gradient["reta"]["generator"].items()
    }
    assert norms["level_32"] == 0 and norms["level_16"] > 0
    # The whole model's frame is that of the levels before, magnified, and what its last level adds.
    silent = jax.tree.map(jnp.zeros_like, params["reta"]["generator"]["level_32"])
    quiet = params["reta"] | {"generator": params["reta"]["generator"] | {"level_32": silent}}
    render = jax.jit(functools.partial(render_batch, setup.networks.reta))
    whole = render(quiet, setup.morphable, batch).output.frames
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    np.testing.assert_allclose(flat(whole), upsample(flat(frames)), rtol=1e-3, atol=1e-3)


# What a weight of zero leaves out.


@pytest.mark.parametrize(
    ("section", "changes", "left_out"),
    [
        ("loss", {"sync": 0.0}, {"sync"}),
        ("loss", {"motion": 0.0}, {"motion"}),
        ("loss", {"perceptual": 0.0}, {"perceptual"}),
        ("loss", {"emotion": 0.0}, {"emotion_visual", "emotion_audio", "emotion_cross"}),
        ("loss", {"emotion_visual": False}, {"emotion_visual"}),
        ("loss", {"emotion_audio": False}, {"emotion_audio"}),
        ("loss", {"adversarial": 0.0}, {"adversarial"}),
        ("train", {"eds": False}, {"emotion_cross"}),
        ("model", {"emotion": False}, {"emotion_visual", "emotion_audio", "emotion_cross"}),
        ("loss", {"prior": 0.0}, {"prior"}),
        ("loss", {"mouth": 0.0}, {"mouth"}),
        ("loss", {"lips": 0.0}, {"lips", "lips_cross"}),
        ("loss", {"lips_cross": 0.0}, {"lips_cross"}),
        ("model", {"geometry": "none"}, {"prior"}),
        ("model", {"geometry": "direct"}, {"prior"}),
        ("model", {"injection": "concat"}, set()),
        ("model", {"use_style": False}, set()),
    ],
)
def test_terms_of_the_ablations(setup, section, changes, left_out):
    config = smoke_config()
    config.update_from_flattened_dict(LIGHT_MODEL)  # tracing takes as long as a model is deep
    config.tvm.resolution, config.train.perceptual_scales = config.model.size, (1.0,)
    config[section].update(changes)
    networks = build_networks(config, setup.experts.teacher.width)
    morphable = builtin_morphable(config.model.uv_resolution)
    constants = Constants(setup.experts, morphable)
    state = state_shapes(config, networks, morphable)

    def objective(params, d_params, raw):
        batch = to_device_batch(raw)
        terms, _ = generator_terms(
            config, networks, params, d_params, constants, batch, adversarial=True
        )
        return terms, total_loss(terms, config)

    batch = jax.tree.map(jnp.asarray, make_batch(size=config.model.size))
    terms, total = jax.eval_shape(objective, state.params, state.d_params, batch)
    assert set(terms) == LOSSES - left_out
    assert all(value.shape == () for value in (*terms.values(), total))


def test_networks_of_left_out_losses_are_not_loaded():
    config = smoke_config()
    config.loss.update({"perceptual": 0.0, "sync": 0.0, "emotion": 0.0, "lips": 0.0})
    for expert in config.experts.values():
        expert.weights = "no/such/folder"
    experts, provenance = load_experts(config)
    assert provenance == []
    assert [getattr(experts, name) for name in config.experts] == 4 * [None]
