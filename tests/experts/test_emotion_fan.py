"""Emotion-FAN: the published parameters, the attention over frames, training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.experts.emotion_fan import EmotionFAN
from reta_jax.pretrained import emotion_fan
from tests.golden.fill import state_dict
from tests.weights import random_variables

SMALL = EmotionFAN(width=8, classes=3)


@pytest.fixture(scope="module")
def clips():
    return jax.random.uniform(jax.random.key(0), (2, 4, 32, 32, 3), minval=-1)


@pytest.fixture(scope="module")
def variables(clips):
    return random_variables(SMALL, clips)


@pytest.mark.parametrize(("name", "classes"), [("emotion_fan_7", 7), ("emotion_fan_mead8", 8)])
def test_takes_every_published_tensor(name, classes):
    state = state_dict(name)
    weights = emotion_fan.convert(state, classes)["params"]
    not_trained = ("running_mean", "running_var", "num_batches_tracked")
    published = sum(v.size for k, v in state.items() if not k.endswith(not_trained))
    ours = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(weights))
    assert ours == published == 11_188_816 + (classes - 7) * (512 + 1024 + 2)


# The published network, written down once more in NumPy, in PyTorch's layout and by its keys.


def convolve(x, weight, stride):
    """(n, c, h, w) with (o, c, k, k), padded by k // 2."""
    k = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2,) * 2, (k // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.moveaxis(np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))), -1, 1)


def normalise(x, state, key):
    scale = state[f"{key}.weight"] / np.sqrt(state[f"{key}.running_var"] + 1e-5)
    column = lambda v: v[:, None, None]
    return (x - column(state[f"{key}.running_mean"])) * column(scale) + column(state[f"{key}.bias"])


def resnet18(x, state):
    x = np.maximum(normalise(convolve(x, state["conv1.weight"], 2), state, "bn1"), 0)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    x = x.max((-2, -1))
    for stage in range(1, 5):
        for block in range(2):
            key = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = convolve(x, state[f"{key}.conv1.weight"], stride)
            y = np.maximum(normalise(y, state, f"{key}.bn1"), 0)
            y = normalise(convolve(y, state[f"{key}.conv2.weight"], 1), state, f"{key}.bn2")
            if f"{key}.downsample.0.weight" in state:
                x = convolve(x, state[f"{key}.downsample.0.weight"], stride)
                x = normalise(x, state, f"{key}.downsample.1")
            x = np.maximum(x + y, 0)
    return x.mean((2, 3))


def published_attention(features, state):
    """Self-relation attention and, before it, self-attention over one clip's frames (t, 512)."""
    linear = lambda x, key: x @ state[f"{key}.weight"].T + state[f"{key}.bias"]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    alpha = sigmoid(linear(features, "alpha.0"))
    clip = (features * alpha).sum(0) / alpha.sum()
    pairs = np.concatenate([features, np.broadcast_to(clip, features.shape)], axis=1)
    weights = alpha * sigmoid(linear(pairs, "beta.0"))
    related = (pairs * weights).sum(0) / weights.sum()
    return linear(related, "pred_fc2"), linear(clip, "pred_fc1")


def test_equals_the_published_network_in_numpy():
    state = {key: np.float64(value) for key, value in state_dict("emotion_fan_mead8").items()}
    frames = np.random.default_rng(0).uniform(-1, 1, (1, 3, 48, 64, 3)).astype(np.float32)
    features = resnet18((np.moveaxis(np.float64(frames[0]), -1, 1) + 1) / 2, state)
    expected = published_attention(features, state)
    variables = emotion_fan.convert(state_dict("emotion_fan_mead8"), classes=8)
    for relation, logits in zip((True, False), expected, strict=True):
        network = EmotionFAN(classes=8, relation=relation)
        found, _ = jax.jit(network.apply)(variables, frames)
        error = np.abs(found[0] - logits).max() / np.abs(logits).max()
        print(f"emotion_fan: {error:.1e} relative")
        assert error < 1e-5


def test_attention_equals_numpy(variables, clips):
    (logits, features), captured = SMALL.apply(
        variables, clips, capture_intermediates=lambda module, _: module.name == "block_3_1"
    )
    (last,) = captured["intermediates"]["block_3_1"]["__call__"]
    frames = np.asarray(last, np.float64).mean(axis=(1, 2)).reshape(2, 4, -1)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])

    def gate(name, x):
        return 1 / (1 + np.exp(-(x @ params[name]["kernel"] + params[name]["bias"])))

    for clip, expected_logits, expected in zip(frames, logits, features, strict=True):
        alpha = gate("alpha", clip)
        mean = (clip * alpha).sum(0) / alpha.sum()
        pairs = np.concatenate([clip, np.tile(mean, (4, 1))], axis=1)
        weights = alpha * gate("beta", pairs)
        related = (pairs * weights).sum(0) / weights.sum()
        np.testing.assert_allclose(expected, related, rtol=1e-4, atol=1e-5)
        head = params["relation_head"]
        np.testing.assert_allclose(
            expected_logits, related @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5
        )


def test_order_of_frames_does_not_matter_and_plain_attention_is_the_other_head(variables, clips):
    logits, _ = SMALL.apply(variables, clips)
    np.testing.assert_allclose(SMALL.apply(variables, clips[:, ::-1])[0], logits, atol=1e-5)
    plain, features = SMALL.clone(relation=False).apply(variables, clips)
    head = variables["params"]["attention_head"]
    np.testing.assert_allclose(
        plain, np.asarray(features) @ np.asarray(head["kernel"]) + head["bias"][None], atol=1e-5
    )


def test_training_moves_the_batch_statistics_and_lowers_the_loss(variables, clips):
    labels = jnp.array([0, 2])

    @jax.jit
    def step(variables):
        def loss(params):
            (logits, _), new = SMALL.apply(
                variables | {"params": params}, clips, train=True, mutable=["batch_stats"]
            )
            scores = jax.nn.log_softmax(logits)
            return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean(), new

        (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.05 * g, variables["params"], gradient)
        return value, {"params": params} | new

    first, trained = step(variables)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), variables["batch_stats"], trained["batch_stats"]
    )
    assert min(jax.tree.leaves(moved)) > 0
    for _ in range(10):
        last, trained = step(trained)
    assert last < first / 2
