"""Two processes of two devices train as one of four, and what they leave goes on anywhere."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.prepare import prepare_synthetic
from reta_jax import parallel

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
# The losses that are left out are means over clips as L1 is, and take minutes to compile.
SETTINGS = {
    "train.batch_size": 8, "train.adversarial_start": 1_000, "train.eds": False, "loss.sync": 0.0,
    "loss.perceptual": 0.0, "loss.emotion": 0.0, "train.save_every": 3, "train.decay": False,
    "train.preview_every": 2, "train.expected_devices": 4, "model.audio_encoder.mel.layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(folder, identities=4, clips_per_identity=2, seconds=1, size=32, workers=1)
    return folder


def start(data: Path, workdir: Path, devices: int, *extra: str, **changes) -> subprocess.Popen:
    settings = {**SETTINGS, "data.dirs": f"('{data}',)"} | changes
    arguments = [f"--config.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "reta_jax.train", "--config=configs/synthetic.py:smoke"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *arguments, *extra],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def start_two(data: Path, workdir: Path, **changes) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        start(
            data, workdir, 2,
            f"--coordinator={address}", "--num_processes=2", f"--process_id={i}", **changes,
        )
        for i in range(2)
    ]  # fmt: skip


def finish(*processes: subprocess.Popen) -> tuple[list[int], str]:
    printed = [process.communicate(timeout=600)[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(printed)


def losses(workdir: Path) -> dict[int, dict[str, float]]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = "l1", "motion", "prior", "total", "grad_norm"
    return {row["step"]: {name: row[name] for name in names} for row in rows}


def test_two_hosts_are_one_machine_and_resume_as_one(data, tmp_path):
    """Three steps on two hosts, then three more of the same run on one: as six on one."""
    codes, printed = finish(start(data, tmp_path / "one", 4, **{"train.steps": 6}))
    assert codes == [0], printed
    codes, printed = finish(*start_two(data, tmp_path / "two", **{"train.steps": 3}))
    assert codes == [0, 0], printed
    assert printed.count("step 3/3") == 1  # process 0 alone reports
    codes, printed = finish(start(data, tmp_path / "two", 4, **{"train.steps": 6}))
    assert codes == [0] and "going on from step 3" in printed, printed
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert set(one) == set(two) == set(range(1, 7))
    for step in one:
        ours, theirs = (np.array(list(rows[step].values())) for rows in (two, one))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, err_msg=f"step {step}")


def test_a_signal_to_one_host_saves_one_step_on_all(data, tmp_path):
    endless = {"train.steps": 100_000, "train.preview_every": 100_000}
    processes = start_two(data, tmp_path / "run", **endless)
    rows, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 600
    try:
        while not (rows.exists() and rows.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.2)
        processes[1].send_signal(signal.SIGTERM)
        codes, printed = finish(*processes)
    finally:
        for process in processes:
            process.kill()
    assert codes == [75, 75], printed
    saved = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved[-1] % 10 == 0  # where processes ask each other


# In one process


def test_arguments_of_a_job_come_together():
    with pytest.raises(InputError, match="together, or none"):
        parallel.join_cluster("auto", "localhost:1", None, 0)


def test_a_single_process_joins_nothing(monkeypatch):
    for name in parallel.CLUSTER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    called = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *a, **k: called.append(a))
    parallel.join_cluster("auto")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    parallel.join_cluster("off")
    assert not called
    parallel.join_cluster("auto")
    assert called == [(None, None, None)]


def test_a_job_that_does_not_come_together_is_a_sentence(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("Deadline exceeded\nand a wall of text")

    monkeypatch.setattr("jax.distributed.initialize", fail)
    with pytest.raises(InputError, match="did not come together: Deadline exceeded$"):
        parallel.join_cluster("on")
