"""Several devices, micro-batches and recomputation compute what one device does at once.

worker.py runs them all; here is what must be true of what it found.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quickly_compiled")]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("worker") / "found.json"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/multidevice/worker.py"), str(path)],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(path.read_text())


def test_every_loss_is_compared_that_is_a_mean_over_clips(found):
    assert set(found["losses"]) >= {
        "l1", "motion", "prior", "emotion_visual", "emotion_audio",
        "adversarial", "discriminator", "r1", "total", "grad_norm",
    }  # fmt: skip


# Losses of three steps, gradients of the first (opt_state), and what the three left.
TOLERANCES = {
    "losses": 1e-5, "opt_state": 1e-4, "d_opt_state": 1e-4, "params": 1e-5, "d_params": 1e-5,
    "ema": 1e-5,
}  # fmt: skip


@pytest.mark.parametrize("variant", ["four devices", "accumulated", "computed again"])
@pytest.mark.parametrize("name", TOLERANCES)
def test_it_is_the_step_of_one_device(found, variant, name):
    """Four devices; two micro-batches on each of two; blocks computed again, on one."""
    assert found[variant][name] < TOLERANCES[name]


@pytest.mark.parametrize("name", ["params", "d_params", "ema"])
def test_three_steps_move_far_more_than_that(found, name):
    assert found[f"{name}_moved"] > 1e-3


def test_every_parameter_has_a_gradient(found):
    """Only the discriminator's last bias has none: its loss sees differences."""
    assert (found["opt_state_zero"], found["d_opt_state_zero"]) == (0, 1)


def test_emotions_are_swapped_within_a_device(found):
    """4 devices of 2 clips each equal the mean of what pmap computes of each pair alone."""
    assert "emotion_cross" in found["eds_losses"]
    assert found["eds_difference"] < 1e-4 < 1e-1 < found["eds_devices_differ"]


def test_devices_exchange_means_alone(found):
    assert found["four devices"]["all_gathers"] == found["eds_moves"] == 0
    assert found["four devices"]["all_reduces"] > 0


def test_devices_exchange_gradients_once_a_step(found):
    accumulated = found["accumulated"]
    assert accumulated["loops"] >= found["one device"]["loops"] + 2  # one for each side
    assert accumulated["all_reduces"] > 0 and accumulated["all_reduces_of_loops"] == 0


@pytest.mark.parametrize("name", ["emotion_fan", "identity_net"])
def test_an_experts_step_is_that_of_one_device(found, name):
    """Batch statistics and contrasts are of the whole batch."""
    assert found[name]["figures"] < 1e-5 and found[name]["stats"] < 1e-5
    assert found[name]["gradient"] < 1e-4 and found[name]["all_reduces"] > 0
    assert (found[name]["stats_moved"] > 1e-2) == (name == "emotion_fan")


def test_blocks_are_computed_again(found):
    assert found["computed again"]["convolutions"] > found["one device"]["convolutions"]


@pytest.mark.parametrize("variant", ["accumulated", "computed again"])
def test_norms_are_of_the_mean_gradients_leaves(found, variant):
    assert found[variant]["norms"] < 1e-4


def test_batches_that_do_not_divide_are_refused_with_the_numbers(found):
    assert found["refused_6"] == "train.batch_size=6 does not divide over 4 devices"
    assert "2 clips on each; train.batch_size=4 gives 1" in found["refused_4"]
