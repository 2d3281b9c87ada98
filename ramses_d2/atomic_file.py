"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_file(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """A stream whose content takes the place of ``path`` at the end; on failure nothing of it stays.

    Args:
        path: of the file.
        mode: "w" (UTF-8) or "wb".
        options: of ``open``.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open(mode, encoding=None if "b" in mode else "utf-8", **options) as stream:
            yield stream
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
