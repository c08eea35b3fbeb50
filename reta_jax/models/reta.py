"""RETA, as in Figure 1: one portrait and a voice in, frames out.

portrait -> E_I -> f_STY, f_TEX
voice -> E_A -> f_A -> D -> p_exp -> 3DMM -> E_M -> f_M
                f_A -> S -> f_E
f_STY + f_M (early levels), f_STY + f_E (late levels), f_TEX -> G -> frames
"""

from pathlib import Path
from typing import Any, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int

from data_pipeline.errors import InputError
from reta_jax.models.audio_encoder import AudioEncoder, MelEncoder
from reta_jax.models.generator import Generator, GeneratorOutput, Modulation, RGBFrom
from reta_jax.models.image_encoder import ImageEncoder
from reta_jax.models.morphable import MorphableModel, position_map
from reta_jax.models.motion_encoder import MotionEncoder
from reta_jax.models.stylegan import resolutions
from reta_jax.models.tcn import TCN
from reta_jax.models.wav2vec2 import Wav2Vec2
from reta_jax.models.whisper import Whisper
from reta_jax.weights import config_to_dict
from reta_jax.windows import AudioWindow

LARGEST_GAIN = 3.0


class Identity(NamedTuple):
    """What the portrait says: computed once a person."""

    style: jax.Array  # (b, d) f_STY
    textures: tuple[jax.Array, ...]  # f_TEX, 8^2 first
    gain: jax.Array | None = None  # (b, 1, 1, 3) that brought its colours to the model's light


class Controls(NamedTuple):
    """What the voice says, one row a frame; None where the branch is ablated."""

    motion: jax.Array | None  # (b, t, d) f_M
    emotion: jax.Array | None  # (b, t, d) f_E
    p_exp: jax.Array | None  # (b, t, k) expression coefficients of the 3DMM


class RETA(nn.Module):
    """The whole model. A branch of None is that row of Table 4:

    motion_decoder  None: w/o GPL (no geometric prior)
    motion_encoder  None: w/o 3DMM (D predicts f_M directly, over time or frame by frame)
    emotion_student None: w/o ERL (no emotion representation)
    fusion          a layer: w/o HI (all signals concatenated into one code for every level)
    use_style       False: w/o f_STY
    """

    image_encoder: ImageEncoder  # E_I
    audio_encoder: AudioEncoder  # E_A
    generator: Generator  # G
    motion_decoder: TCN | None  # D
    motion_encoder: MotionEncoder | None  # E_M
    emotion_student: TCN | None  # S
    fusion: nn.Dense | None = None
    use_style: bool = True
    tune_audio_encoder: bool = False
    p_exp_limit: float = 3.0  # coefficients stay within, so that the mesh stays a face
    emotion_span: int = 1  # frames of S's output, the last of them t, whose mean is f_E of frame t
    light: tuple[float, ...] = ()  # RGB in [0, 1] that faces are brought to; (): they stay as is
    window: AudioWindow = AudioWindow()

    def __call__(
        self,
        portrait: Float[Array, "b h w 3"],
        audio: Float[Array, "b n"],
        offset: Int[Array, " b"],
        frames: int,
        morphable: MorphableModel,
    ) -> tuple[GeneratorOutput, Identity, Controls]:
        """Renders `frames` frames of the chunk, from the `offset`-th on."""
        identity = self.encode_portrait(portrait)
        controls = self.encode_voice(audio, offset, frames, morphable)
        return self.generate(identity, controls), identity, controls

    @classmethod
    def from_pretrained(cls, source: str | Path) -> tuple[Any, ...]:
        """(reta, params, morphable, config), by name, of a folder, a workdir or a hub repository.

        Raises InputError that says what differs, if the weights do not fit the config beside them.
        """
        from reta_jax.pretrained.reta import load_reta  # it builds models of this class

        return load_reta(source)

    @staticmethod
    def save_pretrained(folder: str | Path, params: Any, config: ml_collections.ConfigDict) -> None:
        """Writes a folder to share: weights, the config of their training, and a model card."""
        from reta_jax.pretrained.reta import save_reta

        values = config_to_dict(config)
        save_reta(Path(folder), params, values, values.pop("provenance", []))

    def encode_portrait(self, portrait: Float[Array, "b h w 3"]) -> Identity:
        if not self.light:
            return Identity(*self.image_encoder(portrait))
        gain = gain_to_light(portrait, self.light)
        return Identity(*self.image_encoder(in_light(portrait, gain)), gain)

    def encode_voice(
        self,
        audio: Float[Array, "b n"],
        offset: Int[Array, " b"] | None,
        frames: int,
        morphable: MorphableModel,
    ) -> Controls:
        """Controls for frames [offset, offset + frames) of the window's chunk; None is 0."""
        features = self.audio_encoder(audio)
        if not self.tune_audio_encoder:
            features = jax.lax.stop_gradient(features)
        start = self.window.past if offset is None else self.window.past + offset
        motion = p_exp = emotion = None
        if self.motion_decoder is not None:
            motion = _take(self.motion_decoder(features), start, frames)
            if self.motion_encoder is not None:
                p_exp = self.p_exp_limit * jnp.tanh(motion / self.p_exp_limit)
                motion = self.motion_encoder(position_map(morphable, p_exp))
        if self.emotion_student is not None:
            emotion = mean_of_last(self.emotion_student(features), self.emotion_span)
            emotion = _take(emotion, start, frames)
        return Controls(motion, emotion, p_exp)

    def generate(self, identity: Identity, controls: Controls) -> GeneratorOutput:
        """Frames of G's size; a G smaller than the portrait does without its finer textures."""
        early, late = self.control_codes(identity.style, controls)
        textures = identity.textures[: len(resolutions(self.generator.size))]
        output = self.generator(textures, early, late)
        if identity.gain is None:
            return output
        return output._replace(frames=in_light(output.frames, 1 / identity.gain[:, None]))

    def control_codes(
        self, style: Float[Array, "b d"], controls: Controls
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b t d"]]:
        """f_CTRL for the early and the late levels: hierarchical injection (section 3.2)."""
        frames = next(x.shape[1] for x in controls if x is not None)
        none = jnp.zeros((style.shape[0], frames, style.shape[1]))
        f_sty = none + style[:, None] if self.use_style else none
        f_m = none if controls.motion is None else controls.motion
        f_e = none if controls.emotion is None else controls.emotion
        if self.fusion is not None:
            code = self.fusion(jnp.concatenate([f_sty, f_m, f_e], -1))
            return code, code
        return f_sty + f_m, f_sty + f_e


def mean_of_last(x: Float[Array, "b s d"], span: int) -> Float[Array, "b s d"]:
    """Mean of each frame and the span - 1 before it; where the window begins, 0 stands for them."""
    if span == 1:
        return x
    ages = jnp.subtract.outer(jnp.arange(x.shape[1]), jnp.arange(x.shape[1]))
    weights = jnp.where((ages >= 0) & (ages < span), 1 / span, 0.0)
    return jnp.einsum("ts,bsd->btd", weights, x, precision=jax.lax.Precision.HIGHEST)


def gain_to_light(
    portrait: Float[Array, "b h w 3"], light: tuple[float, ...]
) -> Float[Array, "b 1 1 3"]:
    """The gain that makes `light` the mean colour of each portrait's middle, nose and cheeks.

    A face in the dark or under a coloured lamp then looks like those of the training.
    """
    height, width = portrait.shape[1:3]
    face = portrait[:, 3 * height // 8 : 3 * height // 4, 3 * width // 8 : 5 * width // 8]
    mean = (face.mean((1, 2), keepdims=True) + 1) / 2
    gain = jnp.asarray(light, mean.dtype)[None, None, None] / jnp.maximum(mean, 1e-3)
    return jnp.clip(gain, 1 / LARGEST_GAIN, LARGEST_GAIN)


def in_light(images: Float[Array, "*b h w 3"], gain: Float[Array, "... 1 1 3"]) -> Array:
    """Images in [-1, 1] with `gain` times their light; at -1 there is none."""
    return (images + 1) * gain - 1


def build_reta(config: ml_collections.ConfigDict) -> RETA:
    """Builds RETA from the `model` section of a config; a saved one is `upgraded` first.

    Raises:
      InputError: a field has a value that is not one of its choices.
    """
    if config.modulation not in get_args(Modulation):
        raise InputError(f"model.modulation is {config.modulation!r}; use 'adain' or 'modconv'")
    if config.rgb_from not in get_args(RGBFrom):
        raise InputError(f"model.rgb_from is {config.rgb_from!r}; use 'warped' or 'blended'")
    if config.geometry == "none" and not config.emotion:
        raise InputError(
            "model.geometry='none' and model.emotion=False leave nothing that the voice controls"
        )
    light = tuple(config.light)
    if len(light) not in (0, 3) or not all(0 < value <= 1 for value in light):
        raise InputError(f"model.light is {light}; give red, green and blue in (0, 1], or ()")
    if not 1 <= config.emotion_span <= config.window.past + 1:
        raise InputError(
            f"model.emotion_span is {config.emotion_span}; give 1 to {config.window.past + 1}, the "
            f"frames that model.window.past and the frame itself are"
        )
    dtype = jnp.dtype(config.dtype)
    width = config.style_dim
    image = {"size": config.size, "channel_multiplier": config.channel_multiplier, "dtype": dtype}
    tcn = {
        "features": config.tcn.features,
        "dilations": tuple(config.tcn.dilations),
        "dropout": config.tcn.dropout,
        "noise": config.tcn.noise,
        "linear": config.tcn.linear,
        "dtype": dtype,
    }
    motion_decoder = motion_encoder = emotion_student = fusion = None
    if config.geometry == "3dmm":
        motion_decoder = TCN(config.p_exp_dim, head_scale=0.1, **tcn)  # near s_mean at first
        motion_encoder = MotionEncoder(width, tuple(config.motion_encoder.channels), dtype)
    elif config.geometry == "direct":
        motion_decoder = TCN(width, head_scale=0.0, **tcn)
    elif config.geometry == "framewise":
        motion_decoder = TCN(width, head_scale=0.0, **tcn | {"kernel": 1, "linear": 0})
    elif config.geometry != "none":
        raise InputError(
            f"model.geometry is {config.geometry!r}; use '3dmm', 'direct', 'framewise' or 'none'"
        )
    if config.emotion:
        emotion_student = TCN(width, head_scale=0.0, **tcn)
    if config.injection == "concat":
        fusion = nn.Dense(width, precision=jax.lax.Precision.HIGHEST)
    elif config.injection != "hierarchical":
        raise InputError(f"model.injection is {config.injection!r}; use 'hierarchical' or 'concat'")
    return RETA(
        image_encoder=ImageEncoder(style_dim=width, **image),
        audio_encoder=AudioEncoder(_speech_network(config.audio_encoder, dtype)),
        generator=Generator(
            style_dim=width,
            modulation=config.modulation,
            split_res=config.split_res,
            rgb_from=config.rgb_from,
            grid_size=config.grid_size,
            detail_from=config.detail_from,
            **image,
        ),
        motion_decoder=motion_decoder,
        motion_encoder=motion_encoder,
        emotion_student=emotion_student,
        fusion=fusion,
        use_style=config.use_style,
        tune_audio_encoder=config.audio_encoder.trainable,
        p_exp_limit=config.p_exp_limit,
        emotion_span=config.emotion_span,
        light=light,
        window=AudioWindow(**config.window),
    )


def _speech_network(config: ml_collections.ConfigDict, dtype: jax.typing.DTypeLike) -> nn.Module:
    if config.kind == "wav2vec2":
        fields = {k: tuple(v) if hasattr(v, "__len__") else v for k, v in config.wav2vec2.items()}
        return Wav2Vec2(**fields, dtype=dtype)
    if config.kind == "whisper":
        return Whisper(**config.whisper, dtype=dtype)
    if config.kind == "mel":
        return MelEncoder(**config.mel, dtype=dtype)
    raise InputError(
        f"model.audio_encoder.kind is {config.kind!r}; use 'wav2vec2', 'whisper' or 'mel'"
    )


def _take(x: Float[Array, "b s d"], start: Int[Array, " b"] | int, frames: int) -> Array:
    if isinstance(start, int):
        return x[:, start : start + frames]
    return jax.vmap(lambda row, i: jax.lax.dynamic_slice_in_dim(row, i, frames))(x, start)
