"""Micro-batches and recomputation change what a step needs, not what it computes."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quickly_compiled")]


@pytest.fixture(scope="module")
def found(run_worker):
    return run_worker("micro_worker.py", devices=2)


# Losses of two steps, gradients of the first (opt_state), and what the two left.
TOLERANCES = {
    "losses": 1e-5, "opt_state": 1e-4, "d_opt_state": 1e-4, "params": 1e-5, "d_params": 1e-5,
    "ema": 1e-5,
}  # fmt: skip


@pytest.mark.parametrize("variant", ["accumulated", "computed_again"])
@pytest.mark.parametrize("name", TOLERANCES)
def test_it_is_the_step_of_the_whole_batch(found, variant, name):
    """Two micro-batches on each of two devices, or blocks computed again, on one: as the plain."""
    assert set(found["terms"]) >= {"l1", "adversarial", "discriminator", "r1", "emotion_visual"}
    assert found[variant][name] < TOLERANCES[name] < 1e-3 < found["moved"]


def test_devices_exchange_gradients_once_a_step(found):
    assert found["accumulated_loops"] > found["computed_again_loops"]  # one for each side
    assert found["accumulated_all_reduces"] > 0
    assert found["accumulated_all_reduces_of_loops"] == 0


def test_blocks_are_computed_again(found):
    assert found["computed_again_convolutions"] > found["whole_convolutions"]


@pytest.mark.parametrize("variant", ["accumulated", "computed_again"])
def test_norms_are_of_the_mean_gradients_leaves(found, variant):
    assert found[f"{variant}_norms"] < 1e-4
