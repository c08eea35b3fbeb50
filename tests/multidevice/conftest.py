"""Workers: scripts that need a number of devices from their start, and write what they found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def run_worker(tmp_path_factory):
    """Runs a script of this folder on so many CPU devices; returns what it wrote as JSON."""

    def run(script: str, devices: int) -> dict:
        path = tmp_path_factory.mktemp("worker") / "found.json"
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, str(ROOT / "tests/multidevice" / script), str(path)],
            env=environment, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-5000:]
        return json.loads(path.read_text())

    return run
