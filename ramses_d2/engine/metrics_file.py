"""metrics.json of a run that goes on from a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from .evaluation_hook import RESULT


def forget_steps(path: Path, start: int, *, longer: bool = False) -> None:
    """Take out the lines of steps that a resumed run does again, and a line that a kill cut off.

    The file is shortened in place, since Detectron2's writer has it open for appending.

    Args:
        path: of Detectron2's JSONWriter, one JSON object per line; need not exist.
        start: the first step that runs again.
        longer: the run had ended before this step, and is made longer now. Detectron2 counts the evaluation at the end
            of a training as one step later; its line is kept.
    """
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    figures = [_figures(line) for line in lines]
    kept = [of["iteration"] < start or (longer and of["iteration"] == start and _is_last(of)) for of in figures]
    if all(kept):
        return
    first = kept.index(False)
    os.truncate(path, sum(map(len, lines[:first])))
    # An evaluation is written after later steps where it ended later: few lines, if any
    with path.open("ab") as stream:
        stream.write(b"".join(line for line, keep in zip(lines[first:], kept[first:], strict=True) if keep))


def _is_last(figures: Mapping[str, float]) -> bool:
    """Whether they are of an evaluation at the end of a training: all others are in one line with losses."""
    return "total_loss" not in figures and any(RESULT.search(name) for name in figures)


def _figures(line: bytes) -> dict[str, float]:
    """Those of a line; its iteration is infinite where it is not whole."""
    try:
        figures = json.loads(line) if line.endswith(b"\n") else {}
        return {"iteration": float("inf"), **figures}
    except (ValueError, TypeError):
        return {"iteration": float("inf")}
