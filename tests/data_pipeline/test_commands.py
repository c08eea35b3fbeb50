"""Numbers that make no sense, and interruptions, are told by every command alike."""

import errno

import pytest

from data_pipeline import benchmark, inspect, merge, verify
from data_pipeline.commands import exit_code
from data_pipeline.errors import InputError, TransientError, system_error

WRONG = [
    *((benchmark, f"--readers={number}") for number in ("-1", "two")),
    *((benchmark, f"--{name}=0") for name in ("batch", "frames", "size", "seconds", "step-ms")),
    (benchmark, "--seconds=nan"),
    (verify, "--workers=-1"),
    (inspect, "--samples=-3"),
]


@pytest.mark.parametrize(("command", "option"), WRONG)
def test_numbers_that_make_no_sense_are_refused(command, option, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main([str(tmp_path), option])
    assert stopped.value.code == 2
    assert f"{option.partition('=')[2]!r} is not a number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("a"), 2),
        (TransientError("a"), 74),
        (system_error("a", OSError(errno.EACCES, "")), 2),
        (system_error("a", OSError(errno.EROFS, "")), 2),
        (system_error("a", OSError(errno.ENOSPC, "")), 74),
        (system_error("a", OSError(errno.ESTALE, "")), 74),
    ],
)
def test_what_may_pass_by_itself_has_a_code_of_its_own(error, code, capsys):
    def work():
        raise error

    assert exit_code(work) == code
    assert capsys.readouterr().err == "error: a\n"


@pytest.mark.parametrize(
    ("command", "work"),
    [
        (benchmark, "measure_storage"),
        (inspect, "inspect"),
        (merge, "merge"),
        (verify, "verify"),
    ],
)
def test_ctrl_c_ends_a_command_without_a_word(command, work, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, work, interrupt)
    assert command.main([str(tmp_path)]) == 130
    assert capsys.readouterr().err == ""
