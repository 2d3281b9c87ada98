"""The one exception that means "the input is wrong, not the program"."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class RamsesError(ValueError):
    """Wrong input: a file, column, class, size or config key.

    The message is one line: what is wrong, in which file and row, and what to do.
    """


def one_line(error: RamsesError) -> str:
    """The message alone: a data-loader worker puts its traceback in front of it."""
    lines = str(error).strip().splitlines() or ["unknown error"]
    return lines[-1].removeprefix(f"{__name__}.{RamsesError.__name__}: ")


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End a command line with one line on stderr and exit status 1 when the input is wrong."""
    try:
        yield
    except RamsesError as error:
        sys.exit(f"error: {one_line(error)}")
