"""The one exception for input that a person can put right."""


class InputError(ValueError):
    """Bad input from a user: the message is one sentence that says what, where and what to do.

    Commands print the message and leave with exit code 2, without a traceback.
    """


class MissingError(InputError):
    """A raw file that the data set should have is not there; it may be by the next run."""
