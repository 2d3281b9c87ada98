"""metrics.json of a run that goes on from a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path


def forget_steps(path: Path, start: int) -> None:
    """Take out the lines of steps that a resumed run does again, and a line that a kill cut off.

    The file is shortened in place, since Detectron2's writer has it open for appending.

    Args:
        path: of Detectron2's JSONWriter, one JSON object per line; need not exist.
        start: the first step that runs again.
    """
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [_iteration(line) < start for line in lines]
    if all(kept):
        return
    first = kept.index(False)
    os.truncate(path, sum(map(len, lines[:first])))
    # An evaluation is written after later steps where it ended later: few lines, if any
    with path.open("ab") as stream:
        stream.write(b"".join(line for line, keep in zip(lines[first:], kept[first:], strict=True) if keep))


def _iteration(line: bytes) -> float:
    """Step of a line; infinite where it is not whole."""
    try:
        return json.loads(line)["iteration"] if line.endswith(b"\n") else float("inf")
    except (ValueError, LookupError, TypeError):
        return float("inf")
