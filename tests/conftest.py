"""Every test runs on CPU, with warnings as errors and silent broadcasting of ranks forbidden."""

import os
import shutil
import signal
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# A program is compiled once in each of pytest's processes and the commands that it starts. Not in
# all of them: JAX writes an entry in place, and another process might read half of it.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="reta_jax_tests_")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from absl import flags

from reta_jax.commands import PORTABLE_CACHE
from tests.recorder import Recorder

jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which only a command parses.
# A shell's background jobs ignore Ctrl-C, and so would every process that a test sends one to.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure():
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="module")
def quickly_compiled():
    """For modules that mostly compile, and whose numbers do not depend on how well that is done.

    What the commands that they start compile and what this process does is found by both. It is
    forgotten behind them: other modules compare frames bit by bit.
    """
    settings = PORTABLE_CACHE | {"jax_disable_most_optimizations": True}
    before = {name: jax.config.values[name] for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        for name in settings:
            jax.config.update(name, settings[name])
        yield
        for name in settings:
            jax.config.update(name, before[name])
    jax.clear_caches()


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
