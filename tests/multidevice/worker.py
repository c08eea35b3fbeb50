"""Compares forms of a step with one on one device, and writes what it finds: worker.py FILE.json.

A process of its own, because the number of CPU devices is fixed when jax starts.
"""

import json
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage

from configs.hdtf import get_config
from configs.judges.synthetic import get_config as get_expert_config
from data_pipeline.errors import InputError
from reta_jax import parallel, state, step, train_expert
from reta_jax.checks import check_config
from reta_jax.expert_tasks import TASKS
from reta_jax.experts.load import KINDS, example_inputs
from reta_jax.experts.teachers import Experts
from reta_jax.models.morphable import builtin_morphable
from tests.light import LIGHT_MODEL
from tests.weights import random_variables

DEVICES, CLIPS, FRAMES, STEPS = 4, 8, 2, 3
# devices, train.accumulate, train.remat; the first is what the others must equal.
VARIANTS = {
    "one device": (1, 1, "none"),
    "four devices": (DEVICES, 1, "none"),
    "accumulated": (2, 2, "none"),
    "computed again": (1, 1, "blocks"),
}


def tiny_config(eds):
    """At 16 px; nothing but EDS lets one clip of a batch see another.

    The sync and the perceptual loss, means over clips as L1 is, are left out: their networks alone
    take minutes to compile.
    """
    config = get_config("smoke")
    config.update_from_flattened_dict(LIGHT_MODEL)
    config.model.window.update({"past": 3, "chunk": 3, "look_ahead": 1})
    config.model.emotion_span = 3
    config.tvm.resolution = 16
    config.discriminator.minibatch_std_group = 1
    config.loss.update({"prior": 0.02, "sync": 0.0, "perceptual": 0.0})
    config.train.update({"batch_size": CLIPS, "eds": eds, "r1_every": 2, "ema_decay": 0.5})
    config.train.perceptual_scales = (1.0,)
    return config


def make_batch(config):
    random = np.random.default_rng(0)
    size, window = config.model.size, sum(config.model.window.values())

    def pictures(*count):
        """Smooth ones: between pixels of noise, rounding decides what a warp's gradient is."""
        coarse = random.uniform(0, 255, (*count, 3, 3, 3))
        return np.uint8(
            scipy.ndimage.zoom(coarse, (*[1] * len(count), size / 3, size / 3, 1), order=1)
        )

    return {
        "portrait": pictures(CLIPS),
        "frames": pictures(CLIPS, FRAMES),
        "audio": 0.2 * random.standard_normal((CLIPS, 640 * window)).astype(np.float32),
        "offset": random.integers(0, 2, CLIPS).astype(np.int32),
        "mel": random.uniform(-4, 4, (CLIPS, 80, 16)).astype(np.float32),
        "sync_box": np.tile(np.float32([0.1, 0.2, 0.9, 0.8]), (CLIPS, 1)),
    }


def gradient_descent(config):
    """In place of Adam, which hides a factor: the state of the first part is the gradient."""
    return tuple(optax.chain(optax.trace(0.0), optax.scale(-1e-3)) for _ in range(2))


def build(config):
    """Networks, frozen arrays and the state at step 0, of random weights, on the host."""
    loaded = dict.fromkeys(
        f"{name}{part}" for name in ("sync", "vgg", "lips") for part in ("", "_variables")
    )
    teacher = KINDS["emotion_vit"](**config.experts.teacher.fields)
    loaded["teacher"] = teacher
    loaded["teacher_variables"] = random_variables(teacher, *example_inputs("emotion_vit"))
    networks = state.build_networks(config, loaded["teacher"].width)
    morphable = builtin_morphable(config.model.uv_resolution)
    batch = jax.tree.map(jnp.asarray, make_batch(config))

    def init(key, *arrays):
        return networks.reta.init(key, *arrays, FRAMES, morphable)

    batch = step.to_device_batch(batch)
    reta = random_variables(
        types.SimpleNamespace(init=init), batch.portrait, batch.audio, batch.offset
    )
    code = jnp.zeros((1, config.model.style_dim))
    params = {
        "reta": reta["params"],
        "projection": random_variables(networks.projection, code)["params"],
    }
    d_params = random_variables(networks.discriminator, batch.portrait)["params"]
    for name in ("image_encoder", "generator"):
        params["reta"][name] = unit_variance(params["reta"][name])
    calm_flows(params["reta"]["generator"])
    params, d_params = off_zero(params), off_zero(unit_variance(d_params))
    start = state.first_state(config, params, d_params)  # of gradient_descent (see main)
    constants = step.Constants(Experts(**loaded), morphable)
    return networks, jax.device_get(constants), jax.device_get(start)


def unit_variance(params):
    """Layers of equalised learning rate divide by the root of the fan-in themselves."""
    return jax.tree.map(lambda x: x * np.sqrt(np.prod(x.shape[:-1])) if x.ndim > 1 else x, params)


def calm_flows(generator):
    """Flows of a few pixels: warps that fold the image are chaotic in their parameters."""
    for level in (value for name, value in generator.items() if name.startswith("level")):
        level["to_flow"]["kernel"] = 0.02 * level["to_flow"]["kernel"]


def off_zero(params):
    """Biases too differ from zero, so that every difference can be told in proportion."""
    random = np.random.default_rng(1)
    draw = lambda x: x + 0.1 * random.standard_normal(x.shape, np.float32) * (x.ndim < 2)
    return jax.tree.map(draw, params)


def make_mesh(devices):
    """As `parallel.make_mesh` of so many devices."""
    return jax.make_mesh(
        (devices,),
        (parallel.AXIS,),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )


def run(config, built, devices, adversarial, steps):
    """States and metrics after every step on so many devices, and the compiled program."""
    networks, constants, start = built
    mesh = make_mesh(devices)
    constants = parallel.replicate(constants, mesh)
    mapped = parallel.data_parallel(step.make_step(config, networks, adversarial), mesh)
    batch = parallel.shard_batch(make_batch(config), mesh)
    placed = parallel.replicate(start, mesh)
    program = mapped.lower(placed, constants, batch).compile()
    history = []
    for _ in range(steps):
        placed, metrics = program(placed, constants, batch)
        history.append(jax.device_get((placed, metrics)))
    return history, program.as_text()


def local_gradient(config, built):
    """Gradient of the loss of one device's clips, with no word about other devices."""
    networks, constants, start = built

    def gradient(params, d_params, constants, raw):
        def objective(params):
            batch = step.to_device_batch(raw)
            terms, _ = step.generator_terms(
                config, networks, params, d_params, constants, batch, adversarial=True
            )
            return step.total_loss(terms, config)

        return jax.grad(objective)(params)

    return gradient, (start.params, start.d_params, constants)


def difference(ours, theirs):
    """Largest difference of any leaf, relative to the leaf's largest number."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        scale = np.abs(b).max()
        if scale > 0:
            worst = max(worst, float(np.abs(np.asarray(a) - b).max() / scale))
        elif np.abs(a).max() > 0:
            worst = np.inf
    return worst


def compare_variants(found):
    """Losses of three steps, gradients of the first, and what the three left."""
    config = tiny_config(eds=False)
    _, constants, start = build(config)
    results = {}
    for name, (devices, accumulate, remat) in VARIANTS.items():
        config.train.update({"accumulate": accumulate, "remat": remat})
        networks = state.build_networks(config, constants.experts.teacher.width)
        results[name] = run(config, (networks, constants, start), devices, True, STEPS)
    reference, _ = results["one device"]
    found["losses"] = sorted(reference[0][1])
    for name in ("params", "d_params", "ema"):
        found[f"{name}_moved"] = difference(getattr(reference[-1][0], name), getattr(start, name))
    for name in ("opt_state", "d_opt_state"):
        gradient = getattr(reference[0][0], name)[0].trace
        sizes = [float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)]
        found[f"{name}_zero"] = sum(size == 0 for size in sizes)
    for name, (history, program) in results.items():
        found[name] = distances(history, reference) | {
            "norms": gradient_norms_differ(*history[0]),
            "loops": program.count(" while("),
            "convolutions": program.count(" convolution("),
            "all_gathers": program.count("all-gather"),
            "all_reduces": program.count("all-reduce("),
            "all_reduces_of_loops": all_reduces_of_loops(program),
        }


def distances(history, reference):
    """How far apart losses of any step, gradients of the first, and states after the last are."""
    (first, _), (first_reference, _) = history[0], reference[0]
    (last, _), (last_reference, _) = history[-1], reference[-1]
    pairs = zip(history, reference, strict=True)
    found = {"losses": max(difference(a[1], b[1]) for a, b in pairs)}
    for name in ("opt_state", "d_opt_state"):
        gradients = (getattr(state, name)[0].trace for state in (first, first_reference))
        found[name] = difference(*gradients)
    for name in ("params", "d_params", "ema"):
        found[name] = difference(getattr(last, name), getattr(last_reference, name))
    return found


def all_reduces_of_loops(program):
    """How many all-reduces stand in bodies of loops."""
    bodies = re.findall(r"body=%?([\w.\-]+)", program)
    computations = re.split(r"\n\n", program)
    return sum(
        text.count("all-reduce(")
        for text in computations
        if any(text.lstrip().startswith(f"%{body} ") for body in bodies)
    )


def gradient_norms_differ(after, metrics):
    gradient = after.opt_state[0].trace
    expected = [np.linalg.norm(leaf) for leaf in jax.tree.leaves(gradient)]
    found = metrics[step.GRADIENT_NORMS]["params"]
    return float(np.abs(found / np.array(expected) - 1).max())


def compare_eds(found):
    """Four devices against pmap of a gradient that knows of no other device."""
    config = tiny_config(eds=True)
    config.loss.update({"motion": 0.0, "adversarial": 0.0})
    built = build(config)
    ((four, metrics),), program = run(config, built, DEVICES, False, 1)
    found["eds_losses"] = sorted(metrics)
    local, arguments = local_gradient(config, built)
    share = lambda x: x.reshape(DEVICES, CLIPS // DEVICES, *x.shape[1:])
    mapped = jax.pmap(local, in_axes=(None, None, None, 0))
    gradients = jax.device_get(mapped(*arguments, jax.tree.map(share, make_batch(config))))
    mean = jax.tree.map(lambda x: x.mean(0), gradients)
    found["eds_difference"] = difference(four.opt_state[0].trace, mean)
    of = lambda device: jax.tree.map(lambda x: x[device], gradients)
    found["eds_devices_differ"] = difference(of(0), of(1))
    found["eds_moves"] = program.count("all-gather") + program.count("collective-permute")


# Their fields: the one has batch statistics, the other contrasts the people of a batch.
EXPERTS = {
    "emotion_fan": {"width": 4, "classes": 8},
    "identity_net": {"size": 64, "width": 8, "features": 8},
}


def compare_experts(found):
    """The first step of experts' training on four devices against that on one."""
    random = np.random.default_rng(0)
    batch = {
        "portrait": random.integers(0, 256, (CLIPS, 32, 32, 3), np.uint8),
        "frames": random.integers(0, 256, (CLIPS, FRAMES, 32, 32, 3), np.uint8),
        "emotion": np.arange(CLIPS, dtype=np.int32) - 1,  # of the first it is not known
        "identity": np.arange(CLIPS, dtype=np.int32) // 3,
        "sync_box": np.tile(np.float32([0.1, 0.2, 0.9, 0.8]), (CLIPS, 1)),
    }
    optimizer, _ = gradient_descent(None)
    for name, fields in EXPERTS.items():
        config, network = get_expert_config(name), KINDS[name](**fields)
        variables = random_variables(network, *example_inputs(name))
        params, stats = variables["params"], variables.get("batch_stats", {})
        first = train_expert.ExpertState(
            jnp.zeros((), jnp.int32), params, stats, optimizer.init(params)
        )
        results = []
        for devices in (1, DEVICES):
            mesh = make_mesh(devices)
            step = train_expert.make_step(config, network, TASKS[name], optimizer, mesh)
            placed = parallel.replicate(first, mesh), parallel.shard_batch(batch, mesh)
            program = step.lower(*placed).compile()
            results.append(jax.device_get(program(*placed)))
        (one, *one_figures), (four, *four_figures) = results
        found[name] = {
            "figures": difference(four_figures, one_figures),
            "gradient": difference(four.opt_state[0].trace, one.opt_state[0].trace),
            "stats": difference(four.stats, one.stats),
            "stats_moved": difference(one.stats, first.stats),
            "all_reduces": program.as_text().count("all-reduce("),  # on four
        }


def refuse(found):
    for size in (6, 4):
        config = tiny_config(eds=True)
        config.train.batch_size = size
        try:
            check_config(config, DEVICES)
        except InputError as error:
            found[f"refused_{size}"] = str(error)


def main(path):
    assert jax.device_count() == DEVICES
    state.optimizers = step.optimizers = gradient_descent
    found = {}
    refuse(found)
    compare_experts(found)
    compare_eds(found)
    compare_variants(found)
    with open(path, "w") as file:
        json.dump(found, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1])
