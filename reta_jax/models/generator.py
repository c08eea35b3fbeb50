"""G: flow and occlusion at every level from the control codes, warping the portrait's textures.

The decoder of LIA and EDTalk with one code per level (appendix C.4, Eq. 1). At each level, 8^2 to
size^2, two modulated convolutions carry the control features x; a third reads a raw map (flow x,
flow y, occlusion) off them, added to the upsampled map of the level before. The texture map is
warped by the flow and weighed by the mask:

    warped = mask * sample(f_TEX, identity + flow)
    x = warped + (1 - mask) * x
    frame = to_rgb(warped) + upsample(frame of the level before)

The published weights read the frame off `warped`: where the mask is 0, they leave it to the levels
before. With rgb_from="blended", to_rgb reads x instead, so that what the portrait does not show,
teeth and the inside of a mouth, is painted there: the inpainting that appendix C.4 gives the mask.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from reta_jax.models.stylegan import (
    UNIT_NORMAL,
    EqualDense,
    channels,
    exact_dense,
    resolutions,
    scaled,
)
from reta_jax.models.styles import Style, StyledLayer, kernel_gain, styles_of
from reta_jax.ops.activation import leaky_relu, modulated_leaky_relu
from reta_jax.ops.adain import adain_affine, demodulation, kernel_energy, modulate
from reta_jax.ops.blur import blur, upsample
from reta_jax.ops.conv import (
    Phases,
    conv,
    mix_channels,
    up_conv,
    up_conv_phases,
    up_conv_transposed,
)
from reta_jax.ops.maps import blend, shared, written
from reta_jax.ops.warp import grid_sample, identity_grid, inherited_grid
from reta_jax.ops.winograd import winograd_conv

# Training from scratch starts with sigmoid(2) = 88 % of the warped texture: enough to be judged and
# to train the flow, while the control features below still receive gradient. Finer levels add to
# the upsampled map, so the coarsest alone carries it. Imported weights bring their own.
MASK_BIAS = 2.0
NARROW = 16  # channels of the last level up to which a CPU warps them as fast as three
STYLES = "styles"  # among prepared parameters: what the styles of all layers follow from

Modulation = Literal["adain", "modconv"]
RGBFrom = Literal["warped", "blended"]


class GeneratorOutput(NamedTuple):
    """Levels are coarse to fine, 8^2 first. Only `frames` is needed to render."""

    frames: jax.Array  # (b, t, h, w, 3) float32, nominally in [-1, 1], not clipped
    flows: tuple[jax.Array, ...]  # (b, t, h, w, 2) x, y added to the identity grid, in (-1, 1)
    masks: tuple[jax.Array, ...]  # (b, t, h, w, 1) 1: warped texture, 0: control features
    raw: tuple[jax.Array, ...]  # (b, t, h, w, 3) before tanh and sigmoid


class Generator(nn.Module):
    """Codes of t frames and one pyramid of textures to t frames.

    modulation: "adain" normalises every modulated layer's input (Eq. 1) and keeps StyleGAN2's
      demodulation behind each 3x3 convolution, so that there alpha counts by its ratios alone;
      "modconv" is the arithmetic of the published weights, which scales the input only.
    split_res: the levels below take the early code (f_STY + f_M), the others the late one
      (f_STY + f_E).
    rgb_from: what the colours are read off, see above.
    grid_size: finer levels sample on the identity grid of this size; 0: each on its own, as the
      published ones.
    detail_from: from this level on, the portrait's detail is all that colours add
      (`add_detail`); 0: no level.
    remat: a level is computed again for its gradient instead of being kept.
    """

    size: int = 256
    style_dim: int = 512
    channel_multiplier: float = 1.0
    modulation: Modulation = "adain"
    split_res: int = 64
    rgb_from: RGBFrom = "warped"
    grid_size: int = 0
    detail_from: int = 0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        textures: tuple[Float[Array, "b _ _ _"], ...],
        early: Float[Array, "b t {self.style_dim}"],
        late: Float[Array, "b t {self.style_dim}"],
    ) -> GeneratorOutput:
        if self.modulation not in get_args(Modulation):
            raise ValueError(
                f"modulation is {self.modulation!r}, not one of {get_args(Modulation)}"
            )
        if self.rgb_from not in get_args(RGBFrom):
            raise ValueError(f"rgb_from is {self.rgb_from!r}, not one of {get_args(RGBFrom)}")
        b, t, _ = early.shape
        early, late = (code.reshape(b * t, -1) for code in (early, late))
        levels = resolutions(self.size)
        if len(textures) != len(levels):
            raise ValueError(f"{len(textures)} texture maps for the {len(levels)} levels {levels}")

        width = channels(4, self.channel_multiplier)
        constant = self.param("constant", UNIT_NORMAL, (4, 4, width))
        x = jnp.broadcast_to(constant.astype(self.dtype), (b * t, *constant.shape))
        styles = self.styles(early, late)
        control = styles["conv",] if styles else early
        x = StyledConv(width, self.modulation, dtype=self.dtype, name="conv")(x, control)
        frames = raw_map = None
        raw_maps = []
        level_type = nn.remat(Level) if self.remat else Level
        for resolution, texture in zip(levels, textures, strict=True):
            name = f"level_{resolution}"
            level = level_type(
                features=channels(resolution, self.channel_multiplier),
                modulation=self.modulation,
                rgb_from=self.rgb_from,
                grid_size=min(resolution, self.grid_size or resolution),
                mixes_colours=resolution == self.size
                and channels(resolution, self.channel_multiplier) > NARROW,
                only_detail=0 < self.detail_from <= resolution,
                mask_bias=MASK_BIAS if raw_map is None else 0.0,
                dtype=self.dtype,
                name=name,
            )
            code = early if self.is_early(resolution) else late
            own_styles = {path[1]: style for path, style in styles.items() if path[0] == name}
            x, frames, raw_map = level(x, own_styles or code, texture, frames, raw_map)
            raw_maps.append(raw_map.reshape(b, t, *raw_map.shape[1:]))
        return GeneratorOutput(
            frames=frames.reshape(b, t, *frames.shape[1:]),
            flows=tuple(flow_of(raw_map) for raw_map in raw_maps),
            masks=tuple(mask_of(raw_map) for raw_map in raw_maps),
            raw=tuple(raw_maps),
        )

    def is_early(self, resolution: int) -> bool:
        return resolution < self.split_res

    def styled_layers(self) -> list[StyledLayer]:
        """All modulated layers, in the order of their calls."""
        width = channels(4, self.channel_multiplier)
        layers = [StyledLayer(("conv",), "early", 4, width, width)]
        for resolution in resolutions(self.size):
            inputs, width = width, channels(resolution, self.channel_multiplier)
            code = "early" if self.is_early(resolution) else "late"
            for name, i, o in (
                ("up", inputs, width), ("conv", width, width), ("to_flow", width, None),
            ):  # fmt: skip
                layers.append(StyledLayer((f"level_{resolution}", name), code, resolution, i, o))
        return layers

    def styles(self, early: Array, late: Array) -> dict[tuple[str, ...], Style]:
        """Of all layers, where `prepare_generator` brought together what they follow from."""
        if not self.has_variable("params", STYLES):
            return {}
        return styles_of(self.styled_layers(), self.get_variable("params", STYLES), early, late)


def add_detail(
    frames: Float[Array, "n g g 3"], colours: Float[Array, "n h h 3"]
) -> Float[Array, "n h h 3"]:
    """Frames of twice the size, with what of `colours` is too fine for the frames as they are.

    The highest band of a Laplacian pyramid. Beyond the border both are continued: nothing of the
    frames' grey rim is left.
    """
    coarse = blur(_continued(colours), pad=(0, 0), stride=2)
    return colours + upsample(_continued(frames - coarse))[:, 2:-2, 2:-2]


def _continued(x: Float[Array, "n h w c"]) -> Float[Array, "n _ _ c"]:
    """With its outermost pixels once more around it."""
    rows = jnp.concatenate([x[:, :1], x, x[:, -1:]], 1)
    return jnp.concatenate([rows[:, :, :1], rows, rows[:, :, -1:]], 2)


def flow_of(raw_map: Float[Array, "*b 3"]) -> Float[Array, "*b 2"]:
    return jnp.tanh(raw_map[..., :2])


def mask_of(raw_map: Float[Array, "*b 3"]) -> Float[Array, "*b 1"]:
    return jax.nn.sigmoid(raw_map[..., 2:])


class Level(nn.Module):
    """One resolution: doubles the control features, reads the raw map off them, warps and blends.

    n = b * t: the texture of a clip serves its t frames.

    mixes_colours: it reads colours off the texture and x before it warps and blends them; else it
      reads them off the warped and blended features. The same up to rounding; see `mix_colours`.
    only_detail: its colours are the portrait's alone, added by `add_detail`.
    """

    features: int
    modulation: Modulation
    rgb_from: RGBFrom
    grid_size: int
    mixes_colours: bool
    only_detail: bool
    mask_bias: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n g g i"],
        control: Float[Array, "n d"] | dict[str, Style],
        texture: Float[Array, "b h h {self.features}"],
        frames: Float[Array, "n g g 3"] | None,
        raw_map: Float[Array, "n g g 3"] | None,
    ) -> tuple[Float[Array, "n h h {self.features}"], Float[Array, "n h h 3"], Array]:
        """(x, frames, raw map) of this resolution from those of the one before.

        Args:
          control: a code, or the layers' styles by their names, where they are known already.
        """
        control_of = lambda layer: control[layer] if isinstance(control, dict) else control
        styled = functools.partial(StyledConv, self.features, self.modulation, dtype=self.dtype)
        x = styled(up=True, name="up")(x, control_of("up"))
        x = styled(name="conv")(x, control_of("conv"))

        to_raw_map = ToRawMap(self.modulation, self.mask_bias, name="to_flow")
        of_flow, x = shared(x)
        increment = to_raw_map(of_flow, control_of("to_flow"))
        raw_map = increment if raw_map is None else increment + upsample(raw_map)
        mask = mask_of(raw_map)
        # A detail is the portrait's colours, as they are.
        texture = texture.astype(jnp.float32 if self.only_detail else self.dtype)
        warped, of_colours = shared(self.warp(texture, raw_map))
        blended = blend(mask, warped, x)

        to_rgb = ToRGB(name="to_rgb")
        reads_x = self.rgb_from == "blended" and not self.only_detail
        if self.mixes_colours:
            of_x = (x,) if reads_x else ()
            colours = to_rgb(texture, *of_x, mix=functools.partial(self.mix_colours, raw_map))
        elif reads_x:
            colours = to_rgb(blended)
        else:
            colours = to_rgb(of_colours, mix=lambda colours: mask * colours)
        if self.only_detail:
            frames = add_detail(frames, colours)
        else:
            frames = colours if frames is None else colours + upsample(frames)
        return blended, frames, raw_map

    def mix_colours(
        self,
        raw_map: Float[Array, "n h h 3"],
        of_texture: Float[Array, "b h h 3"],
        of_x: Float[Array, "n h h 3"] | None = None,
    ) -> Float[Array, "n h h 3"]:
        """The colours of what is blended, from the colours of its parts.

        Colours are sums of channels: three are warped in place of all, and a portrait's are summed
        once for its t frames.
        """
        mask = mask_of(raw_map)
        warped = mask * self.warp(of_texture, raw_map)
        return warped if of_x is None else warped + (1 - mask) * of_x

    def warp(
        self, texture: Float[Array, "b h h c"], raw_map: Float[Array, "n h h 3"]
    ) -> Float[Array, "n h h c"]:
        b, h, w, _ = texture.shape
        grid = identity_grid(h, w) if self.grid_size == h else inherited_grid(h, self.grid_size)
        grid = grid[None] + flow_of(raw_map)
        warped = grid_sample(texture, grid.reshape(b, -1, h, w, 2))
        return warped.reshape(-1, h, w, texture.shape[-1])


class ControlStyle(nn.Module):
    """AF of Eq. 1: a control code to the scale and the shift of a layer's input channels.

    Returns alpha too, from which the demodulation is computed. Starts with alpha around 1 and, for
    "adain", with beta 0; "modconv" has no beta and no normalisation. The spread is 1 but for
    imported weights, whose convolutions expect channels of their own spread (pretrained/adain.py).
    """

    modulation: Modulation

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], control: Float[Array, "n d"] | Style
    ) -> tuple[Float[Array, "n c"], Float[Array, "n c"], Float[Array, "n c"] | None]:
        is_style = isinstance(control, Style)
        alpha, beta = control[:2] if is_style else self.affine(control, x.shape[-1])
        if beta is None:
            return alpha, alpha, None
        spread = self.param("spread", nn.initializers.ones, (x.shape[-1],))
        return alpha, *adain_affine(x, spread[None] * alpha, beta)

    def affine(self, code: Array, width: int) -> tuple[Array, Array | None]:
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        alpha = EqualDense(width, bias_init=ones, name="alpha")(code)
        if self.modulation == "modconv":
            return alpha, None
        return alpha, EqualDense(width, kernel_init=zeros, name="beta")(code)


class StyledConv(nn.Module):
    """Modulated and demodulated 3x3 convolution, bias, leaky ReLU; `up` doubles the size.

    Weights that went through `prepare_generator` are taken as they are.
    """

    features: int
    modulation: Modulation
    up: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w i"], control: Float[Array, "n d"] | Style
    ) -> Float[Array, "n _ _ {self.features}"]:
        of_style, x = shared(written(x))
        alpha, scale, shift = ControlStyle(self.modulation, name="style")(of_style, control)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if isinstance(control, Style):
            convolve, kernel, norm = *self.prepared(), control.norm
        else:
            gain = kernel_gain(x.shape[-1])
            kernel = self.param("kernel", UNIT_NORMAL, (3, 3, x.shape[-1], self.features))
            norm = demodulation(kernel_energy(kernel), alpha * gain) * gain
            convolve, kernel = (UP_CONVS if self.up else CONVS)["kernel"], kernel.astype(self.dtype)
        x = convolve(modulate(x, scale, shift), kernel)
        return modulated_leaky_relu(x, norm, bias)

    def prepared(self) -> tuple[Callable[[Array, Any], Array], Any]:
        """The form of the convolution that the kernel was prepared for, and the kernel."""
        forms = UP_CONVS if self.up else CONVS
        name = next(name for name in forms if self.has_variable("params", name))
        return forms[name], self.get_variable("params", name)


# Forms of equal results, by the name that a kernel for them has among the parameters: (3, 3, i, o),
# (4, 4, i, o), (o, 3, 3, i); Phases, (i, 3, 3, o). `prepare_generator` chooses them.
CONVS = {
    "kernel": functools.partial(conv, pad=(1, 1)),
    "winograd": winograd_conv,
    "outputs_first": lambda x, kernel: conv(x, kernel.transpose(1, 2, 3, 0), pad=(1, 1)),
}
UP_CONVS = {
    "kernel": up_conv,
    "phases": lambda x, kernel: up_conv_phases(x, Phases(**kernel)),
    "transposed": up_conv_transposed,
}


class ToRawMap(nn.Module):
    """Modulated 1x1 convolution to (flow x, flow y, occlusion), float32, not demodulated.

    Its kernel starts at zero, so the first flow is the identity.
    """

    modulation: Modulation
    mask_bias: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w i"], control: Float[Array, "n d"] | Style
    ) -> Float[Array, "n h w 3"]:
        of_style, x = shared(x)
        _, scale, shift = ControlStyle(self.modulation, name="style")(of_style, control)
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], 3))
        bias = self.param("bias", lambda _: jnp.array([0.0, 0.0, self.mask_bias]))
        kernel = kernel * x.shape[-1] ** -0.5
        # Three outputs: it is cheaper to modulate the kernel than the map.
        raw_map = mix_channels(x, scale[..., None] * kernel[None])
        offset = bias[None] if shift is None else exact_dense(shift, kernel, bias)
        return raw_map + offset[:, None, None]


class ToRGB(nn.Module):
    """1x1 convolution, bias, leaky ReLU on the three channels, and another bias, in float32.

    Three channels cost next to nothing; rounded to bfloat16 they are a third of its error.
    """

    @nn.compact
    def __call__(
        self,
        *maps: Float[Array, "_ h w i"],
        mix: Callable[..., Float[Array, "n h w 3"]] = lambda colours: colours,
    ) -> Float[Array, "n h w 3"]:
        """Args:
        mix: how the maps are mixed. It gets their colours instead, before the bias: those are
          linear in the maps.
        """
        kernel, bias = PointwiseParams(3, name="conv")(maps[0].shape[-1])
        x = mix(*(mix_channels(x, kernel) for x in maps))
        x = leaky_relu(x + bias[None, None, None])
        return x + self.param("bias", nn.initializers.zeros, (3,))[None, None, None]


class PointwiseParams(nn.Module):
    """What an `EqualConv` of one pixel has: its kernel as a scaled matrix, and its bias."""

    features: int

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Float[Array, "i o"], Float[Array, " o"]]:
        kernel = self.param("kernel", UNIT_NORMAL, (1, 1, inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return scaled(kernel[0, 0]), bias
