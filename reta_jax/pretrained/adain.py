"""From StyleGAN2's modulated convolutions to the paper's AdaIN (Eq. 1), keeping what they compute.

A modulated layer multiplies its input x by s(code). With the input's mean mu and spread sigma,

    s x = (s sigma) (x - mu) / sigma + s mu

so AdaIN with alpha = s, spread = sigma and beta = mu s computes the same where the statistics of
an instance are those that were measured. They are measured on a few portraits.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from reta_jax.models.generator import ControlStyle, Generator, Modulation
from reta_jax.models.image_encoder import ImageEncoder
from reta_jax.pretrained.table import Params

SIZE, STYLE_DIM = 256, 512
EPS = 1e-5  # of the instance normalisation
CALIBRATION_PEOPLE = 8


def calibrate(params: Params, portraits: Sequence[np.ndarray] | None = None) -> Params:
    """`to_adain`, measured on uint8 faces (256, 256, 3); None: on people of the synthetic world."""
    faces = synthetic_portraits() if portraits is None else portraits
    return to_adain(params, np.stack(faces).astype(np.float32) / 127.5 - 1)


def synthetic_portraits() -> list[np.ndarray]:
    """One frame each of people of our own world."""
    from data_pipeline.synthetic import synthesize_clip  # Not above: most imports need no world.

    clips = (synthesize_clip(seed, "neutral", 0, 0.04, SIZE) for seed in range(CALIBRATION_PEOPLE))
    return [clip.frames[0] for clip in clips]


def to_adain(params: Params, portraits: Float[np.ndarray, "n h w 3"] | None) -> Params:
    """Parameters for modulation "adain" from those for "modconv".

    Args:
      params: {"image_encoder", "generator"}, as the tables of LIA and EDTalk give them.
      portraits: faces in [-1, 1] to measure on. Without any, spread is 1 and beta 0, and the
        network starts far from what it was trained to compute.
    """
    shapes = image_network_shapes("adain")["generator"]
    generator = _insert_neutral(shapes, params["generator"])
    if portraits is not None:
        for path, (mean, spread) in measure(params, portraits).items():
            style = functools.reduce(lambda node, name: node[name], path, generator)
            alpha = style["alpha"]
            style["spread"] = spread
            style["beta"] = {"kernel": alpha["kernel"] * mean, "bias": alpha["bias"] * mean}
    return params | {"generator": generator}


def measure(
    params: Params, portraits: Float[np.ndarray, "n h w 3"]
) -> dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
    """Mean and spread (c,) of the input of every modulated layer, each portrait under its f_STY."""
    networks = _networks("modconv")
    params = {name: params[name] for name in ("image_encoder", "generator")}
    total: dict[tuple[str, ...], list[Any]] = {}

    @jax.jit
    def statistics(params, image):
        seen = {}

        def look(call, arguments, keywords, context):
            if isinstance(context.module, ControlStyle) and context.method_name == "__call__":
                x = arguments[0].astype(jnp.float32)
                spread = jnp.sqrt(x.var((1, 2)) + EPS).mean(0)
                seen["/".join(context.module.path)] = x.mean((0, 1, 2)), spread
            return call(*arguments, **keywords)

        encoder, generator = networks
        style, textures = encoder.apply({"params": params["image_encoder"]}, image)
        with nn.intercept_methods(look):
            code = style[:, None]
            generator.apply({"params": params["generator"]}, textures, code, code)
        return seen

    for portrait in portraits:  # one at a time: at 256 px each takes hundreds of megabytes
        for name, values in statistics(params, jnp.asarray(portrait)[None]).items():
            total.setdefault(tuple(name.split("/")), []).append(values)
    return {
        path: tuple(np.mean([np.asarray(row[i]) for row in rows], 0) for i in (0, 1))
        for path, rows in total.items()
    }


@functools.cache
def image_network_shapes(modulation: Modulation) -> dict[str, Any]:
    """{"image_encoder", "generator"}: shapes of the parameters at paper scale."""
    encoder, generator = _networks(modulation)

    def init(key: jax.Array) -> dict[str, Any]:
        image = jnp.zeros((1, SIZE, SIZE, 3))
        (style, textures), encoder_variables = encoder.init_with_output(key, image)
        generator_variables = generator.init(key, textures, style[:, None], style[:, None])
        return {
            "image_encoder": encoder_variables["params"],
            "generator": generator_variables["params"],
        }

    return jax.eval_shape(init, jax.random.key(0))


def _networks(modulation: Modulation) -> tuple[ImageEncoder, Generator]:
    return ImageEncoder(SIZE, STYLE_DIM), Generator(SIZE, STYLE_DIM, modulation=modulation)


def _insert_neutral(shapes: dict[str, Any], params: Params) -> Params:
    """`params` with the leaves that only "adain" has: spread 1, beta 0."""
    tree = {}
    for name, child in shapes.items():
        if isinstance(child, dict):
            tree[name] = _insert_neutral(child, params.get(name, {}))
        elif name in params:
            tree[name] = params[name]
        else:
            tree[name] = np.full(child.shape, name == "spread", np.float32)
    return tree
