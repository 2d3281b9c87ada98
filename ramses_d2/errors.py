"""The one exception that means "the input is wrong, not the program"."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class RamsesError(ValueError):
    """Wrong input: a file, column, class, size or config key.

    The message is one line: what is wrong, in which file and row, and what to do.
    """


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End a command line with one line on stderr and exit status 1 when the input is wrong.

    A data-loader worker re-raises a :class:`RamsesError` with the worker's traceback in front of the
    message; the user still gets the message alone.
    """
    try:
        yield
    except RamsesError as error:
        message = str(error).strip().splitlines()[-1]
        sys.exit(f"error: {message.removeprefix(f'{__name__}.{RamsesError.__name__}: ')}")
