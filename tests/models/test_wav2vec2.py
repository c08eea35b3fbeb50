"""wav2vec 2.0 against the published network's outputs, and its promises about time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.errors import InputError
from reta_jax.models.wav2vec2 import Wav2Vec2
from reta_jax.pretrained import wav2vec2
from tests.golden.fill import golden, state_dict
from tests.weights import random_variables

SMALL = Wav2Vec2(
    conv_features=(16,) * 7, width=32, layers=2, heads=4, mlp_dim=64, position_kernel=8,
    position_groups=4,
)  # fmt: skip
run = jax.jit(SMALL.apply)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def small():
    return random_variables(SMALL, jnp.zeros((1, 3200)))


def test_equals_the_published_network():
    expected = golden("wav2vec2")
    network = Wav2Vec2(pad=0)
    params = wav2vec2.convert(state_dict("wav2vec2_base_960h"), network)

    @jax.jit
    def stages_of(params, audio):
        kept = lambda module, _: module.name in ("feature_norm", "norm")
        return network.apply({"params": params}, audio, capture_intermediates=kept)

    features, captured = stages_of(params, expected["audio"])
    stages = captured["intermediates"]
    np.testing.assert_allclose(stages["feature_norm"]["__call__"][0], expected["conv"], atol=3e-5)
    np.testing.assert_allclose(stages["norm"]["__call__"][0], expected["h0"], atol=3e-5)
    np.testing.assert_allclose(features, expected["last"], atol=3e-5)


def test_has_the_published_number_of_parameters():
    audio = jax.ShapeDtypeStruct((1, 3200), jnp.float32)
    params = jax.eval_shape(Wav2Vec2().init, jax.random.key(0), audio)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 94_371_712


@pytest.mark.parametrize("frames", [1, 5, 62])
def test_two_steps_per_video_frame(frames):
    audio = jax.ShapeDtypeStruct((2, frames * 640), jnp.float32)
    features, _ = jax.eval_shape(lambda x: SMALL.init_with_output(jax.random.key(0), x), audio)
    assert features.shape == (2, frames * 2, 32)


def test_loudness_and_offset_do_not_matter(small, rng):
    audio = jnp.asarray(rng.standard_normal((2, 3200), np.float32))
    plain = run(small, audio)
    np.testing.assert_allclose(run(small, 3000 * audio + 50), plain, atol=1e-4)
    assert np.isfinite(run(small, jnp.zeros((1, 3200)))).all()


def test_windows_of_a_batch_are_apart(small, rng):
    audio = jnp.asarray(rng.standard_normal((2, 3200), np.float32))
    both = run(small, audio)
    np.testing.assert_allclose(run(small, audio[1:]), both[1:], atol=1e-5)


def test_every_parameter_is_trained_but_the_convolutions(small, rng):
    audio = jnp.asarray(rng.standard_normal((1, 3200), np.float32))
    target = rng.standard_normal((1, 10, 32), np.float32)
    gradients = jax.jit(jax.grad(lambda v: ((SMALL.apply(v, audio) - target) ** 2).mean()))(small)
    unused = [gradients["params"].pop(name) for name in ("feature_encoder", "mask_vector")]
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(unused))
    silent = {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.abs(leaf).max() > 1e-12
    }
    # A constant added to every key shifts all scores of a query alike: softmax does not see it.
    assert all("'key']['bias']" in path for path in silent), silent


def test_bfloat16_stays_close(small, rng):
    audio = jnp.asarray(rng.standard_normal((1, 3200), np.float32))
    half = jax.jit(SMALL.clone(dtype=jnp.bfloat16).apply)(small, audio)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), run(small, audio), atol=0.15)


def small_state():
    """The small network's tensors under the published keys."""
    shapes = {key: entry.shape for key, entry in wav2vec2.table(SMALL).items()}
    return {f"wav2vec2.{key}": np.full(shape, 0.5, np.float32) for key, shape in shapes.items()}


def test_accepts_both_names_of_the_weight_norm_and_a_missing_mask_vector():
    old = small_state()
    old["lm_head.weight"] = np.zeros((32, 32))
    base = "wav2vec2.encoder.pos_conv_embed.conv"
    new = dict(old)
    new[f"{base}.parametrizations.weight.original0"] = new.pop(f"{base}.weight_g")
    new[f"{base}.parametrizations.weight.original1"] = new.pop(f"{base}.weight_v")
    del new["wav2vec2.masked_spec_embed"]
    converted = wav2vec2.convert(new, SMALL)
    expected = wav2vec2.convert(old, SMALL) | {"mask_vector": np.zeros(32, np.float32)}
    jax.tree.map(np.testing.assert_array_equal, converted, expected)


def test_names_every_misfit():
    state = small_state()
    del state["wav2vec2.encoder.layer_norm.bias"]
    state["wav2vec2.adapter.weight"] = np.zeros(3)
    state["wav2vec2.feature_projection.projection.weight"] = np.zeros((33, 16))
    with pytest.raises(InputError) as error:
        wav2vec2.convert(state, SMALL)
    for name in ("encoder.layer_norm.bias", "adapter.weight", "feature_projection.projection"):
        assert name in str(error.value)
