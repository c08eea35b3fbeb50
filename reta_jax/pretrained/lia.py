"""LIA (Wang et al., ICLR 2022), `vox.pt["gen"]`: E_I and G before EDTalk. Licence CC BY-NC 4.0.

Published at https://github.com/wyhsirius/LIA. Its decoder has one latent for every layer; here each
level's own code takes that place.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reta_jax.pretrained.source import Source, Weights, read_state
from reta_jax.pretrained.table import (
    Entry,
    Params,
    Table,
    Transform,
    apply_table,
    conv,
    linear,
    vector,
)

# Blur kernels are analytic; the noise and the first to_rgb are never used; fc and direction are the
# motion bank, whose place f_M and f_E take.
UNUSED = (r".*\.kernel", r"dec\..*\.noise\.weight", r"dec\.to_rgb1\..*")
IGNORE = (*UNUSED, r"enc\.fc\..*", r"dec\.direction\.weight")

STYLE_DIM = 512
WIDTHS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64}  # of the maps by their side


def read(path: Path) -> Weights:
    return Weights("image_networks", convert(read_state(path, "gen")))


def convert(state: Mapping[str, np.ndarray]) -> Params:
    """{"image_encoder", "generator"}: parameters at 256^2, 512-d codes, modulation "modconv".

    Raises InputError that lists every key that is missing, unexpected or of another shape.
    """
    return convert_image_networks(state, IGNORE)


def convert_image_networks(state: Mapping[str, np.ndarray], ignore: tuple[str, ...]) -> Params:
    table = {
        **trunk_table("enc.net_app.convs", "image_encoder/trunk"),
        "enc.net_app.convs.7.weight": Entry(
            "image_encoder/head/kernel", (STYLE_DIM, WIDTHS[4], 4, 4), conv
        ),
        **decoder_table("dec", "generator"),
    }
    return apply_table(state, table, ignore)


def trunk_table(old: str, new: str) -> Table:
    """From RGB down to 4^2: the encoder's and the discriminator's common part."""
    pyramid = sorted(WIDTHS, reverse=True)
    first = WIDTHS[pyramid[0]]
    weight, bias = f"{old}.0.0.weight", f"{old}.0.1.bias"
    table = _activated(weight, bias, f"{new}/from_rgb", (first, 3, 1, 1))
    for n, side in enumerate(pyramid[1:], start=1):
        wide, narrow = WIDTHS[side], WIDTHS[2 * side]  # maps widen on their way down
        key, block = f"{old}.{n}", f"{new}/down_{side}"
        same_size, halved = (narrow, narrow, 3, 3), (wide, narrow, 3, 3)
        table |= _activated(
            f"{key}.conv1.0.weight", f"{key}.conv1.1.bias", f"{block}/conv1", same_size
        )
        table |= _activated(
            f"{key}.conv2.1.weight", f"{key}.conv2.2.bias", f"{block}/conv2", halved
        )
        skip = Entry(f"{block}/skip/kernel", (wide, narrow, 1, 1), conv)
        table |= {f"{key}.skip.1.weight": skip}
    return table


def decoder_table(old: str, new: str) -> Table:
    """LIA's Synthesis without its motion dictionary."""
    first, *pyramid = sorted(WIDTHS)
    width = WIDTHS[first]
    table = {
        f"{old}.input.input": Entry(f"{new}/constant", (1, width, first, first), _constant),
        **_styled(f"{old}.conv1", f"{new}/conv", width, width, _modulated),
    }
    for n, side in enumerate(pyramid):
        coarse, width = WIDTHS[side // 2], WIDTHS[side]
        level = f"{new}/level_{side}"
        flow, rgb = f"{old}.to_flows.{n}", f"{old}.to_rgbs.{n}"
        weight, bias = f"{rgb}.conv.0.weight", f"{rgb}.conv.1.bias"
        table |= {
            **_styled(f"{old}.convs.{2 * n}", f"{level}/up", coarse, width, _turned),
            **_styled(f"{old}.convs.{2 * n + 1}", f"{level}/conv", width, width, _modulated),
            **_style(f"{flow}.conv.modulation", f"{level}/to_flow/style", width),
            f"{flow}.conv.weight": Entry(
                f"{level}/to_flow/kernel", (1, 3, width, 1, 1), _pointwise
            ),
            f"{flow}.bias": Entry(f"{level}/to_flow/bias", (1, 3, 1, 1), vector),
            **_activated(weight, bias, f"{level}/to_rgb/conv", (3, width, 1, 1)),
            f"{rgb}.bias": Entry(f"{level}/to_rgb/bias", (1, 3, 1, 1), vector),
        }
    return table


def _activated(weight: str, bias: str, new: str, shape: tuple[int, ...]) -> dict[str, Entry]:
    return {
        weight: Entry(f"{new}/kernel", shape, conv),
        bias: Entry(f"{new}/bias", (1, shape[0], 1, 1), vector),
    }


def _styled(old: str, new: str, width: int, out: int, transform: Transform) -> dict[str, Entry]:
    """A modulated 3x3 convolution from `width` to `out` channels."""
    return {
        f"{old}.conv.weight": Entry(f"{new}/kernel", (1, out, width, 3, 3), transform),
        f"{old}.activate.bias": Entry(f"{new}/bias", (1, out, 1, 1), vector),
        **_style(f"{old}.conv.modulation", f"{new}/style", width),
    }


def _style(old: str, new: str, width: int) -> dict[str, Entry]:
    return {
        f"{old}.weight": Entry(f"{new}/alpha/kernel", (width, STYLE_DIM), linear),
        f"{old}.bias": Entry(f"{new}/alpha/bias", (width,)),
    }


def _constant(weight: np.ndarray) -> np.ndarray:
    """(1, C, H, W) to (H, W, C)."""
    return weight[0].transpose(1, 2, 0)


def _modulated(weight: np.ndarray) -> np.ndarray:
    """(1, O, I, k, k) to (k, k, I, O)."""
    return conv(weight.squeeze(0))


def _turned(weight: np.ndarray) -> np.ndarray:
    """A transposed convolution's kernel, for use as a cross-correlation."""
    return _modulated(weight)[::-1, ::-1]


def _pointwise(weight: np.ndarray) -> np.ndarray:
    """(1, O, I, 1, 1) to (I, O)."""
    return _modulated(weight).squeeze((0, 1))


SOURCE = Source(
    name="lia",
    gives="image encoder E_I, generator G",
    published=("vox.pt",),
    where="https://github.com/wyhsirius/LIA",
    licence="CC BY-NC 4.0",
    is_commercial=False,
    megabytes=180,
    read=read,
)
