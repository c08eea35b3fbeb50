"""What a person can put right, and what may have passed when the same command is given again."""

import errno

_PASSING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.ENFILE, errno.EAGAIN, errno.EBUSY),
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN),  # storage over a network
}


class InputError(ValueError):
    """Bad input from a user: the message is one sentence that says what, where and what to do.

    Commands print the message and leave with exit code 2, without a traceback.
    """


class TransientError(InputError):
    """No fault of the input's: a full disk, another run in the folder, storage that is silent.

    Commands leave with exit code 74, so that a batch system can try again.
    """


def system_error(sentence: str, cause: OSError) -> InputError:
    """The sentence about a system's refusal: a TransientError if that may pass by itself."""
    return (TransientError if cause.errno in _PASSING else InputError)(sentence)


class MissingError(InputError):
    """A raw file is not there, or the system cannot read it; the next run may find it."""
