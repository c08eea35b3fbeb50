"""AdaIN from modulated convolutions: what calibration keeps of the network it started from."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax.models.generator import Generator
from reta_jax.models.image_encoder import ImageEncoder
from reta_jax.pretrained import adain, sources
from reta_jax.pretrained.source import Source, Weights

SIZE, STYLE_DIM, WIDTH = 32, 32, 1 / 16


def small_networks(modulation):
    return (
        ImageEncoder(SIZE, STYLE_DIM, WIDTH),
        Generator(SIZE, STYLE_DIM, WIDTH, modulation=modulation, split_res=16),
    )


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(adain, "SIZE", SIZE)
    monkeypatch.setattr(adain, "_networks", small_networks)
    adain.image_network_shapes.cache_clear()
    yield
    adain.image_network_shapes.cache_clear()


def draw(path, leaf):
    random = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
    values = random.standard_normal(leaf.shape)
    if path[-1].key == "bias":
        values = 0.1 * values + ("alpha" in jax.tree_util.keystr(path))
    return values.astype(np.float32)


def faces(seed, count):
    """Smooth pictures in [-1, 1], as faces are compared with noise."""
    coarse = jax.random.normal(jax.random.key(seed), (count, 4, 4, 3))
    return np.asarray(jnp.tanh(jax.image.resize(coarse, (count, SIZE, SIZE, 3), "bicubic")))


@functools.cache
def modconv_params():
    return jax.tree_util.tree_map_with_path(draw, adain.image_network_shapes("modconv"))


@functools.cache
def calibrated_params():
    return adain.to_adain(modconv_params(), faces(0, 4))


@functools.cache
def renderer(modulation):
    encoder, generator = small_networks(modulation)
    first = lambda module, _: module.path == ("conv",)

    @jax.jit
    def render(params, images):
        style, textures = encoder.apply({"params": params["image_encoder"]}, images)
        motion = 0.1 * jax.random.normal(jax.random.key(9), style.shape)
        code = (style + motion)[:, None]
        output, kept = generator.apply(
            {"params": params["generator"]}, textures, code, code, capture_intermediates=first
        )
        return output.frames, kept["intermediates"]["conv"]["__call__"][0]

    return render


def render(params, modulation, seed):
    """Frames, and what the first modulated layer gives, each portrait under a code near its own."""
    return renderer(modulation)(params, faces(seed, 4))


def test_calibrated_import_is_closer_than_plain_insertion():
    """Of faces that were not measured."""
    expected, _ = render(modconv_params(), "modconv", seed=1)
    candidates = {
        "plain": adain.to_adain(modconv_params(), None),
        "calibrated": calibrated_params(),
    }
    likeness = {}
    for name, params in candidates.items():
        frames, _ = render(params, "adain", seed=1)
        likeness[name] = np.corrcoef(np.ravel(frames), np.ravel(expected))[0, 1]
    print(likeness)
    assert likeness["calibrated"] > likeness["plain"] + 0.1
    assert likeness["calibrated"] > 0.5


def test_the_first_layer_is_exact():
    """Its input is a constant, so every instance has the measured statistics."""
    _, expected = render(modconv_params(), "modconv", seed=2)
    _, found = render(calibrated_params(), "adain", seed=2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    _, plain = render(adain.to_adain(modconv_params(), None), "adain", seed=2)
    assert np.abs(plain - expected).max() > 0.1


def test_without_portraits_spread_is_one_and_beta_zero():
    tree = adain.to_adain(modconv_params(), None)["generator"]
    style = tree["level_16"]["to_flow"]["style"]
    assert set(style) == {"alpha", "beta", "spread"}
    np.testing.assert_array_equal(style["spread"], np.ones(style["spread"].shape))
    assert not any(leaf.any() for leaf in style["beta"].values())


def test_everything_else_stays_as_published():
    given = modconv_params()
    before = jax.tree.map(np.copy, given)
    tree = adain.to_adain(given, faces(0, 1))
    jax.tree.map(np.testing.assert_array_equal, given, before)
    assert tree["image_encoder"] is given["image_encoder"]
    shapes = jax.tree.map(lambda leaf: leaf.shape, tree)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, adain.image_network_shapes("adain"))
    new = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree["generator"])]
    old = [path for path, _ in jax.tree_util.tree_leaves_with_path(given["generator"])]
    assert set(old) < set(new)
    assert {path[-2].key for path in set(new) - set(old)} == {"beta", "style"}


def test_statistics_are_means_over_portraits():
    images = faces(0, 2)
    one, other = (adain.measure(modconv_params(), images[i : i + 1]) for i in (0, 1))
    both = adain.measure(modconv_params(), images)
    assert len(both) == 1 + 3 * 3  # the first layer, and three a level
    for path, (mean, spread) in both.items():
        np.testing.assert_allclose(mean, (one[path][0] + other[path][0]) / 2, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(spread, (one[path][1] + other[path][1]) / 2, rtol=1e-5)
    constant = modconv_params()["generator"]["constant"]
    mean, spread = both["conv", "style"]
    np.testing.assert_allclose(mean, constant.mean((0, 1)), rtol=1e-4, atol=1e-5)
    expected = np.sqrt(constant.var((0, 1)) + adain.EPS)
    np.testing.assert_allclose(spread, expected, rtol=1e-4)


def test_the_import_measures_on_the_given_portraits(monkeypatch, tmp_path):
    """Either modulation by the same command; the folder says which it is."""
    read = lambda _: Weights("image_networks", modconv_params())
    source = Source("lia", "", (), "", "free", True, 0, read)
    monkeypatch.setitem(sources.SOURCES, "lia", source)
    (tmp_path / "vox.pt").write_bytes(b"")
    pictures = [np.uint8((face + 1) * 127.5) for face in faces(0, 2)]
    found, _ = sources.read_source("lia", tmp_path / "vox.pt", "adain", pictures)
    expected = adain.to_adain(modconv_params(), np.stack(pictures) / np.float32(127.5) - 1)
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected)
    assert found.fields == {"modulation": "adain"}
    exact, _ = sources.read_source("lia", tmp_path / "vox.pt")
    assert exact.fields == {"modulation": "modconv"}
    jax.tree.map(np.testing.assert_array_equal, exact.variables, modconv_params())
