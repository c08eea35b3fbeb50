"""A trained model that renders: a portrait is encoded once, then windows of sound give frames.

    renderer = Renderer.from_pretrained("weights/corpus/reta")
    frames = renderer.render(portrait, waveform)  # uint8 (t, size, size, 3)

The voice is cut into windows of fixed length (past, chunk, look-ahead), each of which gives its
chunk's frames: one shape is compiled whatever the length, and memory does not grow with it. Where
nobody speaks, the mouth fades to what it is in silence.
"""

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.export import default_export_platform
from jaxtyping import Array, Float, UInt8

from data_pipeline.errors import InputError
from reta_jax.images import to_float, to_uint8
from reta_jax.models.generator import GeneratorOutput
from reta_jax.models.morphable import MorphableModel
from reta_jax.models.prepare import prepare_generator, prepare_network
from reta_jax.models.reta import RETA, Controls, Identity
from reta_jax.ops.voice_activity import voice_activity
from reta_jax.pretrained.reta import load_reta
from reta_jax.windows import ChunkRenderer

Dtype = Literal["float32", "bfloat16"]
ROOM = 1e-3  # standard deviation of a quiet room's noise


@functools.partial(jax.jit, static_argnames="reta")
def encode_portrait(reta: RETA, params: Any, portrait: UInt8[Array, "b h w 3"]) -> Identity:
    """f_STY and f_TEX of portraits."""
    return reta.apply({"params": params}, to_float(portrait), method=RETA.encode_portrait)


@functools.partial(jax.jit, static_argnames="reta")
def controls_in_silence(reta: RETA, params: Any, morphable: MorphableModel) -> Controls:
    """What the model does while nobody speaks: one row, (1, 1, d).

    That is the mean over a chunk of a quiet room's noise: the sound of no recording is zero, and
    what networks make of that is no rest (docs/decisions.md). One that brings its window to one
    loudness, as wav2vec 2.0 does, hears that noise as loud as a voice: so it does every room where
    nobody speaks for a whole window.
    """
    room = ROOM * jax.random.normal(jax.random.key(0), (1, reta.window.samples))
    controls = window_controls(reta, params, morphable, room)
    return jax.tree.map(lambda x: x.mean(1, keepdims=True), controls)


def scale_expression(params: dict[str, Any], rest: Controls, scale: float) -> dict[str, Any]:
    """Parameters whose f_M and f_E go `scale` times as far from those in silence.

    Their last layers are linear: f' = rest + scale (f - rest). p_exp and its mesh stay as they are.

    Args:
      rest: of `controls_in_silence`.
    """
    controls = {"motion_decoder": rest.motion} if "motion_encoder" not in params else {}
    controls |= {"motion_encoder": rest.motion, "emotion_student": rest.emotion}
    scaled = {}
    for network in controls.keys() & params.keys():
        head, still = params[network]["head"], controls[network][0, 0]
        bias = still + scale * (head["bias"] - still)
        scaled[network] = params[network] | {
            "head": {"kernel": scale * head["kernel"], "bias": bias}
        }
        if "linear" in params[network]:
            kernel = params[network]["linear"]["kernel"]
            scaled[network]["linear"] = {"kernel": scale * kernel}
    return params | scaled


def forward_chunk(
    reta: RETA,
    params: Any,
    morphable: MorphableModel,
    identity: Identity,
    audio: Float[Array, "b n"],
    silence: Controls | None = None,
) -> tuple[GeneratorOutput, Controls]:
    """The chunk of each audio window: frames with flow and masks, and `window_controls`."""
    controls = window_controls(reta, params, morphable, audio, silence)
    output = reta.apply({"params": params}, identity, controls, method=RETA.generate)
    return output, controls


def window_controls(
    reta: RETA,
    params: Any,
    morphable: MorphableModel,
    audio: Float[Array, "b n"],
    silence: Controls | None = None,
) -> Controls:
    """What the voice says in the chunk of each audio window.

    With the controls in `silence`, lips fade to theirs where nobody speaks: f_M, and f_E where it
    is made frame by frame and so moves lips, too.
    """
    past, chunk, _ = reta.window
    controls = reta.apply(
        {"params": params}, audio, None, chunk, morphable, method=RETA.encode_voice
    )
    if silence is None:
        return controls
    spoken = voice_activity(audio)[:, past : past + chunk]
    return _fade(controls, silence, spoken, fades_emotion=reta.emotion_span == 1)


def _fade(
    controls: Controls, silence: Controls, spoken: Float[Array, "b t"], fades_emotion: bool
) -> Controls:
    faded = Controls(
        *(
            None if moving is None else still + spoken[..., None] * (moving - still)
            for moving, still in zip(controls, silence, strict=True)
        )
    )
    return faded if fades_emotion else faded._replace(emotion=controls.emotion)


@functools.partial(jax.jit, static_argnames="reta")
def render_chunk(
    reta: RETA,
    params: Any,
    morphable: MorphableModel,
    identity: Identity,
    audio: Float[Array, "b n"],
    silence: Controls | None = None,
) -> UInt8[Array, "b t h w 3"]:
    """The chunk's frames of each audio window; see `forward_chunk`."""
    output, _ = forward_chunk(reta, params, morphable, identity, audio, silence)
    return to_uint8(output.frames)


class Renderer(ChunkRenderer):
    """A trained model, ready to render.

    Args:
      params: as trained; the attribute `prepared` has them as they render fastest.
      close_in_silence: the mouth fades to its rest where nobody speaks.
      provenance: records of the weights behind it.
    """

    def __init__(
        self,
        reta: RETA,
        params: Any,
        morphable: MorphableModel,
        close_in_silence: bool = True,
        provenance: Sequence[dict[str, Any]] = (),
    ):
        self.reta, self.params, self.morphable = reta, params, morphable
        self.provenance = provenance
        self.size, self.window = reta.image_encoder.size, reta.window
        self.prepared = self.prepare(default_export_platform())
        self.silence = controls_in_silence(reta, params, morphable) if close_in_silence else None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        close_in_silence: bool = True,
        dtype: Dtype | None = None,
        expression_scale: float = 1.0,
    ) -> "Renderer":
        """Loads a folder of weights, a training run's latest checkpoint, or a hub repository.

        Args:
          dtype: of the networks' arithmetic, in place of the one they were trained with; E_I, flow,
            normalisation and colours are float32 in any case.
          expression_scale: how far mouth and expression go from their rest, 1 as trained.

        Raises:
          InputError: nothing there, it does not fit its config, or the scale is negative.
        """
        if not 0 <= expression_scale < float("inf"):
            raise InputError(f"an expression scale of {expression_scale:g}: give 0 or more")
        model = load_reta(path, dtype)
        params = model.params
        if expression_scale != 1:
            rest = controls_in_silence(model.reta, params, model.morphable)
            params = scale_expression(params, rest, expression_scale)
        return cls(model.reta, params, model.morphable, close_in_silence, model.provenance)

    @property
    def closes_in_silence(self) -> bool:
        return self.silence is not None

    def prepare(self, platform: str | None) -> Any:
        """The parameters as they render fastest on "cpu", "cuda", "tpu"; None: on any of them."""
        params, reta = self.params, self.reta
        networks = {
            "audio_encoder": reta.audio_encoder.network,
            "motion_decoder": reta.motion_decoder,
            "motion_encoder": reta.motion_encoder,
            "emotion_student": reta.emotion_student,
        }
        generator = prepare_generator(reta.generator, params["generator"], platform)
        prepared = params | {"generator": generator}
        for name, network in networks.items():
            if network is not None:
                prepared[name] = prepare_network(params[name], network.dtype)
        return prepared

    def with_chunk(self, chunk: int) -> "Renderer":
        """The same model with fewer frames a window: less delay live, more work for the voice.

        The window keeps its length, and the mouth its rest. The frames that are left of the chunk
        are its last ones, which in training, too, had the look-ahead alone before them.

        Raises:
          InputError: no frame, or more than the model was trained with.
        """
        window = self.window
        if not 1 <= chunk <= window.chunk:
            raise InputError(f"a chunk of {chunk} frames: this model renders 1 to {window.chunk}")
        window = window._replace(past=window.past + window.chunk - chunk, chunk=chunk)
        shorter = copy.copy(self)
        shorter.reta, shorter.window = self.reta.clone(window=window), window
        return shorter

    def encode(self, portraits: UInt8[np.ndarray, "b h w 3"]) -> Identity:
        return encode_portrait(self.reta, self.prepared, portraits)

    def render_windows(
        self, identities: Identity, audio: Float[np.ndarray, "b n"]
    ) -> UInt8[Array, "b t h w 3"]:
        return render_chunk(
            self.reta, self.prepared, self.morphable, identities, audio, self.silence
        )
