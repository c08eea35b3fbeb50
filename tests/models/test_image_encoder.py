import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.models.image_encoder import ImageEncoder
from reta_jax.models.stylegan import channels
from reta_jax.pretrained import lia
from tests.golden.fill import golden, state_dict, uniform

SMALL = ImageEncoder(size=32, style_dim=32, channel_multiplier=1 / 16)


def test_parameter_count_is_the_reference():
    variables = jax.eval_shape(ImageEncoder().init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 21_635_648


def test_channel_table():
    table = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}
    assert {resolution: channels(resolution) for resolution in table} == table
    assert channels(256, 1 / 8) == 8
    assert channels(256, 1 / 64) == 4  # never fewer


def test_golden_features():
    """LIA's encoder under the seeded weights, 256^2."""
    params = lia.convert(state_dict("lia_gen"))["image_encoder"]
    image = jnp.asarray(uniform("src", (1, 3, 256, 256), -1, 1).transpose(0, 2, 3, 1))
    style, textures = jax.jit(ImageEncoder().apply)({"params": params}, image)
    expected = golden("lia_gen")
    np.testing.assert_allclose(style, expected["wa"], atol=1e-5)
    assert [texture.shape[1] for texture in textures] == [8, 16, 32, 64, 128, 256]
    for level, texture in enumerate(textures):
        crop = expected[f"feat{level}_crop"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(texture[:, :8, :8, :8], crop, atol=1e-5)
        statistics = [texture.mean(), texture.std(), jnp.abs(texture).max()]
        np.testing.assert_allclose(statistics, expected[f"feat{level}_stats"], atol=1e-5)


def test_small_encoder_and_its_gradients():
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    params = jax.jit(SMALL.init)(jax.random.key(1), images)

    @jax.jit
    def gradients(params, images):
        def energy(params):
            style, textures = SMALL.apply(params, images)
            return sum(jnp.square(x).sum() for x in (style, *textures))

        return jax.grad(energy)(params)

    for path, leaf in jax.tree.leaves_with_path(gradients(params, images)):
        assert jnp.abs(leaf).max() > 0, path
    style, textures = jax.eval_shape(SMALL.apply, params, images)
    assert style.shape == (2, 32)
    assert [texture.shape for texture in textures] == [(2, n, n, 32) for n in (8, 16, 32)]


def test_bfloat16_maps_and_float32_style():
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    params = jax.jit(SMALL.init)(jax.random.key(1), images)
    exact, _ = jax.jit(SMALL.apply)(params, images)
    style, textures = jax.jit(SMALL.clone(dtype=jnp.bfloat16).apply)(params, images)
    assert style.dtype == jnp.float32
    assert {texture.dtype for texture in textures} == {jnp.dtype(jnp.bfloat16)}
    assert jnp.abs(style - exact).max() < 0.05 * jnp.abs(exact).max()


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the network is for 32"):
        SMALL.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
