"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_swap(output: Path) -> Iterator[Path]:
    """A folder to fill beside ``output``; it takes its place and name at the end, and is removed on failure.

    Whether an existing ``output`` may be replaced is the caller's to check.

    Args:
        output: the folder to make or to replace.
    """
    # What an earlier process left when it was killed; in containers it often had this one's number
    for left in (*output.parent.glob(f"{output.name}.unfinished-*"), *output.parent.glob(f"{output.name}.replaced-*")):
        shutil.rmtree(left, ignore_errors=True)
    unfinished = output.with_name(f"{output.name}.unfinished-{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if output.exists():
            replaced = output.with_name(f"{output.name}.replaced-{os.getpid()}")
            output.rename(replaced)
            unfinished.rename(output)
            shutil.rmtree(replaced)
        else:
            unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
