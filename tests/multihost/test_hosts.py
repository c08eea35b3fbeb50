"""Two processes of two devices train as one of four, and what they leave goes on in one."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from configs import synthetic
from data_pipeline.errors import InputError
from data_pipeline.lock import alone_in
from data_pipeline.prepare import prepare_synthetic
from reta_jax import last_words, parallel
from reta_jax.batches import open_batches
from reta_jax.checkpoint import load_part
from tests.light import LIGHT, as_flags

ROOT = Path(__file__).parents[2]
# The losses that are left out are means over clips as L1 is, and take minutes to compile.
SETTINGS = LIGHT | {
    "train.batch_size": 4, "train.adversarial_start": 1_000, "train.eds": False,
    "train.save_every": 3, "train.decay": False, "train.preview_every": 1_000_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(folder, identities=4, clips_per_identity=2, seconds=1, size=32, workers=1)
    return folder


@pytest.fixture(scope="module")
def launch(data):
    """Starts a run in a process; all of them compile each program once."""
    command = [sys.executable, "-m", "reta_jax.train", "--config=configs/synthetic.py:smoke"]

    def start(workdir: Path, devices: int, *extra: str, **changes) -> subprocess.Popen:
        settings = SETTINGS | {"data.dirs": f"('{data}',)"} | changes
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # most of the time is compilation
        }
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", *as_flags(settings), *extra],
            cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


def launch_two(launch, workdir: Path, *extra: str, **changes) -> list[subprocess.Popen]:
    return launch_job(launch, [workdir, workdir], *extra, **changes)


def launch_job(launch, workdirs: list[Path], *extra: str, **changes) -> list[subprocess.Popen]:
    job = f"--coordinator=localhost:{free_port()}", f"--num_processes={len(workdirs)}", *extra
    changes = {"train.expected_devices": 2 * len(workdirs)} | changes
    return [
        launch(workdir, 2, *job, f"--process_id={number}", **changes)
        for number, workdir in enumerate(workdirs)
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def finish(*processes: subprocess.Popen) -> tuple[list[int], list[str]]:
    """Exit codes, and what each process printed."""
    printed = [process.communicate(timeout=1200)[0] for process in processes]
    return [process.returncode for process in processes], printed


def wait_until(condition: Callable[[], bool], processes: list[subprocess.Popen]) -> None:
    while not condition():
        assert all(process.poll() is None for process in processes), finish(*processes)
        time.sleep(0.2)


def whole_lines(file: Path) -> list[str]:
    return file.read_text().rpartition("\n")[0].splitlines()


def losses(workdir: Path) -> dict[int, np.ndarray]:
    rows = map(json.loads, whole_lines(workdir / "metrics.jsonl"))
    names = "l1", "prior", "total", "grad_norm"
    return {row["step"]: np.array([row[name] for name in names]) for row in rows}


def saved_steps(workdir: Path) -> list[int]:
    """Of the checkpoints that are whole."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def saved_arrays(workdir: Path, part: str) -> dict[str, np.ndarray]:
    """The numbers of a part of the latest checkpoint, by name."""
    with ocp.training.Checkpointer(workdir.absolute() / "checkpoints") as checkpointer:
        loaded = load_part(checkpointer, checkpointer.latest.step, part)
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(loaded)}


def flip_a_bit(checkpoint: Path) -> None:
    file = max(checkpoint.rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.slow
def test_two_hosts_are_four_devices_and_resume_as_one(launch, tmp_path):
    """Three steps on two hosts, then three more of the same run on one: as six on one."""
    one, two = tmp_path / "one", tmp_path / "two"
    preview = {"train.preview_every": 2}  # on one of two processes
    codes, printed = finish(
        *launch_two(launch, two, **{"train.steps": 3, "train.save_every": 2} | preview)
    )
    assert codes == [0, 0], printed
    assert "step 3/3" in printed[0] and "step 3/3" not in printed[1]
    assert saved_steps(two) == [2, 3]
    for workdir in (one, two):
        codes, printed = finish(launch(workdir, 4, **{"train.steps": 6}))
        assert codes == [0], printed
    assert "going on from step 3" in printed[0]
    ours, theirs = losses(two), losses(one)
    assert set(ours) == set(theirs) == set(range(1, 7))
    for step in ours:
        np.testing.assert_allclose(ours[step], theirs[step], rtol=1e-3, err_msg=f"step {step}")
    for part in ("params", "ema"):
        compare(saved_arrays(two, part), saved_arrays(one, part))


def compare(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Sums in another order round otherwise, and Adam makes whole steps of a gradient near zero.

    In this model nothing differs by more than 3e-6 after six steps; in one of 32 px biases near
    zero did by 0.6 %, and two steps more or less made 80 %.
    """
    assert ours.keys() == theirs.keys() and len(ours) > 100
    for name in ours:
        error = np.linalg.norm(ours[name] - theirs[name])
        assert error <= 0.02 * np.linalg.norm(theirs[name]) + 1e-6, name


@pytest.mark.slow
def test_a_dead_host_a_flipped_bit_and_a_signal_to_one_of_two(launch, tmp_path):
    """Each ends or starts the two processes of one run; all of it is told in a sentence."""
    endless = {"train.steps": 100_000}
    start = functools.partial(launch_two, launch, tmp_path, "--peer_timeout=20", **endless)

    processes = start()
    try:
        wait_until(lambda: len(saved_steps(tmp_path)) == 2, processes)
        processes[1].kill()
        killed = time.monotonic()
        codes, printed = finish(*processes)
        assert time.monotonic() - killed < 120
    finally:
        kill(processes)
    assert codes == [75, -signal.SIGKILL], printed
    (line,) = re.findall("^error: .*", printed[0], re.M)
    assert "process 1 of the job died" in line and "goes on from the last checkpoint" in line
    for noise in ("Traceback", "Check failure", "coordination_service"):
        assert noise not in printed[0]

    *_, before, last = saved_steps(tmp_path)
    flip_a_bit(tmp_path / "checkpoints" / str(last))
    rows = len(whole_lines(tmp_path / "metrics.jsonl"))
    processes = start()
    try:
        wait_until(lambda: len(whole_lines(tmp_path / "metrics.jsonl")) > rows, processes)
        processes[1].send_signal(signal.SIGTERM)
        codes, printed = finish(*processes)
    finally:
        kill(processes)
    assert codes == [75, 75], printed
    for told in printed:
        assert f"going on from step {before} of" in told
    assert f"warning: going back to step {before}: the checkpoint of step {last}" in printed[0]
    assert "warning: going back" not in printed[1]
    assert saved_steps(tmp_path)[-1] % 10 == 0  # where processes ask each other
    assert [path.name for path in (tmp_path / "corrupt_checkpoints").iterdir()] == [str(last)]


def kill(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()


@pytest.mark.slow
def test_a_job_that_cannot_start_is_refused_in_a_sentence(launch, tmp_path):
    """Processes without the others, with folders of their own, and in another run's folder."""
    lonely = [
        launch(
            tmp_path / "lonely", 1, f"--coordinator=localhost:{free_port()}", "--num_processes=2",
            f"--process_id={number}", "--start_timeout=5",
        )
        for number in range(2)
    ]  # fmt: skip
    apart = launch_job(launch, [tmp_path / "a", tmp_path / "b"], "--peer_timeout=20")
    (tmp_path / "held").mkdir()
    with alone_in(tmp_path / "held"):
        late = launch_two(launch, tmp_path / "held", "--peer_timeout=20")
        codes, printed = finish(*lonely, *apart, *late)
        assert os.listdir(tmp_path / "held") == [".lock"]
    assert codes == [2] * 4 + [74] * 2, printed
    for told in printed[:2]:
        (line,) = told.splitlines()
        assert line.startswith("error: the job's processes did not come together")
    for told in printed[2:4]:
        assert told.splitlines()[-1].endswith(
            "is not one folder for all processes: give a shared one"
        )
    for told in printed[4:]:
        assert told.splitlines()[-1].startswith(f"error: another run works in {tmp_path}/held: ")
    assert not (tmp_path / "a/checkpoints").exists()


# How processes end


MEMBER = """
import os, sys
import numpy as np
from data_pipeline.errors import InputError
from reta_jax import parallel
from reta_jax.commands import run_with_flags

number, port, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]

def main(argv):
    with parallel.one_of_several(20):
        parallel.join_cluster("on", f"localhost:{port}", 2, number, 300, 20)
        parallel.any_process(False)
        if what == "all refuse":
            first = parallel.of_the_first({"number": np.float32([number])})
            raise InputError(f"nobody may: {first['number']}")
        if number == 1 - (what == "coordinator killed"):
            if what == "one refuses":
                raise InputError("this one may not")
            if what == "bug":
                raise TypeError("a bug")
            os.kill(os.getpid(), 6 if what == "abort" else 9)
        while True:
            parallel.any_process(False)

sys.argv = sys.argv[:1]
run_with_flags(main)
"""
DEATH = "error: process {} of the job .*: this one stops too; the same command goes on from .*\n"
ENDS = {
    "killed": (75, DEATH.format(1), -9, ""),
    "coordinator killed": (-9, "", 75, DEATH.format(0)),
    "all refuse": (2, r"error: nobody may: \[0.\]\n", 2, r"error: nobody may: \[0.\]\n"),
    "one refuses": (75, DEATH.format(1), 2, "error: this one may not\n"),
    "bug": (75, DEATH.format(1), 1, "Traceback .*TypeError: a bug\n"),
    "abort": (75, DEATH.format(1), -6, "Fatal Python error: Aborted.*"),
}


@pytest.fixture(scope="module")
def ends():
    """Exit codes and standard errors of two processes, for everything in ENDS; at once."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    jobs = {}
    for what in ENDS:
        port = str(free_port())
        jobs[what] = [
            subprocess.Popen(
                [sys.executable, "-c", MEMBER, str(number), port, what],
                env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )
            for number in range(2)
        ]  # fmt: skip
    told = {}
    for what, job in jobs.items():
        errors = [process.communicate(timeout=600)[1] for process in job]
        told[what] = (job[0].returncode, errors[0], job[1].returncode, errors[1])
    return told


@pytest.mark.slow
@pytest.mark.parametrize("what", ENDS)
def test_whatever_ends_one_process_ends_the_other_with_a_sentence(ends, what):
    for found, expected in zip(ends[what], ENDS[what], strict=True):
        if isinstance(expected, int):
            assert found == expected, ends[what]
        else:
            assert re.fullmatch(expected, found, re.S), found


# In one process


LINE = b"E1123 07:44:06.568330   23678 coordination_service_agent.cc:289] Polled an error\n"
PAGE = LINE + last_words._END + b". absl::Status\n*** Check failure stack trace: ***\n   @ 0x7f\n"


@pytest.mark.parametrize(
    ("written", "read", "code"),
    [
        (b"one\ntwo", b"one\ntwo", 0),
        (b"one\n" + LINE + b"two\n", b"one\n" + LINE + b"two\n", 0),
        (b"one\n" + PAGE + b"two\n", b"one\nerror: another process of the job died [^\n]*\n", 75),
        (b"one" + PAGE, b"one\nerror: another process of the job died [^\n]*\n", 75),
    ],
    ids=["words", "an error that is not the end", "the end", "the end, in a line of another's"],
)
def test_only_the_page_of_a_lost_process_is_replaced(written, read, code):
    (source, into), (out, target) = os.pipe(), os.pipe()
    os.write(into, written)
    os.close(into)
    assert last_words.pass_on(source, target) == code
    os.close(target)
    with os.fdopen(out, "rb") as found:
        told = found.read()
    os.close(source)
    assert told == read if code == 0 else re.fullmatch(read, told)


def test_two_hosts_draw_what_one_draws_wherever_they_go_on(data, monkeypatch):
    config = synthetic.get_config("smoke")
    config.data.dirs, config.train.eds = (str(data),), False

    def draw(number, count, state, batches):
        monkeypatch.setattr("jax.process_index", lambda: number)
        monkeypatch.setattr("jax.process_count", lambda: count)
        iterator = open_batches(config)
        iterator.set_state(state)
        drawn = [next(iterator) for _ in range(batches)]
        state = iterator.get_state()
        iterator.close()
        return drawn, state

    first, after_first = draw(0, 1, {"global_next_index": 0}, 2)
    alone, after_alone = draw(0, 1, after_first, 2)
    shares, states = zip(*(draw(i, 2, after_first, 2) for i in range(2)), strict=True)
    assert list(states) == [after_alone] * 2
    for step, batch in enumerate(alone):
        for name in batch:
            ours = np.concatenate([share[step][name] for share in shares])
            np.testing.assert_array_equal(ours, batch[name], err_msg=name)
    assert not np.array_equal(first[0]["audio"], alone[0]["audio"])


def test_arguments_of_a_job_come_together():
    with pytest.raises(InputError, match="together, or none"):
        parallel.join_cluster("auto", "localhost:1", None, 0)


@pytest.fixture
def joined(monkeypatch):
    """What jax was told to join."""
    called = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *a, **k: called.append((a, k)))
    monkeypatch.setattr("reta_jax.last_words.listen", lambda: None)
    for name in parallel.CLUSTER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return called


def test_a_single_process_joins_nothing(joined, monkeypatch):
    parallel.join_cluster("auto")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    parallel.join_cluster("off")
    assert not joined
    parallel.join_cluster("auto", start_seconds=7, peer_seconds=9)
    timeouts = {"initialization_timeout": 7, "heartbeat_timeout_seconds": 9}
    assert joined == [((None, None, None), timeouts)]


def test_what_jax_refuses_of_a_job_is_a_sentence(joined, monkeypatch):
    def fail(*arguments, **options):
        raise ValueError("process_id must be less\nand a wall of text")

    monkeypatch.setattr("jax.distributed.initialize", fail)
    with pytest.raises(InputError, match="together: process_id must be less; say --coord"):
        parallel.join_cluster("on")


@pytest.mark.parametrize(
    "name",
    [
        *("SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri", "PMIX_NAMESPACE"),
        *("JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES", "JAX_COORDINATOR_ADDRESS"),
    ],
)
@pytest.mark.filterwarnings("ignore:Kubernetes environment")
def test_one_of_several_that_jax_cannot_place_does_not_train_alone(name, monkeypatch):
    """By jax's own detection: a launcher that tells one thing only, or that jax does not know."""
    monkeypatch.setattr("reta_jax.last_words.listen", lambda: None)
    for other in parallel.CLUSTER_VARIABLES:
        monkeypatch.delenv(other, raising=False)
    value = "1531576320.0" if name == "OMPI_MCA_orte_hnp_uri" else "1"
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    flags = "--coordinator HOST:PORT --num_processes N --process_id I"
    with pytest.raises(InputError, match=rf"\({name} in the environment\); say {flags} .*=off"):
        parallel.join_cluster("auto")
