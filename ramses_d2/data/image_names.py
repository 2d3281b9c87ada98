"""What tables and JSON files may call an image: its file name, with or without folder and extension."""

from __future__ import annotations

from collections.abc import Container

import pandas as pd

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


def base_name(name: str) -> str:
    """File name of an image without folder and extension; a name without extension may have dots."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else last


def base_names(column: pd.Series, known: Container[str]) -> pd.Series:
    """Base names of a column of names; one in ``known`` is such already, whatever it looks like ("a.tif" of a.tif.png).

    Args:
        column: names of images.
        known: base names of the images that there are.
    """
    return column.map(lambda name: name if name in known else base_name(name)).astype(object)
