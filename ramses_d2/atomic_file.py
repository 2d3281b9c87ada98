"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Another name beside ``path`` to write to; it takes the place of ``path`` at the end, and goes on failure.

    Two processes that write the same file have different names, so the later one wins whole.
    """
    unfinished = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """A stream whose content takes the place of ``path`` at the end; on failure nothing of it stays.

    Args:
        path: of the file.
        mode: "w" (UTF-8) or "wb".
        options: of ``open``.
    """
    with (
        atomic_path(path) as unfinished,
        unfinished.open(mode, encoding=None if "b" in mode else "utf-8", **options) as stream,
    ):
        yield stream
