"""Small images and sources for the tests of the formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ramses_d2.data.convert.common import Source, SourceImage

EXIF_ORIENTATION = 0x0112


def save_image(path: Path, height: int, width: int, orientation: int = 1) -> Path:
    """A grey image of the stored size, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.full((height, width, 3), 90, dtype=np.uint8))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    image.save(path, exif=exif)
    return path


def read_labels(folder: Path, name: str) -> np.ndarray:
    """A label image of a RAMSES folder, which has 16 bits."""
    with Image.open(folder / "labels" / f"{name}.png") as image:
        assert image.mode == "I;16"
        return np.asarray(image).astype(int)


def make_source(
    path: Path, label_map: np.ndarray, classes: str | list[str], resolution: float = np.nan, **columns: Any
) -> Source:
    """A source of one image, whose values are its objects in rising order."""
    objects = pd.DataFrame({"label": [v for v in np.unique(label_map) if v], "class": classes, **columns})
    image = SourceImage(path.stem, path, label_map, objects, resolution)
    return Source("somewhere", sorted({*objects["class"]}), [image], 1)
