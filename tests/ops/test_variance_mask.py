import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from configs.synthetic import get_config
from data_pipeline.errors import InputError
from reta_jax.checks import check_config
from reta_jax.ops.variance_mask import _opening, temporal_variance_mask


def mask_of(clips, size):
    return jax.jit(temporal_variance_mask, static_argnums=1)(jnp.asarray(clips), size).mask


def numpy_mask(clip, size, tau_init=0.2, kernel=3, sigma=1.5, tau_final=0.5):
    """Algorithm 1 for one clip (t, h, w, c), with SciPy's filters."""
    variance = clip.astype(np.float64).var(0).mean(-1)
    normalised = (variance - variance.min()) / (variance.max() - variance.min())
    coarse = (normalised > tau_init).astype(np.float64)
    eroded = ndimage.minimum_filter(coarse, kernel, mode="constant", cval=1)
    opened = ndimage.maximum_filter(eroded, kernel, mode="constant", cval=0)
    smooth = ndimage.gaussian_filter(opened, sigma, mode="nearest")
    # Pixel centres of the target on the map, clamped to its border.
    scale = clip.shape[1] / size
    centres = np.clip((np.arange(size) + 0.5) * scale - 0.5, 0, clip.shape[1] - 1)
    resized = ndimage.map_coordinates(smooth, np.meshgrid(centres, centres, indexing="ij"), order=1)
    return (resized > tau_final).astype(np.float32)


def moving_clips(b=3, t=5, n=24, c=16):
    rng = np.random.default_rng(0)
    clips = 0.05 * rng.normal(size=(b, t, n, n, c))
    for i in range(b):
        y, x = rng.integers(0, n - 10, 2)
        clips[i, :, y : y + 10, x : x + 8] += rng.normal(size=(t, 10, 8, c))
        clips[i, :, -1 - i, 0] += rng.normal(size=(t, c))  # a lone pixel, to be opened away
    return jnp.asarray(clips, jnp.float32)


@pytest.mark.parametrize("size", [24, 96])
def test_matches_algorithm_1(size):
    clips = moving_clips()
    masks = mask_of(clips, size)
    assert masks.shape == (3, size, size, 1)
    for clip, mask in zip(clips, masks, strict=True):
        expected = numpy_mask(np.asarray(clip), size)
        assert 0.05 < expected.mean() < 0.3
        np.testing.assert_array_equal(mask[..., 0], expected)


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_an_opening_leaves_what_is_as_large_as_its_kernel_where_it_is(kernel):
    mask = np.zeros((2, 10, 12), np.float32)
    mask[0, 4:8, 5:9] = mask[1, :4, 8:] = 1
    given = mask.copy()
    given[0, 1, 1] = 1
    np.testing.assert_array_equal(_opening(jnp.asarray(given), kernel), mask)


def test_a_small_cluster_is_opened_away():
    clip = np.zeros((1, 4, 16, 16, 2), np.float32)
    clip[0, ::2, 5:7, 5:7] = 1
    np.testing.assert_array_equal(mask_of(clip, 32), 0)
    clip[0, ::2, 4:12, 4:12] = 1
    assert mask_of(clip, 32).sum() > 0


def test_motion_at_the_border_is_kept():
    clip = np.zeros((1, 4, 16, 16, 2), np.float32)
    clip[0, ::2, 8:, 4:12] = 1
    mask = mask_of(clip, 16)[0, :, :, 0]
    np.testing.assert_array_equal(mask[-1, 5:11], 1)


def test_a_clip_that_stands_still_has_an_empty_mask():
    moving = moving_clips(b=1)
    still = np.broadcast_to(moving[:, :1], moving.shape)  # not uniform, but constant in time
    masks = mask_of(np.concatenate([still, moving]), 24)
    assert bool(jnp.isfinite(masks).all())
    np.testing.assert_array_equal(masks[0], 0)
    assert masks[1].sum() > 0


def test_no_gradient_flows_through_any_stage():
    total = lambda clips: sum(stage.sum() for stage in temporal_variance_mask(clips, 24))
    gradient = jax.grad(total)(moving_clips(b=1))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("wrong", [{"kernel": 0}, {"sigma": 0.0}])
def test_constants_that_make_no_mask_are_refused_where_the_loss_looks(wrong):
    config = get_config("smoke")
    config.tvm.update(wrong)
    config.loss.motion = 1.0
    with pytest.raises(InputError, match=f"tvm.{next(iter(wrong))}={next(iter(wrong.values()))}"):
        check_config(config, devices=1)
    config.loss.motion = 0.0
    check_config(config, devices=1)
