"""Every test runs on CPU, with warnings as errors and silent broadcasting of ranks forbidden."""

import os
import signal

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from absl import flags

from tests.recorder import Recorder

jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which only a command parses.
# A shell's background jobs ignore Ctrl-C, and so would every process that a test sends one to.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def drawn(monkeypatch):
    """Runs `train.run` and returns the batches that it drew."""
    from reta_jax import train  # defines a flag that not every test's process may have

    def run(config, workdir):
        recorders = []

        def open_batches(config):
            recorders.append(Recorder(original(config)))
            return recorders[0]

        original = train.open_batches
        with monkeypatch.context() as patch:
            patch.setattr(train, "open_batches", open_batches)
            assert train.run(config, workdir)
        return recorders[0].drawn

    return run
