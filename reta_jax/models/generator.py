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
    EqualConv,
    EqualDense,
    channels,
    leaky_relu,
    resolutions,
    scaled_dense,
)
from reta_jax.ops.adain import adain_affine, demodulation, kernel_energy, modulate
from reta_jax.ops.blur import blur, upsample
from reta_jax.ops.conv import Phases, conv, kernel_phases, up_conv, up_conv_polyphase
from reta_jax.ops.warp import grid_sample, identity_grid, inherited_grid
from reta_jax.ops.winograd import LARGE, TILE, WIDE, winograd_conv, winograd_kernel

# Training from scratch starts with sigmoid(2) = 88 % of the warped texture: enough to be judged and
# to train the flow, while the control features below still receive gradient. Finer levels add to
# the upsampled map, so the coarsest alone carries it. Imported weights bring their own.
MASK_BIAS = 2.0
ENERGY = "energy"  # among prepared parameters: that of a kernel

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

    modulation: "adain" normalises every modulated layer's input (Eq. 1); "modconv" is the
      arithmetic of the published weights, which scales it only.
    split_res: the levels below take the early code (f_STY + f_M), the others the late one
      (f_STY + f_E).
    rgb_from: what the colours are read off, see above.
    grid_size: finer levels sample on the identity grid of this size; 0: each on its own, as the
      published ones.
    detail_from: from this level on, the portrait's detail is all that colours add
      (`add_detail`); 0: no level.
    polyphase: the up-convolution's form, with equal results: in four phases, or as one dilated
      convolution. Four phases are faster on CPU.
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
    polyphase: bool = False
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
        x = StyledConv(width, self.modulation, dtype=self.dtype, name="conv")(x, early)
        frames = raw = None
        maps = []
        level_type = nn.remat(Level) if self.remat else Level
        for resolution, texture in zip(levels, textures, strict=True):
            level = level_type(
                features=channels(resolution, self.channel_multiplier),
                modulation=self.modulation,
                rgb_from=self.rgb_from,
                grid_size=min(resolution, self.grid_size or resolution),
                only_detail=0 < self.detail_from <= resolution,
                polyphase=self.polyphase,
                mask_bias=MASK_BIAS if raw is None else 0.0,
                dtype=self.dtype,
                name=f"level_{resolution}",
            )
            code = early if resolution < self.split_res else late
            x, frames, raw = level(x, code, texture, frames, raw)
            maps.append(raw.reshape(b, t, *raw.shape[1:]))
        return GeneratorOutput(
            frames=frames.reshape(b, t, *frames.shape[1:]),
            flows=tuple(flow_of(raw) for raw in maps),
            masks=tuple(mask_of(raw) for raw in maps),
            raw=tuple(maps),
        )


def add_detail(
    frames: Float[Array, "n g g 3"], step: Float[Array, "n h h 3"]
) -> Float[Array, "n h h 3"]:
    """Frames of twice the size, with what of `step` is too fine for the frames as they are.

    The highest band of a Laplacian pyramid. Beyond the border both are continued: nothing of the
    frames' grey rim is left.
    """
    coarse = blur(_continued(step), pad=(0, 0), stride=2)
    return step + upsample(_continued(frames - coarse))[:, 2:-2, 2:-2]


def _continued(x: Float[Array, "n h w c"]) -> Float[Array, "n _ _ c"]:
    """With its outermost pixels once more around it."""
    rows = jnp.concatenate([x[:, :1], x, x[:, -1:]], 1)
    return jnp.concatenate([rows[:, :, :1], rows, rows[:, :, -1:]], 2)


def flow_of(raw: Float[Array, "*b 3"]) -> Float[Array, "*b 2"]:
    return jnp.tanh(raw[..., :2])


def mask_of(raw: Float[Array, "*b 3"]) -> Float[Array, "*b 1"]:
    return jax.nn.sigmoid(raw[..., 2:])


class Level(nn.Module):
    """One resolution: doubles the control features, reads the raw map off them, warps and blends.

    n = b * t: the texture of a clip serves its t frames.
    """

    features: int
    modulation: Modulation
    rgb_from: RGBFrom
    grid_size: int
    only_detail: bool
    polyphase: bool
    mask_bias: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n g g i"],
        code: Float[Array, "n d"],
        texture: Float[Array, "b h h {self.features}"],
        frames: Float[Array, "n g g 3"] | None,
        raw: Float[Array, "n g g 3"] | None,
    ) -> tuple[Float[Array, "n h h {self.features}"], Float[Array, "n h h 3"], Array]:
        up = "polyphase" if self.polyphase else "dilated"
        x = StyledConv(self.features, self.modulation, up, self.dtype, name="up")(x, code)
        x = StyledConv(self.features, self.modulation, dtype=self.dtype, name="conv")(x, code)

        step = ToRaw(self.modulation, self.mask_bias, name="to_flow")(x, code)
        raw = step if raw is None else step + upsample(raw)
        # A detail is the portrait's colours, as they are.
        dtype = jnp.float32 if self.only_detail else self.dtype
        mask = mask_of(raw).astype(dtype)
        warped = mask * self.warp(texture.astype(dtype), raw)
        x = (warped + (1 - mask) * x).astype(self.dtype)

        to_rgb = ToRGB(name="to_rgb")
        if self.only_detail:
            return x, add_detail(frames, to_rgb(warped)), raw
        step = to_rgb(warped if self.rgb_from == "warped" else x)
        frames = step if frames is None else step + upsample(frames)
        return x, frames, raw

    def warp(
        self, texture: Float[Array, "b h h c"], raw: Float[Array, "n h h 3"]
    ) -> Float[Array, "n h h c"]:
        b, h, w, _ = texture.shape
        grid = identity_grid(h, w) if self.grid_size == h else inherited_grid(h, self.grid_size)
        grid = grid[None] + flow_of(raw)
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
        self, x: Float[Array, "n h w c"], code: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n c"], Float[Array, "n c"], Float[Array, "n c"] | None]:
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        alpha = EqualDense(x.shape[-1], bias_init=ones, name="alpha")(code)
        if self.modulation == "modconv":
            return alpha, alpha, None
        beta = EqualDense(x.shape[-1], kernel_init=zeros, name="beta")(code)
        spread = self.param("spread", ones, (x.shape[-1],))
        return alpha, *adain_affine(x, spread[None] * alpha, beta)


class StyledConv(nn.Module):
    """Modulated and demodulated 3x3 convolution, bias, leaky ReLU; `up` doubles the size.

    Weights that went through `prepare_for_inference` are taken as they are.
    """

    features: int
    modulation: Modulation
    up: Literal["", "dilated", "polyphase"] = ""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w i"], code: Float[Array, "n d"]
    ) -> Float[Array, "n _ _ {self.features}"]:
        alpha, scale, shift = ControlStyle(self.modulation, name="style")(x, code)
        kernel, energy = self.weights(x.shape[-1])
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        gain = (9 * x.shape[-1]) ** -0.5
        norm = demodulation(energy, alpha * gain) * gain

        x = modulate(x, scale, shift)
        if self.up == "dilated":
            x = up_conv(x, kernel)
        elif self.up == "polyphase":
            x = up_conv_polyphase(x, kernel)
        elif kernel.shape[0] == TILE:
            x = winograd_conv(x, kernel)
        else:
            x = conv(x, kernel, pad=(1, 1))
        return leaky_relu(modulate(x, norm, bias[None]))

    def weights(self, inputs: int) -> tuple[jax.Array | Phases, jax.Array]:
        """The kernel as this form of convolution takes it, and its energy."""
        if self.has_variable("params", ENERGY):
            kernel, energy = (self.get_variable("params", name) for name in ("kernel", ENERGY))
            return Phases(**kernel) if self.up == "polyphase" else kernel, energy
        kernel = self.param("kernel", UNIT_NORMAL, (3, 3, inputs, self.features))
        energy, kernel = kernel_energy(kernel), kernel.astype(self.dtype)
        return kernel_phases(kernel) if self.up == "polyphase" else kernel, energy


def prepare_for_inference(
    params: dict[str, Any], dtype: DTypeLike, on_cpu: bool = False
) -> dict[str, Any]:
    """A polyphase generator's parameters with what follows from them alone computed once.

    At batch 1 every frame would compute it anew. What is prepared stays so.

    Args:
      dtype: the generator's.
      on_cpu: the forms are a CPU's: large convolutions in float32 become Winograd's.
    """

    def styled(part: dict[str, Any], form: Callable[[jax.Array], Any]) -> dict[str, Any]:
        part = with_style(part)
        if ENERGY in part:
            return part
        kernel = jnp.asarray(part["kernel"])
        return part | {"kernel": form(kernel.astype(dtype)), ENERGY: kernel_energy(kernel)}

    def phases(kernel: jax.Array) -> dict[str, jax.Array]:
        return kernel_phases(kernel)._asdict()

    def in_plane(kernel: jax.Array, side: int) -> jax.Array:
        pays = kernel.dtype == jnp.float32 and kernel.shape[2] >= WIDE and side >= LARGE
        return winograd_kernel(kernel) if on_cpu and pays else kernel

    def with_style(part: dict[str, Any]) -> dict[str, Any]:
        style = {
            name: scaled_dense(layer) if name in ("alpha", "beta") else layer
            for name, layer in part["style"].items()
        }
        return part | {"style": style}

    prepared = params | {"conv": styled(params["conv"], lambda kernel: kernel)}
    for name, level in params.items():
        if name.startswith("level_"):
            side = int(name.removeprefix("level_"))
            prepared[name] = level | {
                "up": styled(level["up"], phases),
                "conv": styled(level["conv"], functools.partial(in_plane, side=side)),
                "to_flow": with_style(level["to_flow"]),
            }
    return prepared


class ToRaw(nn.Module):
    """Modulated 1x1 convolution to (flow x, flow y, occlusion), float32, not demodulated.

    Its kernel starts at zero, so the first flow is the identity.
    """

    modulation: Modulation
    mask_bias: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w i"], code: Float[Array, "n d"]
    ) -> Float[Array, "n h w 3"]:
        _, scale, shift = ControlStyle(self.modulation, name="style")(x, code)
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], 3))
        bias = self.param("bias", lambda _: jnp.array([0.0, 0.0, self.mask_bias]))
        kernel = kernel * x.shape[-1] ** -0.5
        # Three outputs: it is cheaper to modulate the kernel than the map.
        product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
        raw = product("nhwi,nio->nhwo", x.astype(jnp.float32), scale[..., None] * kernel[None])
        offset = bias[None] if shift is None else bias[None] + product("ni,io->no", shift, kernel)
        return raw + offset[:, None, None]


class ToRGB(nn.Module):
    """1x1 convolution, bias, leaky ReLU on the three channels, and another bias, in float32.

    Three channels cost next to nothing; rounded to bfloat16 they are a third of its error.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h w 3"]:
        x = EqualConv(3, 1, name="conv")(x)
        return x + self.param("bias", nn.initializers.zeros, (3,))[None, None, None]
