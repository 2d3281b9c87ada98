"""Small images for the tests of the formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

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
