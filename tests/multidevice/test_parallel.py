"""4 devices compute what 1 computes: worker.py runs both, here is what must be true of it."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quickly_compiled")]


@pytest.fixture(scope="module")
def found(run_worker):
    return run_worker("worker.py", devices=4)


def test_losses_are_those_of_one_device(found):
    assert set(found["losses"]) >= {
        "l1", "motion", "prior", "emotion_visual", "emotion_audio",
        "adversarial", "discriminator", "r1", "total", "grad_norm",
    }  # fmt: skip


TOLERANCES = {
    "losses": 1e-5, "opt_state": 1e-4, "d_opt_state": 1e-4, "params": 1e-5, "d_params": 1e-5,
    "ema": 1e-5,
}  # fmt: skip


@pytest.mark.parametrize("name", TOLERANCES)
def test_one_device_computes_the_same(found, name):
    """Losses of three steps, gradients of the first (opt_state), and what the three left."""
    assert found["apart"][name] < TOLERANCES[name]


@pytest.mark.parametrize("name", ["params", "d_params", "ema"])
def test_three_steps_move_far_more_than_that(found, name):
    assert found[f"{name}_moved"] > 1e-3


def test_every_parameter_has_a_gradient(found):
    """Only the discriminator's last bias has none: its loss sees differences."""
    assert (found["opt_state_zero"], found["d_opt_state_zero"]) == (0, 1)


def test_pmap_with_a_mean_of_gradients_gives_the_same(found):
    assert found["pmap_difference"] < 1e-4


def test_emotions_are_swapped_within_a_device(found):
    """4 devices of 2 clips each equal the mean over the 4 pairs, computed one after another."""
    assert "emotion_cross" in found["eds_losses"]
    assert found["eds_difference"] < 1e-4 < 1e-1 < found["eds_slices_differ"]


def test_devices_exchange_means_alone(found):
    assert found["all_gathers"] == found["eds_moves"] == 0
    assert found["all_reduces"] > 0


def test_batches_that_do_not_divide_are_refused_with_the_numbers(found):
    assert found["refused_6"] == "train.batch_size=6 does not divide over 4 devices"
    assert "2 clips on each; train.batch_size=4 gives 1" in found["refused_4"]
