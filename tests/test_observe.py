"""What a run tells of itself: times, slow processes, memory, signs of life, traces."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.errors import InputError
from reta_jax import observe


class Clock:
    """A time that passes when it is told to."""

    def __init__(self):
        self.now = 1_000.0

    def monotonic(self):
        return self.now

    time = monotonic


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(observe, "time", clock)
    return clock


class TwoHosts(observe.Hosts):
    """This process, and another that took ten times as long and as much."""

    def gather(self, ours):
        return {f"{name}/{i}": [1, 10][i] * value for name, value in ours.items() for i in range(2)}


def test_a_lap_tells_rate_waiting_and_own_time(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(observe, "device_peak", lambda: 3.0)
    progress = observe.Progress(steps=100, batch_size=8, hosts=TwoHosts(tmp_path))
    clock.now += 60  # compilation
    peaks = {"device_peak_gb": 30.0, "device_peak_gb/0": 3.0, "device_peak_gb/1": 30.0}
    assert progress.lap(1) == peaks
    waits = {"data": 2.0, "devices": 14.0, "processes": 1.0, "pictures": 1.0}
    for what, seconds in waits.items():
        with progress.waiting_for(what):
            clock.now += seconds
    clock.now += 2  # its own work
    rates = progress.lap(11)
    expected = {
        "clips_per_second": 4.0, "step_seconds": 2.0, "data_wait_share": 0.1,
        "eta_minutes": 89 * 2 / 60, "own_seconds/0": 0.4, "data_seconds/0": 0.2,
    }  # fmt: skip
    assert {name: rates[name] for name in expected} == pytest.approx(expected)
    assert peaks.items() <= rates.items()
    assert all(name.startswith(observe.RATES) for name in rates)  # else they pass for losses
    clock.now += 1
    assert progress.lap(12)["data_wait_share"] == 0  # counted anew


def test_the_line_names_the_process_that_holds_up_the_others(capsys, tmp_path):
    (tmp_path / "1.json").write_text('{"host": "node7"}')
    progress = observe.Progress(steps=100, batch_size=8, hosts=TwoHosts(tmp_path))
    rates = {"clips_per_second": 4.0, "step_seconds": 2.0, "data_wait_share": 0.1,
             "eta_minutes": 3.0, "device_peak_gb": 5.25}  # fmt: skip
    both = {"own_seconds/0": 0.05, "own_seconds/1": 1.5, "data_seconds/0": 0.0,
            "data_seconds/1": 1.25, "device_peak_gb/0": 3.0, "device_peak_gb/1": 5.25}  # fmt: skip
    progress.show(11, "l1 0.5", rates | both)
    progress.show(12, "l1 0.5", rates)
    first, second = capsys.readouterr().out.splitlines()
    line = "step 11/100 | l1 0.5 | 4.0 clips/s, data wait 10 %, ETA 3.0 min | 5.2 GB"
    assert second == line.replace("11", "12")
    assert first == line + (
        " on process 1 (node7)"
        " | process 1 (node7) is slow: 1.50 s a step of its own, 1.25 of it for data; others 0.05"
    )


@pytest.mark.parametrize(
    ("own_seconds", "expected"),
    [
        ([0.1, 0.1, 0.5, 0.1], 2),
        ([0.1, 0.1, 0.15, 0.1], None),  # less than twice as long as the others
        ([0.001, 0.001, 0.01, 0.001], None),  # too little of a step to matter
        ([0.5], None),
        ([0.1, 0.9], 1),
        ([0.0, 0.0, 0.4], 2),
    ],
)
def test_the_slowest_is_far_from_the_others_and_matters(own_seconds, expected):
    assert observe.slowest(np.array(own_seconds), step_seconds=1.0) == expected


def test_one_process_has_nothing_to_compare(tmp_path, monkeypatch):
    hosts = observe.Hosts(tmp_path)
    assert hosts.gather({"own_seconds": 1.0}) == {}
    assert hosts.warning({"step_seconds": 1.0}) == hosts.fullest({"device_peak_gb": 1.0}) == ""
    progress = observe.Progress(steps=100, batch_size=8, hosts=hosts)
    assert progress.lap(1) == {}  # a CPU does not tell its memory
    monkeypatch.setattr(observe, "device_peak", lambda: 3.0)
    assert progress.lap(1) == {"device_peak_gb": 3.0}


def test_what_a_process_cannot_say_is_left_out(tmp_path, monkeypatch):
    others = np.float32([5.0, np.nan])
    together = lambda ours: np.stack([ours, others])
    monkeypatch.setattr(observe.multihost_utils, "process_allgather", together)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    found = observe.Hosts(tmp_path).gather({"own_seconds": 0.5, "device_peak_gb": 3.0})
    assert found == {"own_seconds/0": 0.5, "device_peak_gb/0": 3.0, "own_seconds/1": 5.0}


def test_memory_is_that_of_the_fullest_device_if_devices_know(monkeypatch):
    def devices(*stats):
        found = [types.SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
        monkeypatch.setattr(jax, "local_devices", lambda: found)

    devices({"peak_bytes_in_use": 2e9}, {"peak_bytes_in_use": 3e9})
    assert observe.device_peak() == 3.0
    devices(None, {})
    assert np.isnan(observe.device_peak())


def test_heartbeats_are_whole_seldom_and_end_with_the_reason(clock, tmp_path):
    path = tmp_path / "heartbeat/0.json"
    read = lambda: json.loads(path.read_text())
    with pytest.raises(ZeroDivisionError), observe.Heartbeat(path.parent, step=5) as heartbeat:
        assert (read()["step"], read()["state"]) == (5, "compiling")
        clock.now += observe.BEAT_SECONDS
        heartbeat.beat(6)
        assert (read()["step"], read()["state"], read()["time"]) == (6, "training", clock.now)
        clock.now += observe.BEAT_SECONDS / 2
        heartbeat.beat(7)
        assert read()["step"] == 6
        raise ZeroDivisionError
    assert (read()["step"], read()["state"]) == (7, "failed: ZeroDivisionError")
    assert [child.name for child in path.parent.iterdir()] == ["0.json"]


def test_a_heartbeat_that_cannot_be_written_stops_nothing(tmp_path):
    folder = tmp_path / "heartbeat"
    with observe.Heartbeat(folder, step=0) as heartbeat:
        (folder / "0.tmp").mkdir()
        heartbeat.beat(1)


def test_a_trace_holds_the_steps_that_are_left_on_going_on(tmp_path, capsys):
    """A run that goes on at step 3 traces 3 and 4 of 2:4; one that ends early leaves a trace."""
    for name, last in (("resumed", 5), ("ended", 3)):
        with observe.Profile(tmp_path / name, range(2, 5)) as profile:
            for step in range(3, last + 1):
                with profile.begin(step):
                    result = jnp.ones(3) + step
                profile.end(step, result)
        assert len(list((tmp_path / name / "0").rglob("*.xplane.pb"))) == 1
    assert capsys.readouterr().out.count("trace of steps 2:4") == 2
    with observe.Profile(tmp_path / "none", None) as profile, profile.begin(1):
        pass
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["", "10", "10:", "a:b", "15:10", "0:3", "1:2:3", "-1:3"])
def test_steps_to_trace_are_a_first_and_a_last(text):
    with pytest.raises(InputError, match="--profile_steps is .*as in 10:15"):
        observe.parse_steps(text)


def test_steps_to_trace():
    assert observe.parse_steps("10:15") == range(10, 16)
    assert observe.parse_steps("3:3") == range(3, 4)
    assert observe.parse_steps(None) is None
