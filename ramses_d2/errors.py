"""The one exception that means "the input is wrong, not the program"."""

from __future__ import annotations

import errno
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


def is_full_disk(error: BaseException | None) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_is_one_line(hint: str) -> Iterator[None]:
    """Turn the error of a full disk into a line that says what to do."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise RamsesError(f"{where}{error.strerror}; {hint}") from error


@contextmanager
def file_errors_are_one_line() -> Iterator[None]:
    """Turn an error of the system about a file or folder into a line that names it."""
    try:
        with full_disk_is_one_line("make room and try again"):
            yield
    except OSError as error:
        if error.filename is None:  # of no file: a fault of the program, or of a connection
            raise
        raise RamsesError(f"{error.filename}: {error.strerror or type(error).__name__}") from error


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End a command line with one line on stderr and exit status 1: wrong input, or a file that cannot be used."""
    try:
        with file_errors_are_one_line():
            yield
    except RamsesError as error:
        sys.exit(f"error: {one_line(error)}")
