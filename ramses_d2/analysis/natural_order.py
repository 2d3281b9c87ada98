"""File names in the order people give them: frame_2 before frame_10."""

from __future__ import annotations

import re
from pathlib import Path


def natural_key(path: str | Path) -> tuple[list[str | int], str]:
    """Sort key: numbers by value, letters whatever their case, and the plain text where these are equal."""
    # Text and numbers take turns, beginning with text, so that like is compared with like
    pieces = re.split(r"(\d+)", str(path).casefold())
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], str(path)
