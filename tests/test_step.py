"""The training step on the smoke model and a made-up batch: what moves and what rests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.synthetic import get_config
from reta_jax import parallel
from reta_jax.experts.load import load_experts
from reta_jax.models.morphable import builtin_morphable
from reta_jax.models.reta import RETA, Controls
from reta_jax.state import build_networks, create_state
from reta_jax.step import (
    Constants,
    cross_synthesis,
    emotion_terms,
    generator_terms,
    make_step,
    render_batch,
    to_device_batch,
    total_loss,
)
from tests.weights import random_variables

LOSSES = {"l1", "perceptual", "motion", "sync", "emotion_visual", "emotion_audio", "emotion_cross"}


def smoke_config(**train):
    config = get_config("smoke")
    # The first step of a warm-up has a learning rate of zero.
    config.train.update({"warmup_steps": 0, "decay": False, "ema_decay": 0.9} | train)
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
    """Networks, frozen arrays and the state at step 0 of a config."""

    def __init__(self, config):
        self.config = config
        self.experts = load_experts(config)
        width = self.experts.teacher.width if self.experts.teacher else config.model.style_dim
        self.networks = build_networks(config, width)
        self.morphable = builtin_morphable(config.model.uv_resolution)
        self.constants = Constants(self.experts, self.morphable)
        self.mesh = parallel.make_mesh()

    def create(self):
        key = jax.random.key(0, impl="rbg")
        create = functools.partial(create_state, self.config, self.networks)
        placed = jax.jit(create, out_shardings=parallel.replicated(self.mesh))
        return placed(self.morphable, key)

    def run(self, state, batch, adversarial):
        step = make_step(self.config, self.networks, adversarial)
        sharded = parallel.shard_batch(batch, self.mesh)
        constants = parallel.replicate(self.constants, self.mesh)
        return parallel.data_parallel(step, self.mesh)(state, constants, sharded)


@pytest.fixture(scope="module")
def setup():
    return Setup(smoke_config())


@pytest.fixture(scope="module")
def history(setup):
    """State and metrics at step 0, after a plain step and after an adversarial one."""
    batch = make_batch()
    state = setup.create()
    states, metrics = [leaves(state)], [{}]
    frozen = [leaves(setup.constants)]
    for adversarial in (False, True):
        state, values = setup.run(state, batch, adversarial)  # the state is donated: keep copies
        states.append(leaves(state))
        metrics.append({name: float(value) for name, value in values.items()})
        frozen.append(leaves(setup.constants))
    return states, metrics, frozen


@pytest.mark.slow
def test_every_loss_is_there_and_finite(history):
    _, (_, plain, adversarial), _ = history
    general = {"total", "grad_norm"}
    assert set(plain) == LOSSES | general
    assert set(adversarial) == LOSSES | general | {"adversarial", "discriminator", "r1"}
    assert all(np.isfinite(list((plain | adversarial).values())))
    assert plain["grad_norm"] > 0


def test_total_is_the_weighted_sum(history):
    _, (_, plain, adversarial), _ = history
    config = smoke_config()
    for metrics in (plain, adversarial):
        weight = config.loss.to_dict() | {"emotion_cross": config.loss.emotion}
        weight["emotion_visual"] = weight["emotion_audio"] = config.loss.emotion
        terms = metrics.keys() & (LOSSES | {"adversarial"})
        expected = sum(weight[name] * metrics[name] for name in terms)
        np.testing.assert_allclose(metrics["total"], expected, rtol=1e-5)


def test_every_trained_parameter_moves(history):
    """Within two steps: S, E_M and the flow start with a head of zero, which lets no gradient
    through to what lies before it until the first step has changed it."""
    (start, plain, adversarial), _, _ = history
    names = {name for name in start if name.startswith(".params")}
    resting_once = same(start, plain) & names
    assert not same(start, adversarial) & names
    behind_zero = ("motion_encoder", "motion_decoder", "emotion_student", "audio_encoder", "style")
    assert all(any(part in name for part in behind_zero) for name in resting_once), resting_once
    for branch in ("motion_encoder", "emotion_student"):
        assert f".params['reta']['{branch}']['head']['kernel']" not in resting_once
        assert any(branch in name for name in resting_once)


def test_moving_average(history):
    (start, plain, adversarial), _, _ = history
    emas = {name for name in start if name.startswith(".ema")}
    assert len(emas) > 100
    for before, after in ((start, plain), (plain, adversarial)):
        for name in emas:
            params = after[name.replace(".ema", ".params['reta']")]
            expected = 0.9 * before[name] + 0.1 * params
            np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-6)


def test_discriminator_rests_in_the_plain_step_and_moves_in_the_adversarial_one(history):
    (start, plain, adversarial), _, _ = history
    judge = {name for name in start if name.startswith((".d_params", ".d_opt_state"))}
    assert judge <= same(start, plain)
    moved = judge - same(plain, adversarial)
    assert moved >= {name for name in judge if name.startswith(".d_params")}


def test_steps_are_counted_and_frozen_arrays_stay(history):
    states, _, frozen = history
    assert [int(state[".step"]) for state in states] == [0, 1, 2]
    assert len(frozen[0]) > 50
    for later in frozen[1:]:
        assert same(frozen[0], later) == frozen[0].keys()


def test_warm_up_begins_at_zero_and_zero_steps_of_it_begin_at_once():
    from reta_jax.state import optimizers

    def first_update(warmup_steps):
        config = smoke_config(warmup_steps=warmup_steps)
        params = {"w": jnp.ones(3)}
        optimizer = optimizers(config)[1]
        update, _ = optimizer.update({"w": jnp.ones(3)}, optimizer.init(params), params)
        return float(jnp.abs(update["w"]).max())

    assert first_update(2) == 0
    np.testing.assert_allclose(first_update(0), smoke_config().train.d_learning_rate, rtol=1e-4)


# What is frozen.


def test_frozen_audio_encoder_is_bit_identical_after_a_step():
    config = smoke_config()
    config.model.audio_encoder.trainable = False
    config.loss.update({"perceptual": 0.0, "motion": 0.0, "sync": 0.0, "emotion": 0.0})
    setup = Setup(config)
    assert jax.tree.leaves(setup.experts) == []
    reta, projection, judge = setup.networks.reta, *(
        setup.networks.projection, setup.networks.discriminator
    )  # fmt: skip
    batch = make_batch()
    device = to_device_batch(jax.tree.map(jnp.asarray, batch))
    arguments = (device.portrait, device.audio, device.offset)
    from reta_jax.state import TrainState, optimizers

    params = {
        "reta": random_variables(_Call(reta, setup.morphable), *arguments)["params"],
        "projection": random_variables(projection, jnp.zeros((1, 32)))["params"],
    }
    d_params = random_variables(judge, device.portrait)["params"]
    generator_tx, discriminator_tx = optimizers(config)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=generator_tx.init(params),
        d_params=d_params,
        d_opt_state=discriminator_tx.init(d_params),
        ema=jax.tree.map(jnp.copy, params["reta"]),
    )
    state = parallel.replicate(state, setup.mesh)
    before = leaves(state)
    state, metrics = setup.run(state, batch, adversarial=False)
    after = leaves(state)
    assert set(metrics) == {"l1", "total", "grad_norm"}
    trained = {name for name in before if name.startswith(".params['reta']")}
    frozen = {name for name in trained if "audio_encoder" in name}
    assert len(frozen) > 10 and same(before, after) & trained == frozen


class _Call:
    """`reta.init` with the arguments that are no arrays filled in."""

    def __init__(self, reta, morphable):
        self.init = lambda key, *arrays: reta.init(key, *arrays, 5, morphable)


# The emotion disentanglement strategy.


@pytest.fixture(scope="module")
def crossed(setup):
    """A batch of three clips, rendered with weights of which none is zero."""
    reta, projection = setup.networks.reta, setup.networks.projection
    batch = to_device_batch(jax.tree.map(jnp.asarray, make_batch(3)))
    arguments = (batch.portrait, batch.audio, batch.offset)
    params = {
        "reta": random_variables(_Call(reta, setup.morphable), *arguments)["params"],
        "projection": random_variables(projection, jnp.zeros((1, 32)))["params"],
    }

    @jax.jit
    def everything(params, morphable, batch):
        rendered = render_batch(reta, params["reta"], morphable, batch)
        return rendered, cross_synthesis(reta, params["reta"], rendered, 2)

    return params, batch, *everything(params, setup.morphable, batch)


def test_cross_synthesis_is_identity_and_motion_of_one_with_emotion_of_the_other(setup, crossed):
    params, _, rendered, frames = crossed
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
        by_hand = generate(row(rendered.identity, m), controls)
        np.testing.assert_allclose(frames[m], by_hand[0], rtol=1e-4, atol=1e-4)
        assert jnp.abs(frames[m] - rendered.output.frames[m, :2]).max() > 1e-2


def test_cross_synthesis_is_judged_by_the_emotion_of_the_other(setup, crossed):
    params, batch, rendered, _ = crossed
    config = smoke_config(emotion_frames=2)
    generated = rendered.output.frames
    terms = jax.jit(
        lambda params, experts: emotion_terms(
            config, setup.networks, params, experts, rendered, generated, batch.frames
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
    cross = teach(crossed[3])[1]
    expected = np.mean([kl(real[(m - 1) % 3], cross[m]) for m in range(3)])
    np.testing.assert_allclose(terms["emotion_cross"], expected, rtol=1e-3, atol=1e-6)
    projection = params["projection"]
    f_e = np.asarray(rendered.controls.emotion[:, :2] @ projection["kernel"])
    cosine = (f_e * f_v).sum(-1) / np.linalg.norm(f_e, axis=-1) / np.linalg.norm(f_v, axis=-1)
    np.testing.assert_allclose(terms["emotion_audio"], 1 - cosine.mean(), rtol=1e-4)


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
        ("model", {"geometry": "none"}, set()),
        ("model", {"geometry": "direct"}, set()),
        ("model", {"injection": "concat"}, set()),
        ("model", {"use_style": False}, set()),
    ],
)
def test_terms_of_the_ablations(setup, section, changes, left_out):
    config = smoke_config()
    config[section].update(changes)
    networks = build_networks(config, setup.experts.teacher.width)
    state = jax.eval_shape(
        functools.partial(create_state, config, networks), setup.morphable, jax.random.key(0)
    )

    def objective(params, d_params, raw):
        batch = to_device_batch(raw)
        terms, _ = generator_terms(
            config, networks, params, d_params, setup.constants, batch, adversarial=True
        )
        return terms, total_loss(terms, config)

    batch = jax.tree.map(jnp.asarray, make_batch())
    terms, total = jax.eval_shape(objective, state.params, state.d_params, batch)
    assert set(terms) == (LOSSES | {"adversarial"}) - left_out
    assert all(value.shape == () for value in (*terms.values(), total))


def test_networks_of_left_out_losses_are_not_loaded():
    config = smoke_config()
    config.loss.update({"perceptual": 0.0, "sync": 0.0, "emotion": 0.0})
    config.experts.teacher.weights = config.experts.sync.weights = "no/such/folder"
    config.experts.vgg.weights = "no/such/folder"
    experts = load_experts(config)
    assert (experts.teacher, experts.sync, experts.vgg) == (None, None, None)
