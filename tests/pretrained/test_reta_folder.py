"""Our own models as folders to share, and what training starts from."""

import functools
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import corpus
from configs.synthetic import get_config
from data_pipeline.errors import InputError
from reta_jax.checks import check_config
from reta_jax.grow import grow
from reta_jax.initial import initial_weights
from reta_jax.models.discriminator import Discriminator
from reta_jax.models.morphable import builtin_morphable
from reta_jax.models.reta import RETA, build_reta
from reta_jax.models.whisper import Whisper
from reta_jax.pretrained import wav2vec2
from reta_jax.pretrained.licences import licence_lines
from reta_jax.pretrained.reta import expected_params, load_reta, save_reta
from reta_jax.state import TrainState, build_networks, create_state
from reta_jax.weights import (
    PARAMS_FILE,
    SHIPPED_WEIGHTS,
    config_to_dict,
    flatten,
    load_config,
    load_weights,
    nest,
    save_weights,
)
from tests.pretrained.states import TINY_VOICE, voice_state, write_json
from tests.tiny import aged, save_tiny_model, tiny_model_config
from tests.weights import random_variables

WEIGHTS = SHIPPED_WEIGHTS.parents[1]
RECORDS = [
    {
        "source": "edtalk",
        "published_at": "https://github.com/tanshuai0219/EDTalk",
        "licence": "Apache-2.0, derived from LIA (CC BY-NC 4.0)",
        "commercial_use": False,
        "files": [],
    }
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("shared") / "reta")


@pytest.fixture(scope="module")
def contents(shared):
    return load_weights(shared)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model"


def equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


# A model's folder.


def test_a_model_comes_back_as_it_was(shared, folder, contents):
    model = load_reta(shared)
    equal(model.params, contents[0])
    save_reta(folder, jax.device_get(model.params), config_to_dict(model.config), RECORDS)
    first = RETA.from_pretrained(folder)
    RETA.save_pretrained(str(folder), jax.device_get(first.params), first.config)
    second = RETA.from_pretrained(folder)
    assert second.reta == first.reta == model.reta
    equal(second.params, model.params)
    assert load_weights(folder)[1]["provenance"] == RECORDS
    again = load_reta(str(folder)).config
    assert {k: again[k] for k in ("model", "name")} == {
        k: model.config[k] for k in ("model", "name")
    }


def test_a_model_older_than_some_fields_is_what_it_was(folder):
    """Where there was no `emotion_span`, f_E was that of its frame, whatever the default is now."""
    plain = {"light": (), "tcn": {"linear": 0}}
    then = load_reta(save_tiny_model(folder, **plain, emotion_span=1))
    file = folder / "config.json"
    file.write_text(json.dumps(aged(json.loads(file.read_text()))))
    assert load_reta(folder).reta == then.reta
    now = tiny_config(folder)
    now.model.update(plain)
    now.init_partial = True
    assert initial_weights(now, abstract_state()).otherwise == (
        f"{folder} was trained otherwise: model.emotion_span was 1 and is 3"
    )


def test_half_precision_is_close(folder, contents):
    params, config = contents
    save_reta(folder, params, config, [], dtype="float16")
    half = load_reta(folder)
    for ours, theirs in zip(jax.tree.leaves(half.params), jax.tree.leaves(params), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_portrait_is_seen_in_float32_however_bfloat16_is_said(folder, contents):
    params, config = contents
    asked = load_reta_of(folder / "a", params, config, "bfloat16")
    config = config | {"model": config["model"] | {"dtype": "bfloat16"}}
    trained = load_reta_of(folder / "b", params, config)
    assert asked.reta == trained.reta
    dtypes = trained.reta.image_encoder.dtype, trained.reta.generator.dtype
    assert dtypes == (jnp.float32, jnp.bfloat16)


def load_reta_of(folder, params, config, dtype=None):
    save_reta(folder, params, config, [])
    return load_reta(folder, dtype)


def test_the_card_names_licences_and_use(folder, contents):
    params, config = contents
    save_reta(folder, params, config, RECORDS)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: reta_jax\n")
    for what in (
        "32 px at 25 fps",
        f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters",
        "weights of edtalk: Apache-2.0, derived from LIA (CC BY-NC 4.0); not for commercial use",
        "Renderer.from_pretrained",
        "consent",
    ):
        assert what in card
    assert "3DMM" not in card
    config = config | {"model": config["model"] | {"morphable": "weights/bfm"}}
    save_reta(folder, params, config, [])
    card = (folder / "README.md").read_text()
    assert "none: trained from scratch" in card
    assert "read from `weights/bfm`" in card and "import SOURCE FILE --out weights/bfm`" in card


def without(params, path):
    return nest({key: leaf for key, leaf in flatten(params).items() if key != path})


CHANGES = {
    "shape": (
        lambda p: nest(flatten(p) | {"generator/constant": np.zeros((4, 4, 3), np.float32)}),
        {},
        r"generator/constant is \(4, 4, 3\), expected \(4, 4, \d+\)",
    ),
    "missing": (
        lambda p: without(p, "generator/constant"),
        {},
        r"missing generator/constant",
    ),
    "unexpected": (
        lambda p: p | {"teeth": np.zeros(3, np.float32)},
        {},
        "unexpected teeth",
    ),
    "other kind": (lambda p: p, {"kind": "vgg19"}, "holds 'vgg19' weights, not a RETA model"),
    "no kind": (lambda p: p, {"kind": None}, "holds None weights, not a RETA model"),
    "no model": (lambda p: p, {"model": {}}, "describes no RETA model"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_architecture_is_refused_by_what_differs(folder, contents, name):
    change, values, what = CHANGES[name]
    params, config = contents
    save_weights(folder, change(params), config | values)
    with pytest.raises(InputError, match=f"{folder}.*{what}") as error:
        RETA.from_pretrained(str(folder))
    assert len(str(error.value)) < 400  # what differs, not all there is


def test_a_3dmm_that_is_not_there_is_told_as_what_it_is(folder, contents):
    params, config = contents
    save_weights(folder, params, config | {"model": config["model"] | {"morphable": "no/bfm"}})
    with pytest.raises(InputError, match="^no weights for morphable: there is no folder no/bfm"):
        load_reta(folder)


@pytest.mark.parametrize("number", [None, 0, 2])
def test_other_formats_are_refused(folder, contents, number):
    save_reta(folder, *contents, [])
    config = json.loads((folder / "config.json").read_text()) | {"format": number}
    write_json(folder, config=config)
    with pytest.raises(InputError, match=rf"{folder} have format {number}; this version reads 1"):
        load_reta(folder)


@pytest.mark.parametrize("text", ["[]", "null", "3"])
def test_a_config_that_is_none_is_refused(folder, contents, text):
    save_reta(folder, *contents, [])
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=rf"{folder} have format None; this version reads 1"):
        load_reta(folder)


# What training starts from.


@functools.cache
def abstract_state(kind="mel", heads=2):
    config = tiny_config(kind=kind, heads=heads)
    networks = build_networks(config, 32)
    morphable = builtin_morphable(config.model.uv_resolution)
    create = functools.partial(create_state, config, networks, morphable)
    return jax.eval_shape(create, jax.random.key(0))


def tiny_config(weights="", kind="mel", heads=2):
    config = tiny_model_config()
    config.init_from = str(weights)
    audio = config.model.audio_encoder
    audio.kind = kind
    audio.wav2vec2.update(
        {
            "conv_features": (8,) * 7, "width": 16, "layers": 2, "heads": heads, "mlp_dim": 24,
            "position_kernel": 8, "position_groups": 2,
        }
    )  # fmt: skip
    return config


def test_shipped_weights_of_a_licence_of_their_own_carry_it():
    """So that it is said of every model that starts from them, or learns from them."""
    folders = [file.parent for file in WEIGHTS.glob("*/LICENSE")]
    shipped = [file.parent for folder in folders for file in folder.rglob(PARAMS_FILE)]
    assert {"reta", "landmark_net"} <= {folder.name for folder in shipped}
    for folder in shipped:
        lines = licence_lines(load_config(folder).get("provenance", []))
        assert any("research only" in line and "not for commercial" in line for line in lines)


@pytest.fixture
def networks(folder, contents):
    """An import of image networks with a discriminator, as `import edtalk` writes it."""
    config = tiny_config()
    discriminator = Discriminator(config.model.size, config.model.channel_multiplier)
    image = jnp.zeros((1, config.model.size, config.model.size, 3))
    params = {name: contents[0][name] for name in ("image_encoder", "generator")}
    params["discriminator"] = random_variables(discriminator, image)["params"]
    values = {"kind": "image_networks", "fields": {"modulation": config.model.modulation}}
    save_weights(folder, params, values | {"provenance": RECORDS})
    return params


def test_image_networks_and_discriminator_are_taken(folder, networks):
    found = initial_weights(tiny_config(folder), abstract_state())
    equal(found.reta, {name: networks[name] for name in ("image_encoder", "generator")})
    equal(found.discriminator, networks["discriminator"])
    assert found.provenance == RECORDS


def test_another_modulation_is_refused(folder, networks):
    config = tiny_config(folder)
    config.model.modulation = "modconv"
    with pytest.raises(InputError, match=f"{folder} was imported .*'adain'.*'modconv'.*again"):
        initial_weights(config, abstract_state())


def test_published_arithmetic_is_calibrated_where_the_model_wants_adain(
    folder, networks, monkeypatch
):
    values = {"kind": "image_networks", "fields": {"modulation": "modconv"}, "provenance": []}
    save_weights(folder, networks, values)
    calibrated = jax.tree.map(lambda leaf: leaf + 1, networks["generator"])
    monkeypatch.setattr(
        "reta_jax.initial.calibrate", lambda params: params | {"generator": calibrated}
    )
    found = initial_weights(tiny_config(folder), abstract_state())
    equal(found.reta["generator"], calibrated)
    equal(found.reta["image_encoder"], networks["image_encoder"])
    equal(found.discriminator, networks["discriminator"])


@pytest.mark.parametrize("room", ["image_encoder", "generator", "discriminator"])
def test_another_shape_is_refused(folder, networks, room):
    key, leaf = next(iter(flatten(networks[room]).items()))
    networks[room] = nest(flatten(networks[room]) | {key: leaf[..., :1]})
    values = {"kind": "image_networks", "fields": {"modulation": "adain"}, "provenance": []}
    save_weights(folder, networks, values)
    with pytest.raises(InputError, match=f"{room} of {folder} does not fit the model: {key} is"):
        initial_weights(tiny_config(folder), abstract_state())
    config = tiny_config(folder)
    config.init_partial = True
    assert initial_weights(config, abstract_state()).reta.keys() == {"image_encoder", "generator"}


def test_a_whole_model_is_taken(shared, contents):
    found = initial_weights(tiny_config(shared), abstract_state())
    equal(found.reta, contents[0])
    assert found.discriminator == {} and not found.otherwise


def test_what_a_model_was_trained_with_otherwise_is_said(shared):
    """No shape shows over how many frames f_E is a mean."""
    config = tiny_config(shared)
    config.model.emotion_span = 7
    found = initial_weights(config, abstract_state())
    before = tiny_config().model.emotion_span
    assert found.otherwise == (
        f"{shared} was trained otherwise: model.emotion_span was {before} and is 7"
    )


@pytest.mark.parametrize(("frames", "sentence"), [
    (0, "has a linear path of 3 frames, model.tcn.linear is 0: set model.tcn.linear=3"),
    (5, "has a linear path of 3 frames, model.tcn.linear is 5: set model.tcn.linear=3"),
])  # fmt: skip
def test_a_regression_s_path_is_neither_lost_nor_made_up(shared, frames, sentence):
    config = tiny_config(shared)
    config.model.tcn.linear, config.init_partial = frames, True
    with pytest.raises(InputError, match=f"init_from={shared} {sentence}"):
        initial_weights(config, abstract_state())


def stages_of_corpus():
    """The configs of the three trainings that the docstring of configs/corpus.py chains."""
    commands = corpus.__doc__.replace("\\\n", " ").splitlines()
    for command in (line for line in commands if "reta_jax.train " in line):
        (variant,) = re.findall(r"corpus\.py:?(\S*)", command)
        config = corpus.get_config(variant)
        given = dict(re.findall(r"--config\.(\S+)=(\S+)", command))
        config.update_from_flattened_dict(
            {name: int(value) if value.isdecimal() else value for name, value in given.items()}
        )
        yield config


def test_the_stages_of_corpus_take_the_weights_of_the_one_before(tmp_path, monkeypatch):
    """Each grows, and the last one has no linear path, so that reta_jax.linear_path adds one."""
    monkeypatch.setattr("reta_jax.initial.load", None)  # Whisper comes with the stage before
    for before, now in itertools.pairwise(stages_of_corpus()):
        check_config(now, devices=1)
        folder = tmp_path / str(before.model.size)
        params = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, np.float32),
            expected_params(build_reta(before.model), builtin_morphable(64), before.model.size),
        )
        save_reta(folder, params, config_to_dict(before), [])
        now.init_from = str(folder)
        abstract = expected_params(build_reta(now.model), builtin_morphable(64), now.model.size)
        found = initial_weights(now, TrainState(0, {"reta": abstract}, {}, {}, {}, {})).reta
        assert f"level_{now.model.size}" in found["generator"]
    assert build_reta(now.model).emotion_student.linear == 0


def test_nothing_is_taken_from_scratch():
    assert initial_weights(tiny_config(), abstract_state()) == ({}, {}, [], "")


def test_other_starts_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="init_from.* no folder nowhere; .*import edtalk FILE"):
        initial_weights(tiny_config("nowhere"), abstract_state())
    save_weights(folder, {"a": np.zeros(1, np.float32)}, {"kind": "vgg19", "fields": {}})
    with pytest.raises(InputError, match=f"{folder} holds 'vgg19' weights"):
        initial_weights(tiny_config(folder), abstract_state())


def test_the_published_audio_encoder_is_taken(tmp_path):
    save_file(voice_state(), tmp_path / "model.safetensors")
    write_json(tmp_path, config=TINY_VOICE)
    config = tiny_config(kind="wav2vec2")
    config.model.audio_encoder.weights = str(tmp_path)
    found = initial_weights(config, abstract_state("wav2vec2"))
    expected = wav2vec2.read(tmp_path / "model.safetensors").variables
    equal(found.reta, {"audio_encoder": {"network": expected}})
    assert [record["source"] for record in found.provenance] == ["wav2vec2"]
    config.model.audio_encoder.weights = "random"
    assert initial_weights(config, abstract_state("wav2vec2")).reta == {}
    config = tiny_config(kind="wav2vec2", heads=4)  # which no shape shows
    config.model.audio_encoder.weights = str(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path} has 2 attention heads.*heads is 4"):
        initial_weights(config, abstract_state("wav2vec2", 4))


def test_the_lower_layers_of_a_published_whisper_are_taken(tmp_path):
    network = Whisper(width=16, layers=2, heads=2, mlp_dim=24)
    variables = random_variables(network, jnp.zeros((1, 640)))["params"]
    values = {"kind": "whisper", "fields": {"layers": 2, "heads": 2}, "provenance": []}
    save_weights(tmp_path / "whisper", variables, values)
    config = get_config("smoke")
    audio = config.model.audio_encoder
    audio.kind, audio.weights = "whisper", str(tmp_path / "whisper")
    audio.whisper.update({"width": 16, "layers": 1, "heads": 2, "mlp_dim": 24})
    networks = build_networks(config, 32)
    morphable = builtin_morphable(config.model.uv_resolution)
    create = functools.partial(create_state, config, networks, morphable)
    abstract = jax.eval_shape(create, jax.random.key(0))

    config.init_from, config.init_partial = "weights/synthetic/reta", True  # it has another encoder
    found = initial_weights(config, abstract).reta
    assert "generator" in found
    expected = {name: part for name, part in variables.items() if name != "layer_1"}
    equal(found["audio_encoder"], {"network": expected})


def test_a_model_of_smaller_pictures_grows():
    """Twice from 64 to 256 px; not where widths are others, which would fit nothing."""
    config = get_config()
    config.init_from, config.init_partial = "weights/synthetic/reta", True
    small = initial_weights(config, abstract_state()).reta
    config.model.size = 4 * config.model.size
    found = initial_weights(config, abstract_state()).reta
    expected = grow(grow(small, 64, 1 / 8), 128, 1 / 8)
    equal(found, expected)
    assert {"level_128", "level_256"} <= found["generator"].keys()
    config.model.channel_multiplier = 1 / 16
    equal(initial_weights(config, abstract_state()).reta, small)
