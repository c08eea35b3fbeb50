"""LIA (Wang et al., ICLR 2022), `vox.pt["gen"]`: E_I and G before EDTalk. Licence CC BY-NC 4.0.

Published at https://github.com/wyhsirius/LIA. Its decoder has one latent for every layer; here each
level's own code takes that place.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reta_jax.models.stylegan import resolutions
from reta_jax.pretrained.adain import SIZE, image_network_shapes
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
        "enc.net_app.convs.7.weight": Entry("image_encoder/head/kernel", conv),
        **decoder_table("dec", "generator"),
    }
    return apply_table(state, table, ignore, like=image_network_shapes("modconv"))


def trunk_table(old: str, new: str) -> Table:
    """From RGB down to 4^2: the encoder's and the discriminator's common part."""
    table = _activated(f"{old}.0.0.weight", f"{old}.0.1.bias", f"{new}/from_rgb")
    for n, resolution in enumerate(reversed((4, *resolutions(SIZE)[:-1])), start=1):
        block = f"{new}/down_{resolution}"
        table |= {
            **_activated(f"{old}.{n}.conv1.0.weight", f"{old}.{n}.conv1.1.bias", f"{block}/conv1"),
            **_activated(f"{old}.{n}.conv2.1.weight", f"{old}.{n}.conv2.2.bias", f"{block}/conv2"),
            f"{old}.{n}.skip.1.weight": Entry(f"{block}/skip/kernel", conv),
        }
    return table


def decoder_table(old: str, new: str) -> Table:
    """LIA's Synthesis without its motion dictionary."""
    table = {
        f"{old}.input.input": Entry(f"{new}/constant", lambda weight: conv(weight)[..., 0]),
        **_styled(f"{old}.conv1", f"{new}/conv", _modulated),
    }
    for n, resolution in enumerate(resolutions(SIZE)):
        level = f"{new}/level_{resolution}"
        flow, rgb = f"{old}.to_flows.{n}", f"{old}.to_rgbs.{n}"
        table |= {
            **_styled(f"{old}.convs.{2 * n}", f"{level}/up", _turned),
            **_styled(f"{old}.convs.{2 * n + 1}", f"{level}/conv", _modulated),
            **_style(f"{flow}.conv.modulation", f"{level}/to_flow/style"),
            f"{flow}.conv.weight": Entry(f"{level}/to_flow/kernel", _pointwise),
            f"{flow}.bias": Entry(f"{level}/to_flow/bias", vector),
            **_activated(f"{rgb}.conv.0.weight", f"{rgb}.conv.1.bias", f"{level}/to_rgb/conv"),
            f"{rgb}.bias": Entry(f"{level}/to_rgb/bias", vector),
        }
    return table


def _activated(weight: str, bias: str, new: str, transform: Transform = conv) -> dict[str, Entry]:
    return {weight: Entry(f"{new}/kernel", transform), bias: Entry(f"{new}/bias", vector)}


def _styled(old: str, new: str, transform: Transform) -> dict[str, Entry]:
    weights = _activated(f"{old}.conv.weight", f"{old}.activate.bias", new, transform)
    return weights | _style(f"{old}.conv.modulation", f"{new}/style")


def _style(old: str, new: str) -> dict[str, Entry]:
    return {
        f"{old}.weight": Entry(f"{new}/alpha/kernel", linear),
        f"{old}.bias": Entry(f"{new}/alpha/bias"),
    }


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
