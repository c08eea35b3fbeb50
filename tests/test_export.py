"""Exported programs: the frames of the model that they were made of, or a sentence."""

import errno
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import reta_jax
from data_pipeline.errors import InputError
from reta_jax import export as exporting
from reta_jax.commands import CACHE_VARIABLE
from reta_jax.export import COMPILED, export, export_onnx, main
from reta_jax.exported import ENCODE, RENDER, ExportedRenderer, seal_of, sha256_of
from reta_jax.models import prepare
from reta_jax.render import load_renderer
from reta_jax.renderer import Renderer
from reta_jax.stream import Streamer, StreamServer
from reta_jax.weights import CONFIG_FILE, PARAMS_FILE, check_params, load_weights, save_weights
from reta_jax.windows import audio_windows
from tests.tiny import RESEARCH_ONLY, TOLD, save_tiny_model

RANDOM = np.random.default_rng(0)
PORTRAITS = RANDOM.integers(0, 256, (3, 32, 32, 3), np.uint8)
VOICE = (0.3 * RANDOM.standard_normal(17 * 640 + 3)).astype(np.float32)
VOICE[5 * 640 : 14 * 640] = 0  # a silence in which the mouth closes


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny", [RESEARCH_ONLY])


@pytest.fixture(scope="module")
def renderer(weights) -> Renderer:
    return Renderer.from_pretrained(weights)


@pytest.fixture(scope="module")
def folder(renderer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(renderer, folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """An exported model to spoil."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def change_config(folder: Path, **values) -> None:
    file = folder / CONFIG_FILE
    changed = json.loads(file.read_text()) | values
    said = {key: value for key, value in changed.items() if key not in ("seal", "format")}
    file.write_text(json.dumps(changed | {"seal": seal_of(said)}))


def test_frames_are_the_models_own(folder, renderer):
    exported = ExportedRenderer.load(folder)
    assert exported.closes_in_silence and renderer.closes_in_silence
    for portrait in PORTRAITS[:2]:
        frames = exported.render(portrait, VOICE)
        assert frames.shape == (18, 32, 32, 3) and frames.std() > 1
        np.testing.assert_array_equal(frames, renderer.render(portrait, VOICE))


def test_a_model_in_bfloat16_is_exported_as_it_is(weights, tmp_path):
    """The file keeps float32; the program takes what it was traced with."""
    renderer = Renderer.from_pretrained(weights, dtype="bfloat16")
    export(renderer, tmp_path / "model", platforms=["cpu"])
    exported = ExportedRenderer.load(tmp_path / "model")
    types = {leaf.dtype.name for leaf in jax.tree.leaves(exported.weights)}
    assert types == {"bfloat16", "float32"}
    frames = exported.render(PORTRAITS[0], VOICE)
    np.testing.assert_array_equal(frames, renderer.render(PORTRAITS[0], VOICE))


def test_the_licence_of_the_weights_goes_with_them(folder, weights, tmp_path, monkeypatch, capsys):
    assert ExportedRenderer.load(folder).provenance == [RESEARCH_ONLY]
    assert capsys.readouterr().err == ""  # only the commands say it
    monkeypatch.setattr(exporting, "export", lambda *_: (tmp_path / "out").mkdir())
    main([f"--checkpoint={weights}", f"--out={tmp_path / 'out'}"])
    assert capsys.readouterr().err == f"{TOLD}\n"


def test_streams_share_a_call(folder, renderer):
    exported = ExportedRenderer.load(folder)
    audio = RANDOM.standard_normal((3, exported.window.samples)).astype(np.float32)
    together = np.asarray(exported.render_windows(exported.encode(PORTRAITS), audio))
    for i in range(3):
        alone = exported.render_windows(exported.encode(PORTRAITS[i : i + 1]), audio[i : i + 1])
        difference = np.abs(together[i].astype(int) - np.asarray(alone)[0])
        assert difference.max() <= 1  # of 255: sums in another order


def test_speaks_live(folder):
    exported = ExportedRenderer.load(folder)
    server = StreamServer(exported, streams=2)
    talks = [server.open(portrait) for portrait in PORTRAITS[:2]]
    for start in range(0, len(VOICE), 997):
        talks[1].push_audio(VOICE[start : start + 997])
        server.step()
    talks[1].flush()
    while server.step():
        pass
    frames = np.stack([frame.image for frame in iter(talks[1].next_frame, None)])
    difference = np.abs(frames.astype(int) - exported.render(PORTRAITS[1], VOICE))
    assert len(frames) == 18 and difference.max() <= 1  # of 255: sums in another order
    assert talks[0].next_frame() is None
    alone = Streamer(exported, PORTRAITS[1])
    alone.push_audio(VOICE)
    alone.flush()
    np.testing.assert_array_equal(
        [frame.image for frame in alone], exported.render(PORTRAITS[1], VOICE)
    )


def test_a_program_is_for_every_platform(folder):
    for name in (ENCODE, RENDER):
        program = jax.export.deserialize(bytearray((folder / name).read_bytes()))
        assert program.platforms == ("cpu", "cuda", "tpu")


def test_a_program_for_cpus_alone_has_their_forms(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "WIDE", 1)
    renderer = Renderer.from_pretrained(weights)
    everywhere, here = tmp_path / "everywhere", tmp_path / "here"
    export(renderer, everywhere)
    export(renderer, here, ["cpu"])
    programs = [ExportedRenderer.load(folder) for folder in (everywhere, here)]
    layers = [x.weights["params"]["generator"]["level_32"]["conv"] for x in programs]
    assert ["winograd" in layer for layer in layers] == [False, True]
    frames = [program.render(PORTRAITS[0], VOICE).astype(int) for program in programs]
    assert np.abs(frames[0] - frames[1]).max() <= 1  # of 255: sums in another order


def test_a_program_for_gpus_alone_has_their_forms_and_is_refused_here(weights, tmp_path):
    renderer = Renderer.from_pretrained(weights).with_chunk(1)
    export(renderer, tmp_path / "model", ["cuda"])
    params = load_weights(tmp_path / "model")[0]["params"]
    check_params(params, renderer.prepare("cuda"), "what was written")
    level = params["generator"]["level_32"]
    assert "transposed" in level["up"] and "outputs_first" in level["conv"]
    for name in (ENCODE, RENDER):
        program = (tmp_path / "model" / name).read_bytes()
        assert jax.export.deserialize(bytearray(program)).platforms == ("cuda",)
    with pytest.raises(InputError, match="for cuda, and this machine is cpu: .*--platforms cpu$"):
        ExportedRenderer.load(tmp_path / "model")


def test_a_model_of_the_published_arithmetic_is_exported_as_it_is(tmp_path):
    """And one whose mouth does not rest in silence."""
    weights = save_tiny_model(tmp_path / "weights", modulation="modconv")
    renderer = Renderer.from_pretrained(weights, close_in_silence=False).with_chunk(1)
    assert renderer.reta.generator.modulation == "modconv"
    export(renderer, tmp_path / "model", ["cpu"])
    exported = ExportedRenderer.load(tmp_path / "model")
    assert not exported.closes_in_silence
    frames = exported.render(PORTRAITS[0], VOICE)
    assert frames.std() > 1
    np.testing.assert_array_equal(frames, renderer.render(PORTRAITS[0], VOICE))


def test_needs_neither_flax_nor_the_models_code(folder):
    script = (
        "import sys, reta_jax.stream; from reta_jax.exported import ExportedRenderer;"
        f"ExportedRenderer.load({str(folder)!r});"
        "print([m for m in sys.modules if m == 'flax' or m.startswith('reta_jax.models')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_render_command_takes_either(folder, weights):
    assert isinstance(load_renderer(folder, True), ExportedRenderer)
    assert isinstance(load_renderer(weights, True), Renderer)
    with pytest.raises(InputError, match="give --no-close-in-silence to python -m reta_jax.export"):
        load_renderer(folder, False)
    with pytest.raises(InputError, match="give --dtype bfloat16 to python -m reta_jax.export"):
        load_renderer(folder, True, "bfloat16")
    with pytest.raises(InputError, match="give --expression-scale 1.5 to python"):
        load_renderer(folder, expression_scale=1.5)


def test_a_damaged_program_is_refused(copy):
    program = bytearray((copy / RENDER).read_bytes())
    program[len(program) // 2] ^= 1
    (copy / RENDER).write_bytes(program)
    with pytest.raises(InputError, match=f"{RENDER} is damaged"):
        ExportedRenderer.load(copy)


def test_a_missing_program_is_refused(copy):
    (copy / RENDER).unlink()
    with pytest.raises(InputError, match=f"cannot read .*{RENDER}: No such file"):
        ExportedRenderer.load(copy)


def test_another_platform_is_refused(copy):
    change_config(copy, platforms=["tpu"])
    with pytest.raises(InputError, match="exported for tpu, and this machine is cpu: .*again"):
        ExportedRenderer.load(copy)


def test_another_version_s_is_refused(copy):
    change_config(copy, reta_jax="0.0.0")
    with pytest.raises(InputError, match="exported by reta_jax 0.0.0, and this is"):
        ExportedRenderer.load(copy)


def test_another_time_is_refused(copy, monkeypatch):
    change_config(copy, jax="9.9.9")

    def deserialize(program):
        raise ValueError("serialization version 99 is not supported")

    monkeypatch.setattr(jax.export, "deserialize", deserialize)
    with pytest.raises(InputError, match="exported with JAX 9.9.9, which JAX .* cannot read"):
        ExportedRenderer.load(copy)


def test_a_program_of_a_later_bytecode_is_refused(copy):
    """Its frame is read at once, the program in it only when it is asked for."""
    program = (copy / RENDER).read_bytes()
    (start,) = [i for i in range(len(program)) if program.startswith(b"ML\xefR", i)]
    spoilt = program[: start + 4] + bytes([99]) + program[start + 5 :]
    (copy / RENDER).write_bytes(spoilt)
    sha256 = json.loads((copy / CONFIG_FILE).read_text())["sha256"]
    change_config(copy, jax="9.9.9", sha256=sha256 | {RENDER: sha256_of(spoilt)})
    with pytest.raises(InputError, match="exported with JAX 9.9.9, which JAX .* cannot read"):
        ExportedRenderer.load(copy)


def test_parts_of_two_exports_are_refused(copy):
    weights, values = load_weights(copy)
    weights["uv_expression"] = weights["uv_expression"] + 1
    values.pop("format")
    files = {name: (copy / name).read_bytes() for name in (ENCODE, RENDER)}
    save_weights(copy, weights, values, files=files)
    with pytest.raises(InputError, match=f"{PARAMS_FILE} holds the weights of another export"):
        ExportedRenderer.load(copy)


@pytest.mark.parametrize("change", [{"size": 64}, {"window": [40, 20, 2]}, {"platforms": None}])
def test_a_config_that_was_changed_is_refused(copy, change):
    file = copy / CONFIG_FILE
    values = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in values.items() if value}))
    with pytest.raises(InputError, match=f"{CONFIG_FILE} is not what .* export wrote there"):
        ExportedRenderer.load(copy)


def test_the_version_is_kept(copy):
    assert json.loads((copy / CONFIG_FILE).read_text())["reta_jax"] == reta_jax.__version__


def test_other_weights_are_refused(weights):
    with pytest.raises(InputError, match="'reta' weights, no exported model"):
        ExportedRenderer.load(weights)


COUNT_COMPILED = """
import jax, sys
from reta_jax.waiting import FIRST_FRAME
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
exec(FIRST_FRAME)
print(events.count("/jax/compilation_cache/compile_requests_use_cache"))
print(events.count("/jax/compilation_cache/cache_hits"))
"""


@pytest.mark.slow
def test_what_was_compiled_here_is_compiled_no_more(weights, tmp_path):
    folder = tmp_path / "model"
    main([f"--checkpoint={weights}", f"--out={folder}", "--platforms", "cpu", "--compile"])

    def start(cache: Path) -> tuple[int, int]:
        environment = os.environ | {CACHE_VARIABLE: str(cache)}
        command = [sys.executable, "-c", COUNT_COMPILED, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        asked, hits = map(int, done.stdout.split())
        return asked, hits

    folder = folder.rename(tmp_path / "moved")
    asked, hits = start(folder / COMPILED)
    assert hits == asked > 1
    assert start(tmp_path / "empty") == (asked, 0)


def test_the_command_writes_and_refuses(weights, tmp_path, capsys):
    out = tmp_path / "model"
    platforms = ["--platforms", "cpu", "cpu"]
    main([f"--checkpoint={weights}", f"--out={out}", *platforms, "--chunk", "1"])
    assert "MB for cpu\n" in capsys.readouterr().out
    assert (out / PARAMS_FILE).is_file()
    quick = ExportedRenderer.load(out)
    assert quick.window.chunk == 1
    whole = Renderer.from_pretrained(weights).with_chunk(1).render(PORTRAITS[0], VOICE)
    np.testing.assert_array_equal(quick.render(PORTRAITS[0], VOICE), whole)


@pytest.fixture
def places(tmp_path, monkeypatch) -> Path:
    """Folders and files that nothing may take the place of; no model can be loaded."""
    one = {"a": np.zeros(1, np.float32)}
    for name, kind in (("reta", "reta"), ("expert", "vgg19"), ("model", "exported")):
        save_weights(tmp_path / name, one, {"kind": kind})
    save_weights(tmp_path / "model" / "mine", one, {"kind": "reta"})
    (tmp_path / "others").mkdir()
    for name in ("file", "others/a", "others/config.json"):
        (tmp_path / name).touch()
    monkeypatch.setattr(Renderer, "from_pretrained", None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("--checkpoint reta --out reta", "reta holds reta weights, which exported ones would rep"),
        ("--checkpoint reta --out expert", "expert holds vgg19 weights"),
        ("--checkpoint model/mine --out model", "model/mine lies in model, which is replaced"),
        ("--checkpoint reta --out others", "others holds other files"),
        ("--checkpoint reta --out file", "a file is in the way"),
        ("--checkpoint reta --out reta --onnx", "reta holds other files"),
        ("--checkpoint reta --out model --onnx", "model holds other files"),
        ("--checkpoint reta --out others --onnx", "others holds other files"),
        ("--checkpoint reta --out .", ". is the current folder or one above it"),
        ("--checkpoint reta --out model/../..", "model/../.. is the current folder or one above"),
        ("--checkpoint reta --out new --platforms cuda --onnx", "leave --platforms out"),
        ("--checkpoint reta --out new --platforms cuda --compile",
         "--compile is for machines like this one, which is cpu: add cpu to --platforms"),
    ],
)  # fmt: skip
def test_nothing_is_destroyed_and_no_work_done_in_vain(places, capsys, command, sentence):
    contents = lambda: {p: p.is_file() and p.read_bytes() for p in places.rglob("*")}
    before = contents()
    with pytest.raises(SystemExit) as left:
        main(command.split())
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err
    assert contents() == before


def test_scripts_destroy_nothing_either(renderer, places):
    for write in (export, export_onnx):
        with pytest.raises(InputError, match="reta holds"):
            write(renderer, places / "reta")


def test_onnx_models_appear_whole_or_not_at_all(renderer, tmp_path, monkeypatch):
    program = types.SimpleNamespace(SerializeToString=lambda: b"a program")
    converter = types.SimpleNamespace(to_onnx=lambda *_, model_name: program)
    monkeypatch.setitem(sys.modules, "jax2onnx", converter)
    folder, write_bytes, files = tmp_path / "onnx", Path.write_bytes, []
    export_onnx(renderer, folder)
    export_onnx(renderer, folder)  # takes the place of its like
    assert json.loads((folder / CONFIG_FILE).read_text())["kind"] == "onnx"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == {"encode_portrait.onnx", "render_chunk.onnx", CONFIG_FILE}

    def fill_up(path, content):
        files.append(path)
        if len(files) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    program.SerializeToString = lambda: b"another"
    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(InputError, match=f"cannot write weights to {folder}: No space left"):
        export_onnx(renderer, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_onnx_renders_the_models_frames(renderer, tmp_path):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    with jax.numpy_rank_promotion("allow"):  # the converter's own layers take it
        export_onnx(renderer, tmp_path / "onnx")
    encode, render = (
        runtime.InferenceSession(tmp_path / "onnx" / f"{Path(name).stem}.onnx")
        for name in (ENCODE, RENDER)
    )

    def run(session, *arrays):
        names = (argument.name for argument in session.get_inputs())
        return session.run(None, dict(zip(names, arrays, strict=True)))

    identity = run(encode, PORTRAITS[:1])
    found = [
        run(render, window[None], *identity)[0][0, :count]
        for window, count in audio_windows(VOICE, renderer.reta.window)
    ]
    expected = renderer.render(PORTRAITS[0], VOICE)
    # A rounding error turns 0.5 into the next grey.
    assert np.abs(np.concatenate(found).astype(int) - expected).max() <= 1


def test_onnx_needs_its_converter(renderer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match="ONNX needs the extra onnx"):
        export_onnx(renderer, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
