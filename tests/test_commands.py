"""Sentences and exit codes."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from data_pipeline.errors import InputError, TransientError
from reta_jax import benchmark, commands, evaluate, export, render
from reta_jax.commands import DivergenceError, sentences_for_errors

REPOSITORY = Path(__file__).parents[1]


def leave(error: BaseException) -> int | str | None:
    with pytest.raises(SystemExit) as caught, sentences_for_errors():
        raise error
    return caught.value.code


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("a.png is not a file: give one."), 2, "a.png is not a file: give one."),
        (InputError("two\n  lines"), 2, "two lines"),
        (TransientError("another run works here"), 74, "another run works here"),
        (OSError(errno.ENOSPC, "full", "/out/a"), 74, "the disk is full: cannot write /out/a"),
        (OSError(errno.EDQUOT, "quota"), 74, "the disk is full: cannot write the output"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_and_a_code(capsys, error, code, sentence):
    assert leave(error) == code
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"error: {sentence}\n")


def test_training_that_diverged_is_one_line_and_code_70(capsys):
    assert leave(DivergenceError("l1 is not finite at step 3")) == 70
    assert capsys.readouterr() == ("", "error: l1 is not finite at step 3\n")


def test_an_interruption_is_code_130_without_a_word(capsys):
    assert leave(KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [ValueError("a bug"), OSError(errno.EIO, "broken"), PermissionError(errno.EACCES, "no")],
)
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)) as caught, sentences_for_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend")])
@pytest.mark.parametrize("command", [render, export, benchmark, evaluate])
def test_a_device_that_is_not_there_is_a_sentence(command, error, tmp_path, monkeypatch, capsys):
    """Before anything is loaded: neither the model nor the files are there."""

    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    files = ["--image=none.png", "--audio=none.wav"] if command is render else []
    with pytest.raises(SystemExit) as left:
        command.main([*files, "--checkpoint=none", f"--out={tmp_path / 'out'}"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: there is no cpu device here, or no JAX for")


@pytest.mark.parametrize("home", ["/home/me", None])
def test_programs_are_kept_in_the_users_cache_if_there_is_one(home, monkeypatch):
    set_to = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": ""} | ({"HOME": home} if home else {}))
    monkeypatch.setattr(os, "getuid", lambda: 987_654)  # of whom the system knows no home
    commands.set_up_xla()
    folder = set_to.get("jax_compilation_cache_dir")
    assert folder == (f"{home}/.cache/reta_jax/xla" if home else None)


def test_nothing_happens_without_an_error(capsys):
    with sentences_for_errors():
        pass
    assert capsys.readouterr() == ("", "")


WRITES = """
import signal, sys
import numpy as np
from data_pipeline.video import VideoWriter
from reta_jax.commands import sentences_for_errors
out, number, before, is_terminable = sys.argv[1], *map(int, sys.argv[2:])
for each in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(each, before)
with sentences_for_errors(bool(is_terminable)), VideoWriter(out, 16, None) as writer:
    writer.write(np.zeros((1, 16, 16, 3), np.uint8))
    signal.raise_signal(number)
assert signal.getsignal(signal.SIGTERM) == before
"""


@pytest.mark.parametrize(
    ("number", "before", "is_terminable", "code", "left"),
    [
        (signal.SIGTERM, signal.SIG_DFL, True, 143, []),
        (signal.SIGHUP, signal.SIG_DFL, True, 129, []),
        (signal.SIGHUP, signal.SIG_IGN, True, 0, ["a.mp4"]),
        (signal.SIGTERM, signal.SIG_DFL, False, -signal.SIGTERM, None),
    ],
    ids=["SIGTERM", "SIGHUP", "nohup", "training"],
)
def test_a_command_that_is_ended_leaves_nothing_half_written(
    tmp_path, number, before, is_terminable, code, left
):
    arguments = [str(tmp_path / "a.mp4"), *(str(int(x)) for x in (number, before, is_terminable))]
    done = subprocess.run(
        [sys.executable, "-c", WRITES, *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert left is None or os.listdir(tmp_path) == left


COMMAND = """
import sys
from absl import flags, logging
from data_pipeline.errors import InputError
from reta_jax.commands import run_with_flags
flags.DEFINE_integer("steps", 1, "")
def main(argv):
    if flags.FLAGS.steps < 0:
        raise InputError("steps is negative: give a positive number.")
    if flags.FLAGS.steps == 5:  # as Orbax does in its threads; what they raise is raised again
        logging.error("[process=%d] _SignalingThread.run() raised an exception: %s", 0, "full")
    if flags.FLAGS.steps == 6:
        logging.error("something else")
    print(flags.FLAGS.steps)
run_with_flags(main)
"""


@pytest.mark.parametrize(
    ("flag", "code", "out", "sentence"),
    [
        ("--steps=3", 0, "3\n", ""),
        ("--steps=-3", 2, "", "steps is negative: give a positive number."),
        ("--steps=many", 2, "", "--steps"),
        ("--stepz=3", 2, "", "stepz"),
        ("--steps=5", 0, "5\n", ""),
        ("--steps=6", 0, "6\n", "something else"),
    ],
)
def test_flags_are_refused_by_a_sentence(flag, code, out, sentence):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, flag], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    if code:
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and sentence in line
    else:
        assert sentence in done.stderr and bool(sentence) == bool(done.stderr)


def test_help_is_no_failure():
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "--help"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "") and "--steps" in done.stdout
