"""Which images to predict, and how many pixels per millimetre each has."""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from detectron2.data import DatasetCatalog

from ..data import register
from ..data.image_names import IMAGE_SUFFIXES
from ..errors import RamsesError
from .natural_order import natural_key


class ImageFile(NamedTuple):
    """An image to predict: its file, its name without extension in the output, and px/mm (None = unknown)."""

    path: Path
    name: str
    resolution: float | None


def read_resolutions(source: str | None) -> float | dict[str, float] | None:
    """Resolutions from the command line.

    Args:
        source: px/mm of all images as a number; or a file with those of each: a metadata.json, or a CSV with the
            columns ``file_name`` (or ``baseimg``) and ``res`` (or ``resolution``).

    Returns:
        a number, or file name and base name -> number; None for None.

    Raises:
        RamsesError: no number above 0 and no such file, or a file without these columns.
    """
    if source is None:
        return None
    path = Path(source)
    if not path.is_file():
        try:
            value = float(source)
        except ValueError:
            raise RamsesError(f"--resolution {source}: neither a number (px/mm) nor a file") from None
        if not (math.isfinite(value) and value > 0):
            raise RamsesError(f"--resolution {source}: give the px/mm of the images, a number above 0")
        return value
    try:
        if path.suffix.lower() == ".json":
            table = pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["images"])
        else:
            table = pd.read_csv(path)
    except (ValueError, LookupError, TypeError, OSError, pd.errors.ParserError) as error:
        raise RamsesError(f"{path}: neither a metadata.json nor a CSV ({type(error).__name__})") from error
    table = table.rename(columns={"baseimg": "file_name", "resolution": "res"})
    if not {"file_name", "res"} <= set(table.columns):
        raise RamsesError(f"{path}: needs the columns file_name and res (px/mm), it has {', '.join(table.columns)}")
    values = pd.to_numeric(table["res"], errors="coerce")
    wrong = ~((values > 0) & (values < math.inf))
    if wrong.any():
        name = table.loc[wrong, "file_name"].iloc[0]
        raise RamsesError(f"{path}: the res of {name} is no px/mm above 0")
    found = {}
    for name, value in zip(table["file_name"].astype(str), values, strict=True):
        if found.setdefault(name, value) != value:
            raise RamsesError(f"{path}: {name} has two resolutions, {found[name]:g} and {value:g}")
        found.setdefault(Path(name).stem, value)
    return found


def find_images(
    sources: Sequence[str], resolutions: float | dict[str, float] | None = None, *, recursive: bool = False
) -> list[ImageFile]:
    """Resolve images, folders, patterns and dataset URIs.

    Args:
        sources: files, folders, globs (``"belt/*.png"``, ``**`` for any depth) or ``ramses://`` and ``coco://`` URIs.
        resolutions: see :func:`read_resolutions`; wins over a data set's own.
        recursive: look into the folders of folders too.

    Returns:
        images in natural order within each source, every file once, each with a name of its own.

    Raises:
        RamsesError: nothing there, no image in it, or an image that the file of resolutions does not name.
    """
    found: dict[Path, tuple[Path, float | None]] = {}
    for source in sources:
        for path, own in _of_source(source, recursive):
            found.setdefault(path.resolve(), (path, own))  # a file that two sources name in different ways is one
    images = []
    for path, own in found.values():
        if _is_undecodable(str(path)):
            raise RamsesError(f"{str(path)!r}: its name is not UTF-8 and fits in no table: rename it")
        if isinstance(resolutions, dict):
            own = resolutions.get(path.name, resolutions.get(path.stem))
            if own is None:
                raise RamsesError(f"{path.name} is not in the file that --resolution names: add its row")
        elif resolutions is not None:
            own = resolutions
        images.append(ImageFile(path, path.stem, own))
    return _with_unique_names(images)


def in_given_order(images: Sequence[ImageFile], order_file: str) -> list[ImageFile]:
    """Bring images into the order of a list.

    Args:
        images: of :func:`find_images`.
        order_file: text, one file name, path or name without extension a line; blank lines and those that begin with #
            do not count.

    Returns:
        the images that the list names.

    Raises:
        RamsesError: no such file, no name in it, a name twice, or one that is none or several of the images.
    """
    path = Path(order_file)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RamsesError(f"--order {path}: not readable as text ({type(error).__name__})") from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise RamsesError(f"--order {path}: no name in it")
    called: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        for name in {str(image.path), image.path.name, image.path.stem}:
            called.setdefault(name, []).append(index)
    ordered: dict[int, ImageFile] = {}
    for name in names:
        found = called.get(name, [])
        if len(found) != 1:
            raise RamsesError(f"--order {path}: {name} is {'none' if not found else 'several'} of the images")
        if found[0] in ordered:
            raise RamsesError(f"--order {path}: {name} is named twice")
        ordered[found[0]] = images[found[0]]
    return list(ordered.values())


def _is_undecodable(name: str) -> bool:
    """Whether a name from the file system holds bytes that are no UTF-8 (Python keeps them as surrogates)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def _of_source(source: str, recursive: bool) -> list[tuple[Path, float | None]]:
    if "://" in source:
        records = {record["image_id"]: record for record in DatasetCatalog.get(register(source))}.values()
        return [(Path(record["file_name"]), record["resolution"]) for record in records]
    path = Path(source)
    if path.is_file():
        return [(path, None)]
    if path.is_dir():
        candidates = path.rglob("*") if recursive else path.iterdir()
    elif glob.has_magic(source):
        candidates = (Path(name) for name in glob.glob(source, recursive=True))
    else:
        raise RamsesError(f"{source}: no such image or folder")
    paths = [p for p in candidates if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not paths:
        hint = "" if recursive or not path.is_dir() else "; folders in it are searched with --recursive"
        raise RamsesError(f"{source}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))}){hint}")
    return [(p, None) for p in sorted(paths, key=natural_key)]


def _with_unique_names(images: list[ImageFile]) -> list[ImageFile]:
    """Tell images of one name apart (a.jpg and a.png, or two folders) by a number that no other one has."""
    taken: set[str] = set()
    own = {image.name for image in images}
    unique = []
    for image in images:
        name, number = image.name, 1
        while name in taken or (number > 1 and name in own):
            number += 1
            name = f"{image.name}-{number}"
        taken.add(name)
        unique.append(image._replace(name=name))
    return unique
