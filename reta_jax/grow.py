"""Weights of a model for pictures of twice the size, which does what the small one did.

A mouth is learnt where frames are cheap, and pictures become sharp where they are dear: E_I and G
begin at half the size, and grow. A level is added to each so that at first the grown E_I sees its
picture at half the size, and the grown G doubles the frame that the small one makes:

    E_I'(P) = E_I(half(P))        G' = upsample(G), or also the portrait's detail

The new layers' other channels start at random, without effect, and learn (progressive growing, with
no fading-in, because nothing changes at first).
"""

from typing import Any

import numpy as np

from reta_jax.models.stylegan import channels

# Three taps after the blur [1, 3, 3, 1] / 8: together [-1, 1, 8, 8, 1, -1] / 16, nearly the mean of
# two pixels, and outside the picture's edge nothing is missed.
HALVING = np.float32([-0.5, 2.0, -0.5])


def grow(
    params: dict[str, Any], size: int, multiplier: float, only_detail: bool = False
) -> dict[str, Any]:
    """Parameters for twice the size, as far as they are not the random start's.

    Args:
      params: of a RETA for `size`^2 pictures, whose channels `multiplier` scales.
      only_detail: the new level adds the portrait's detail (`Generator.detail_from`), at first all
        of it, where the mask shows the portrait.
    """
    encoder, generator = params["image_encoder"], params["generator"]
    width = channels(2 * size, multiplier)
    trunk = encoder["trunk"]
    from_rgb, down = _entrance(trunk["from_rgb"], width)
    trunk = trunk | {"from_rgb": from_rgb, f"down_{size}": down}
    to_rgb = np.zeros((1, 1, width, 3), np.float32)
    if only_detail:  # `_entrance` leaves sqrt(2) (x + 1) of the colours x, to_rgb's ReLU sqrt(2)
        to_rgb[0, 0, :3] = 0.5 * np.sqrt(width) * np.eye(3)
    level = {"to_rgb": {"conv": {"kernel": to_rgb}}}
    return params | {
        "image_encoder": encoder | {"trunk": trunk},
        "generator": generator | {f"level_{2 * size}": level},
    }


def _entrance(from_rgb: dict[str, Any], width: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A `from_rgb` that passes the colours on, and a block that does what the old one did at half.

    x + 1 is never negative, so leaky ReLUs only scale it, by sqrt(2) each.
    """
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    colours = np.arange(3)

    passing = {"kernel": normal(1, 1, 3, width), "bias": np.zeros(width, np.float32)}
    passing["kernel"][..., :3] = np.sqrt(3) * np.eye(3)
    passing["bias"][:3] = 1

    conv1 = {"kernel": normal(3, 3, width, width), "bias": np.zeros(width, np.float32)}
    conv1["kernel"][..., :3] = 0
    conv1["kernel"][1, 1, colours, colours] = 3 * np.sqrt(width)

    old = np.asarray(from_rgb["kernel"], np.float32)[0, 0] / np.sqrt(3)  # (3, features)
    conv2 = {
        "kernel": np.zeros((3, 3, width, old.shape[1]), np.float32),
        "bias": np.sqrt(2) * (np.asarray(from_rgb["bias"], np.float32) - old.sum(0)),
    }
    taps = HALVING[:, None, None, None] * HALVING[None, :, None, None]
    conv2["kernel"][:, :, :3] = taps * old * 3 * np.sqrt(width) / np.sqrt(2)

    skip = {"kernel": np.zeros((1, 1, width, old.shape[1]), np.float32)}
    return passing, {"conv1": conv1, "conv2": conv2, "skip": skip}
