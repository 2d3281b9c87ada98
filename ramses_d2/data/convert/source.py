"""What every format is read into and written from: labelled images, one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from scipy import ndimage
from skimage.io import imread

from ramses_d2.data.folder import MAX_LABEL
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES

BOX_COLUMNS = ("left", "top", "right", "bottom")
EXIF_ORIENTATION = 0x0112


@dataclass
class SourceImage:
    """One image on its way from one format to another.

    Attributes:
        name: base name, unique in the data set.
        path: the image file.
        label_map: integer (H, W) of the upright image, 0 = background.
        objects: one row per object with ``label`` and ``class``; where known ``mass`` (g), ``gt_mass`` and further
            numeric columns. What iterating a :class:`Source` yields always has the masses (NaN, False = unknown), and
            ``area`` (px) and the box ``left top right bottom`` (px, end exclusive), sorted by label.
        resolution: px/mm, NaN = unknown.
        details: further entries of the image, as in metadata.json (camera, date, tag ...).
    """

    name: str
    path: Path
    label_map: np.ndarray
    objects: pd.DataFrame
    resolution: float = np.nan
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Source:
    """A data set that is being read; iterating it yields checked images and fills the notes.

    Attributes:
        origin: what is read, for messages.
        classes: class names in their order.
        images: the images as their format gives them, read when asked for.
        count: how many there are.
        batches: as in metadata.json: ``image_names`` (files) and ``mass`` (g per class).
        notes: what was changed or left out, and how often; complete when all images are read.
        findings: per-picture remarks for the report.
        resolution: px/mm of images whose format does not say it, NaN = unknown.
    """

    origin: str
    classes: list[str]
    images: Iterable[SourceImage]
    count: int
    batches: list[dict[str, Any]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    resolution: float = np.nan

    def __iter__(self) -> Iterator[SourceImage]:
        for image in self.images:
            resolution = self.resolution if np.isnan(image.resolution) else image.resolution
            yield _checked(replace(image, resolution=resolution), self.notes)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Base names for images of one flat folder: the file's, with its folders in front where that is ambiguous.

    Args:
        paths: relative to the data set.

    Raises:
        RamsesError: two images differ in their extension only.
    """
    stems = Counter(path.stem for path in paths)
    names = [
        path.stem if stems[path.stem] == 1 else "_".join((*path.parts[:-1], path.stem)).strip("_./") for path in paths
    ]
    for name, count in Counter(names).items():
        if count > 1:
            twice = [str(path) for path, other in zip(paths, names, strict=True) if other == name]
            raise RamsesError(f"images {' and '.join(twice)} would both become {name!r}; rename one")
    return names


def index_files(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Base name -> file, for the files of a folder with one of ``suffixes``.

    Raises:
        RamsesError: no such folder, or two files with one base name.
    """
    if not folder.is_dir():
        raise RamsesError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            if path.stem in files:
                raise RamsesError(f"{path}: a second file with the base name of {files[path.stem].name}; rename one")
            files[path.stem] = path
    return files


def read_index_image(path: Path) -> np.ndarray:
    """Read a label image whose pixels are numbers or, in a palette image, palette indices.

    Returns:
        int64 (H, W), values >= 0.

    Raises:
        RamsesError: missing, unreadable, coloured or not made of whole numbers.
    """
    try:
        values = np.asarray(decode(path))
    except RamsesError:
        values = _read_tiff(path)
        if values is None:
            raise
    if values.ndim != 2 or values.dtype.kind not in "biu":
        kind = f"{values.dtype} of shape {' x '.join(map(str, values.shape))}"
        raise RamsesError(f"{path}: a label image has one channel of whole numbers or a palette, this is {kind}")
    values = values.astype(np.int64)
    if values.min(initial=0) < 0:
        raise RamsesError(f"{path}: the label image has negative values; labels are 0 (background) or more")
    return values


def _read_tiff(path: Path) -> np.ndarray | None:
    """A TIFF of a kind that Pillow does not know (64 bits); None if it is none."""
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return None
    try:
        values = imread(path)
    except (OSError, ValueError):  # tifffile's errors are ValueErrors
        return None
    return values if values.size else None


def label_values(label_map: np.ndarray) -> np.ndarray:
    """The values of a label map above 0, ascending."""
    if label_map.max(initial=0) < label_map.size:  # counting is many times faster than sorting
        return np.flatnonzero(np.bincount(label_map.ravel()))[int((label_map == 0).any()) :]
    values = np.unique(label_map)
    return values[values > 0]


def decode(path: Path) -> Image.Image:
    """Open and fully decode an image file, as it is stored.

    Raises:
        RamsesError: missing or unreadable.
    """
    with _opened(path) as image:
        image.load()
        return image.copy()


def stored_size(path: Path) -> tuple[tuple[int, int], int]:
    """(H, W) of an image as stored, and its EXIF orientation (1 = upright), from the file's header.

    Raises:
        RamsesError: missing or unreadable.
    """
    with _opened(path) as image:
        return (image.height, image.width), image.getexif().get(EXIF_ORIENTATION, 1)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image; whatever is wrong with it, also inside the block, is a RamsesError."""
    if not path.is_file():
        raise RamsesError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RamsesError(f"{path}: the image cannot be read ({type(error).__name__}); replace the file") from None


def _checked(image: SourceImage, notes: Counter[str]) -> SourceImage:
    """The image with an upright label map of 16-bit values, exactly one row per object, areas and boxes."""
    label_map = _upright(image.label_map, image.path, notes)
    objects = image.objects.sort_values("label", ignore_index=True)
    for name, unknown in (("mass", np.nan), ("gt_mass", False)):
        if name not in objects:
            objects[name] = unknown
    objects = objects.astype({"mass": float, "gt_mass": bool})
    wrong = objects["mass"][(objects["mass"] <= 0) | np.isinf(objects["mass"])]
    if len(wrong):
        raise RamsesError(f"{image.path}: a mass of {wrong.iloc[0]:g} g; masses are above 0, or unknown")
    present = label_values(label_map)
    labels = objects["label"].to_numpy(dtype=np.int64)
    seen = np.isin(labels, present)
    if not seen.all():
        notes["objects without a pixel left out"] += int((~seen).sum())
        objects, labels = objects[seen].reset_index(drop=True), labels[seen]
    if len(labels) > MAX_LABEL:
        raise RamsesError(f"{image.path}: {len(labels)} objects; a 16-bit label image holds at most {MAX_LABEL}")
    new_labels = labels
    if labels.max(initial=0) > MAX_LABEL:
        new_labels = np.arange(1, len(labels) + 1)
        notes[f"images renumbered because of labels above {MAX_LABEL}"] += 1
    unnamed = ~np.isin(present, labels)
    if unnamed.any():
        notes["label values without a class turned into background"] += int(unnamed.sum())
    if unnamed.any() or new_labels is not labels:
        label_map = _renumber(label_map, present, labels, new_labels)
    objects = objects.assign(label=new_labels)
    return replace(image, label_map=label_map.astype(np.int32), objects=_measured(objects, label_map))


def _upright(label_map: np.ndarray, path: Path, notes: Counter[str]) -> np.ndarray:
    """Turn a label map that was drawn on the unturned pixels of an image with an EXIF orientation.

    Where both sizes agree (orientation 180 degrees, mirrored, square) nothing tells what it was drawn on: upright,
    as annotation programs show images.
    """
    stored, orientation = stored_size(path)
    shown = stored[::-1] if orientation >= 5 else stored
    if label_map.shape == shown:
        return label_map
    if label_map.shape == stored:
        notes["label maps turned as the EXIF orientation of their image says"] += 1
        turned = Image.fromarray(label_map.astype(np.int32))
        turned.getexif()[EXIF_ORIENTATION] = orientation
        return np.asarray(ImageOps.exif_transpose(turned))
    raise RamsesError(
        f"{path}: is {shown[0]} x {shown[1]} px (height x width), but its annotations are for "
        f"{label_map.shape[0]} x {label_map.shape[1]}; replace one of them"
    )


def _renumber(label_map: np.ndarray, present: np.ndarray, labels: np.ndarray, new_labels: np.ndarray) -> np.ndarray:
    """Give every label its new value and everything else 0, without a table as long as the highest value."""
    values = np.r_[0, present]
    new_of = dict(zip(labels.tolist(), new_labels.tolist(), strict=True))
    new_values = np.array([new_of.get(value, 0) for value in values.tolist()])
    return new_values[np.searchsorted(values, label_map)]


def _measured(objects: pd.DataFrame, label_map: np.ndarray) -> pd.DataFrame:
    """Add ``area`` and the box of every object; each has at least one pixel."""
    labels = objects["label"].to_numpy(dtype=np.int64)
    areas = np.bincount(label_map.ravel(), minlength=labels.max(initial=0) + 1)[labels]
    slices = ndimage.find_objects(label_map.astype(np.int32))
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in (slices[k - 1] for k in labels)]
    boxes = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    return objects.assign(area=areas, **{name: boxes[:, i] for i, name in enumerate(BOX_COLUMNS)})
