"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import RamsesError


@contextmanager
def folder_swap(output: Path) -> Iterator[Path]:
    """A folder to fill beside ``output``; it takes its place and name at the end, and is removed on failure.

    Whether an existing ``output`` may be replaced is the caller's to check. A link stays one and leads to the new
    folder. Two processes may write the same folder: the later one wins whole.

    Args:
        output: the folder to make or to replace.

    Raises:
        RamsesError: ``output`` is the working directory, and not empty.
    """
    output = output.resolve()
    _tidy_up(output)
    # Who stands in a folder would go away with it: it stays, and what was made moves in
    is_here = output.is_dir() and output.samefile(os.curdir)
    if is_here and any(output.iterdir()):
        raise RamsesError(f"{output} is the working directory: change to another one before it is replaced")
    unfinished, replaced = (_beside(output, kind, os.getpid()) for kind in ("unfinished", "replaced"))
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if is_here:
            for path in sorted(unfinished.iterdir()):
                path.rename(output / path.name)
        else:
            with suppress(FileNotFoundError):  # there is none, or another process is replacing it
                output.rename(replaced)
            unfinished.rename(output)
    finally:
        _tidy_up(output)


def _beside(output: Path, kind: str, process: int) -> Path:
    """A name that nobody but this module gives."""
    return output.with_name(f"{output.name}.ramses-{kind}-{process}")


def _tidy_up(output: Path) -> None:
    """Remove what this process, or one that was killed, left beside ``output``; put back what it had only put away."""
    pattern = re.compile(re.escape(output.name) + r"\.ramses-(unfinished|replaced)-(\d{1,9})")
    names = sorted(os.listdir(output.parent), reverse=True) if output.parent.is_dir() else []
    for found in filter(None, map(pattern.fullmatch, names)):
        kind, process = found[1], int(found[2])
        # In containers, a process that was killed often had this one's number
        if process != os.getpid() and _is_running(process):
            continue
        left = output.with_name(found[0])
        with suppress(FileNotFoundError):  # another process does the same
            if kind == "replaced" and not output.exists():
                left.rename(output)
                continue
            if kind == "replaced":  # half removed, it must not be put back
                left = left.rename(_beside(output, "unfinished", process))
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
