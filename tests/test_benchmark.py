"""The benchmark counts the work it should, of every stage a model has."""

import json
import runpy
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reta_jax import benchmark as timing
from reta_jax import waiting
from reta_jax.benchmark import Stage, benchmark, main, measure, stages, whole_program
from reta_jax.program import flatten
from reta_jax.renderer import Renderer
from tests.tiny import save_tiny_model

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def renderer(weights):
    return Renderer.from_pretrained(weights)


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch):
    """The machine's ceilings take seconds each, and are not what is tested."""
    names = *(f"conv 3x3 {kind} (TFLOP/s)" for kind in ("float32", "bfloat16")), "copy (GB/s)"
    monkeypatch.setattr(timing, "measure_ceilings", lambda repeats: dict.fromkeys(names, 0.1))


def test_every_stage_has_figures(renderer):
    report = benchmark(renderer, batch=2, repeats=2)
    rows = {row["name"]: row for row in report["stages"]}
    assert list(rows) == [
        "portrait", "audio encoder", "motion decoder", "3DMM bridge", "motion encoder",
        "emotion student", "generator", "to uint8", "to the host", "video encoding",
        "on the device", "end to end",
    ]  # fmt: skip
    for row in rows.values():
        median, p95, p99 = row["milliseconds"]
        assert 0 < median <= p95 <= p99
    assert rows["portrait"]["frames"] == 0 and rows["portrait"]["frames_per_second"] is None
    assert rows["generator"]["frames"] == rows["end to end"]["frames"] == 20
    rate = 20e3 / rows["generator"]["milliseconds"][0]
    np.testing.assert_allclose(rows["generator"]["frames_per_second"], rate)
    assert rows["generator"]["gflop"] > rows["3DMM bridge"]["gflop"] > 0
    assert rows["on the device"]["gflop"] > rows["generator"]["gflop"]
    shares = [rows["on the device"][f"of_{what}"] for what in ("convolutions", "copies")]
    assert min(shares) > 0
    weights = sum(x.nbytes for x in jax.tree.leaves(renderer.prepared))
    assert report["memory_megabytes"] > 1e-6 * weights
    assert report == json.loads(json.dumps(report)) | {"stages": report["stages"]}


def test_live_talks_come_out_whole(renderer):
    report = waiting.measure_live(renderer.with_chunk(1), streams=2, minutes=0.1)
    assert report["needed_milliseconds"] == 120  # the frame and two of look-ahead
    median, p95, p99 = report["milliseconds"]
    assert 0 < median <= p95 <= p99
    np.testing.assert_allclose(report["real_time_streams"], 2 * 40 / median)
    early, late = report["resident_megabytes"]
    assert min(early, late) > 10
    assert report["device_megabytes"] == [None, None]  # a CPU keeps no account


def test_forms_of_the_warp_are_timed_beside_their_bytes(monkeypatch, capsys):
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "warp.py"))
    monkeypatch.setitem(
        script["main"].__globals__, "measure_ceilings", lambda _: {"copy (GB/s)": 10}
    )
    script["main"](["--size", "8", "--frames", "3", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("windows", "rows", "dense"))
    level = script["make_level"](8, 3, "float32")
    texture, points = 8 * 8 * 512 * 4, 3 * 8 * 8
    assert level.forward_bytes == texture + points * (2 + 512) * 4
    assert level.backward_bytes == 2 * texture + points * (2 * 2 + 512) * 4


@pytest.mark.slow
def test_a_process_starts_until_its_first_frame(renderer, monkeypatch):
    """The frame comes out of a fresh process; one that fails is not timed."""
    found = waiting.cold_starts(renderer, repeats=1)
    assert list(found) == ["compiling", "cached", "compiled before"]
    assert min(found["cached"], found["compiled before"]) > 0
    monkeypatch.setattr(waiting, "FIRST_FRAME", "raise SystemExit(1)")
    with pytest.raises(subprocess.CalledProcessError):
        waiting.cold_starts(renderer, repeats=1)


def test_stages_are_timed_by_name_on_the_device_that_is_asked_for(weights, tmp_path, capsys):
    out, command = tmp_path / "report.json", ["--checkpoint", str(weights), "--repeats", "1"]
    main([*command, "--stage", "to uint8", "generator", "--device", "cpu", "--out", str(out)])
    names = [row["name"] for row in json.loads(out.read_text())["stages"]]
    assert names == ["to uint8", "generator"]


def test_work_is_that_of_the_program():
    """Of a product of 64 x 128 and 128 x 32: two operations for each of its terms."""
    product = Stage("product", jnp.matmul, (jnp.ones((64, 128)), jnp.ones((128, 32))), 5)
    row = measure(product, 3)
    np.testing.assert_allclose(row.gflop, 2e-9 * 64 * 128 * 32, rtol=0.01)
    np.testing.assert_allclose(row.megabytes, 4e-6 * (64 * 128 + 128 * 32 + 64 * 32), rtol=0.01)
    traced = jax.jit(jnp.matmul).trace(*product.arguments)
    on_gpu = flatten(
        traced.jaxpr.jaxpr, "cuda"
    )  # whose compiler does not know its libraries' bytes
    modelled = timing._bytes_moved(on_gpu, traced.lower().compile())
    assert row.megabytes <= 1e-6 * modelled < 1.2 * row.megabytes  # the result is handed out, too
    assert row.compile_seconds > 0
    share = row.of_convolutions(0.5)
    np.testing.assert_allclose(share * 0.5, row.gflop / row.milliseconds[0])


def test_an_ablated_model_has_fewer_stages(renderer):
    reta = renderer.reta.clone(motion_encoder=None, motion_decoder=None)
    without = Renderer(reta, renderer.params, renderer.morphable)
    names = {stage.name for stage in stages(without, 1, whole_program(without, 1))}
    assert not names & {"motion decoder", "3DMM bridge", "motion encoder"}


def test_the_command_prints_and_writes(weights, tmp_path, capsys):
    out = tmp_path / "report.json"
    main(["--checkpoint", str(weights), "--repeats", "1", "--chunk", "2", "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["chunk"] == 2 and report["device"].startswith(jax.devices()[0].device_kind)
    printed = capsys.readouterr().out
    assert "end to end" in printed and "Not counted: reading" in printed


def test_figures_are_printed_whole(monkeypatch, capsys):
    """In a small window, too: the largest that they may be."""
    monkeypatch.setenv("COLUMNS", "80")
    row = dict.fromkeys(("gflop", "megabytes", "frames_per_second", "compile_seconds"), 25_300.4)
    row |= {
        "of_convolutions": 0.123,
        "of_copies": 0.456,
        "milliseconds": [1_234_567.0, 999.9, 999.4],
    }
    names = "device", "jax", "size", "dtype", "batch", "chunk", "repeats", "counted"
    report = dict.fromkeys(names, "") | {"ceilings": {"conv": 1234.5}}
    report |= {"memory_megabytes": None, "device_megabytes": None}
    timing.print_report(report | {"stages": [row | {"name": "emotion student"}]})
    printed = capsys.readouterr().out
    assert "conv: 1,234\n" in printed and "…" not in printed
    figures = [*["25,300"] * 2, "1,234,567", "1,000", "999", "25,300", "0.123", "0.456", "25,300"]
    assert next(x for x in printed.splitlines() if "student" in x).split()[2:] == figures


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--batch", "0"], "--batch and --repeats are 1 or more"),
        (["--out", "none/x.json"], "cannot write none/x.json: none is no folder"),
        (["--out", "folder"], "cannot write folder: it is a folder"),
        (["--stage", "generator", "lips"], "no stage lips"),
        (["--live", "nan"], "--live nan: give 0.1 minutes or more"),
        (["--live", "inf"], "--live inf: give"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(
    weights, tmp_path, capsys, monkeypatch, wrong, sentence
):
    monkeypatch.setattr(timing, "measure", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit) as caught:
        main(["--checkpoint", str(weights), *wrong])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
