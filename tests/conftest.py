"""Every test runs on CPU, with warnings as errors and silent broadcasting of ranks forbidden."""

import os
import signal

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
from absl import flags

jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which only a command parses.
# A shell's background jobs ignore Ctrl-C, and so would every process that a test sends one to.
signal.signal(signal.SIGINT, signal.default_int_handler)
