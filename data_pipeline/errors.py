"""The one exception for input that a person can put right."""


class InputError(ValueError):
    """Bad input from a user: the message is one sentence that says what, where and what to do.

    Commands print the message and leave with exit code 2, without a traceback.
    """


class MissingError(InputError):
    """A raw file is not there, or the system cannot read it; the next run may find it."""
