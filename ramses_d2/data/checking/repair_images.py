"""Mend one image and its label image."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ramses_d2.data.checking.check import CheckedFolder
from ramses_d2.data.checking.components import find_parts, measure_particles, without_specks
from ramses_d2.data.checking.images import is_turned_away, lies_alike
from ramses_d2.data.checking.pixels import EXIF_ORIENTATION, read_labels
from ramses_d2.data.images import save_upright


@dataclass(frozen=True)
class Change:
    """One change of a mended copy.

    Attributes:
        file: inside the folder.
        what: in words.
        old: before.
        new: now.
        row: row of annotations.csv in the checked folder.
        label: value in the label image.
    """

    file: str
    what: str
    old: str = ""
    new: str = ""
    row: int | None = None
    label: int | None = None


def repair_image(checked: CheckedFolder, output: Path, base: str) -> tuple[list[Change], np.ndarray | None]:
    """Copy an image and its label image, mended where that is needed.

    Args:
        checked: the folder.
        output: the new folder, with images/ and labels/.
        base: base name.

    Returns:
        the changes, and the particles of the label image if it was mended, as
        :func:`ramses_d2.data.checking.components.measure_particles` gives them.
    """
    image, label = checked.facts[base]
    changes: list[Change] = []
    if image is not None:
        path = checked.contents.images[base]
        target = output / "images" / path.name
        if image.error is None and image.orientation != 1:
            save_upright(path, target)
            what = "turned upright, as its EXIF tag says"
            changes.append(Change(f"images/{path.name}", what, f"orientation {image.orientation}", "orientation 1"))
        else:
            _copy(path, target)
    particles = None
    if label is not None:
        path = checked.contents.labels[base]
        repaired = None
        if label.error is None and label.particles is not None:
            repaired = _repair_labels(checked, base, path, changes)
        if repaired is None:
            _copy(path, output / "labels" / path.name)
        else:
            Image.fromarray(repaired.astype(np.uint16)).save(output / "labels" / path.name)
            particles = measure_particles(find_parts(repaired))
    return changes, particles


def _copy(path: Path, target: Path) -> None:
    if not path.is_dir():  # one named x.png is no image, and is reported as such
        shutil.copy2(path, target)


def _repair_labels(checked: CheckedFolder, base: str, path: Path, changes: list[Change]) -> np.ndarray | None:
    """The mended label map, None if nothing is to be mended."""
    image, label = checked.facts[base]
    file = f"labels/{path.name}"
    columns = dict(zip(("area", "specks", "speck_pixels"), label.particles[:, [1, 7, 8]].T, strict=True))
    turned = is_turned_away(image, label)
    compared = turned or lies_alike(image, label)
    extra = checked.row_check.extra.get(base, np.zeros(0, np.int64))
    kept = ~np.isin(label.particles[:, 0], extra)
    has_specks = compared and bool(columns["specks"][kept].any())
    if label.is_uint16 and not turned and not has_specks and not len(extra):
        return None

    label_map, mode, _ = read_labels(path)
    if not label.is_uint16:
        changes.append(Change(file, "saved as 16-bit grey", f"mode {mode}", "mode I;16"))
    if turned:
        what = "turned as the image's EXIF tag says"
        changes.append(Change(file, what, f"orientation {image.orientation}", "orientation 1"))
        label_map = _turn(label_map, image.orientation)
    if len(extra):
        for value, area in zip(label.particles[~kept, 0], columns["area"][~kept], strict=True):
            changes.append(Change(file, "pixels without row", f"{area} px", "background", label=int(value)))
        label_map = np.where(np.isin(label_map, extra), 0, label_map)
    if has_specks:
        named = kept & (columns["specks"] > 0)
        for value, pixels in zip(label.particles[named, 0], columns["speck_pixels"][named], strict=True):
            changes.append(Change(file, "specks", f"{pixels} px", "background", label=int(value)))
        label_map = without_specks(label_map, find_parts(label_map))
    return label_map


def _turn(label_map: np.ndarray, orientation: int) -> np.ndarray:
    image = Image.fromarray(label_map.astype(np.int32))
    image.getexif()[EXIF_ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))
