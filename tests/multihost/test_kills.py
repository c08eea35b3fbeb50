"""A run that is killed at any moment goes on, and ends as if nothing had been."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("RETA_KILLS", "4"))


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path):
    """SIGKILL while a checkpoint is written and at other moments: bit for bit the same weights."""
    script = Path(__file__).parent / "kills.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(KILLS)], capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    total = json.loads(done.stdout.splitlines()[-1])
    assert total["kills"] == KILLS and total["differ"] == [] and total["arrays"] > 100
    assert total["while_saving"] >= KILLS // 4  # otherwise it tests little
    assert total["went_on"] >= KILLS // 2
    assert total["steps"] >= 3 + KILLS // 2  # each of those left a checkpoint
