"""Read a RAMSES folder (annotations.csv, images/, labels/) into Detectron2 dataset dicts.

Nothing is decoded here but the few label images that tell which box convention the CSV uses. The dataset dicts are
described in datasets/README.md.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from detectron2.structures import BoxMode
from PIL import Image

from ramses_d2.errors import RamsesError

from .annotations_csv import read_annotations, reject_duplicates
from .box_convention import xyxy_boxes
from .folder_metadata import image_entries
from .image_names import IMAGE_SUFFIXES, base_names
from .json_file import read_json
from .label_map import read_label_image

logger = logging.getLogger(__name__)

_EXIF_ORIENTATION = 0x0112
_ANNOTATION_COLUMNS = ("label", "category_id", "bbox", "area", "mass", "gt_mass")

DatasetDict = dict[str, Any]


def load_folder(
    folder: str | Path,
    class_names: Sequence[str] | None = None,
    *,
    key: str | None = None,
    only: Collection[str] | None = None,
) -> tuple[list[DatasetDict], list[str]]:
    """Read one RAMSES folder.

    Args:
        folder: holds annotations.csv, images/ and labels/.
        class_names: class order; default: :func:`folder_class_names`.
        key: name of the folder in ``image_name``; default: the folder's own name.
        only: base names of the images to read; default: all that have rows or a label image.

    Returns:
        dataset dicts sorted by base name, ``image_id`` from 1, and the class names.

    Raises:
        RamsesError: anything missing or wrong, with file and row.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RamsesError(f"{folder}: no such folder; a RAMSES folder holds annotations.csv, images/ and labels/")
    csv_path = folder / "annotations.csv"
    table = read_annotations(csv_path)
    class_names = list(class_names) if class_names is not None else folder_class_names(folder, table)
    return build_dataset_dicts(
        folder, table, csv_path, class_names, key=key or folder.resolve().name, only=only
    ), class_names


def folder_class_names(folder: Path, table: pd.DataFrame | None = None) -> list[str]:
    """Class order of a folder: its classes.json (name -> id from 1), else the sorted names in the CSV."""
    path = folder / "classes.json"
    if path.is_file():
        return class_names_from_ids(read_json(path), path)
    if table is None:
        table = read_annotations(folder / "annotations.csv")
    return sorted(table["class"].unique())


def class_names_from_ids(ids: Any, path: Path) -> list[str]:
    """``{"Ra": 1, "Rc": 2}`` to ``["Ra", "Rc"]``.

    Raises:
        RamsesError: the ids are not exactly 1 ... n.
    """
    if not isinstance(ids, dict) or sorted(ids.values(), key=str) != sorted(range(1, len(ids) + 1), key=str):
        raise RamsesError(f"{path}: class ids must be the numbers 1 to the number of classes, each once")
    return sorted(ids, key=ids.get)


def build_dataset_dicts(
    folder: Path,
    table: pd.DataFrame,
    csv_path: Path,
    class_names: Sequence[str],
    *,
    key: str,
    only: Collection[str] | None = None,
) -> list[DatasetDict]:
    """Join annotation rows with the images and label images of their folder.

    Args:
        folder: holds images/ and labels/.
        table: rows of this folder, as from :func:`ramses_d2.data.annotations_csv.read_annotations`.
        csv_path: where the rows come from, for messages.
        class_names: class order.
        key: name of the folder in ``image_name``.
        only: see :func:`load_folder`.

    Returns:
        dataset dicts sorted by base name, ``image_id`` from 1.

    Raises:
        RamsesError: anything missing or wrong, with file and row.
    """
    images = _list_images(folder)
    table = table.assign(baseimg=base_names(table["baseimg"], images))
    resolutions, lost = table["res"].unique(), table.loc[~table["baseimg"].isin(list(images)), "baseimg"]
    if only is not None:
        table = table[table["baseimg"].isin(only)]
    reject_duplicates(table, csv_path)
    unknown = ~table["class"].isin(class_names)
    if unknown.any():
        row = unknown.idxmax()
        raise RamsesError(
            f"{csv_path}, row {row}: class {table.at[row, 'class']!r} is not in the class list "
            f"({', '.join(class_names)})"
        )

    groups = {base: rows.sort_values("label") for base, rows in table.groupby("baseimg", sort=True)}
    dataset_dicts = _dataset_dicts_with_rows(folder, groups, images, csv_path, class_names, key)
    empty = [base for base in sorted(images) if base not in groups and (only is None or base in only)]
    if len(lost):
        _reject_misnamed(folder, empty, lost, csv_path)
    single = float(resolutions[0]) if len(resolutions) == 1 else None
    dataset_dicts += _empty_dataset_dicts(folder, [images[base] for base in empty], single, key)
    dataset_dicts.sort(key=lambda dataset_dict: dataset_dict["image_name"])
    for image_id, dataset_dict in enumerate(dataset_dicts, start=1):
        dataset_dict["image_id"] = image_id
    return dataset_dicts


def _list_images(folder: Path) -> dict[str, Path]:
    """Base name -> image."""
    if not (folder / "images").is_dir():
        raise RamsesError(
            f"{folder / 'images'}: no such folder; a RAMSES folder holds annotations.csv, images/ and labels/"
        )
    images: dict[str, Path] = {}
    for path in sorted((folder / "images").iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            if path.stem in images:
                raise RamsesError(f"{path}: a second image with the base name of {images[path.stem].name}; rename one")
            images[path.stem] = path
    return images


def _reject_misnamed(folder: Path, empty: Iterable[str], lost: pd.Series, csv_path: Path) -> None:
    """Stop where images without rows have particles and rows have no image: their names may be mistyped.

    Otherwise such an image would be learned as an empty one.

    Args:
        folder: holds labels/.
        empty: base names of the images without rows.
        lost: ``baseimg`` of the rows without image, index = row.
        csv_path: where the rows come from.
    """
    for base in empty:
        label = folder / "labels" / f"{base}.png"
        if label.is_file() and read_label_image(label).any():
            raise RamsesError(
                f"{csv_path}, row {lost.index[0]}: image {folder / 'images' / lost.iloc[0]}.* is missing, while "
                f"{label} has particles without rows; correct baseimg, or remove the rows without image"
            )


def _resolution(rows: pd.DataFrame, csv_path: Path) -> float:
    resolution = rows["res"].iloc[0]
    other = ~np.isclose(rows["res"], resolution, rtol=1e-4)
    if other.any():
        row = rows.index[other][0]
        raise RamsesError(
            f"{csv_path}, row {row}: res is {rows.at[row, 'res']:g}, but another row of the same image says "
            f"{resolution:g}; an image has one resolution"
        )
    return float(resolution)


def _dataset_dicts_with_rows(
    folder: Path,
    groups: dict[str, pd.DataFrame],
    images: dict[str, Path],
    csv_path: Path,
    class_names: Sequence[str],
    key: str,
) -> list[DatasetDict]:
    labels = {base: folder / "labels" / f"{base}.png" for base in groups}
    for base, rows in groups.items():
        where = f"{csv_path}, row {rows.index.min()}"
        if base not in images:
            raise RamsesError(
                f"{where}: image {folder / 'images' / base}.* is missing; add it, correct baseimg or remove its rows"
            )
        if not labels[base].is_file():
            raise RamsesError(f"{where}: label image {labels[base]} is missing; add it or remove the image's rows")
    boxes = xyxy_boxes(groups, labels, csv_path)
    category_ids = {name: index for index, name in enumerate(class_names)}
    dataset_dicts = []
    for base, rows in groups.items():
        dataset_dict = _dataset_dict(images[base], labels[base], f"{key}/{base}", _resolution(rows, csv_path), rows)
        columns = rows.assign(category_id=rows["class"].map(category_ids), bbox=boxes[base].tolist())
        dataset_dict["annotations"] = [
            row | {"bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
            for row in columns[list(_ANNOTATION_COLUMNS)].to_dict("records")
        ]
        dataset_dicts.append(dataset_dict)
    return dataset_dicts


def _dataset_dict(
    image: Path, label: Path, name: str, resolution: float, rows: pd.DataFrame | None = None
) -> DatasetDict:
    """A dataset dict without its annotations; the size comes from the CSV, else from the image's header."""
    size = None
    if rows is not None and {"height", "width"} <= set(rows.columns):
        size = rows[["height", "width"]].iloc[0]
    if size is not None and size.notna().all():
        height, width = (int(v) for v in size)
    else:
        height, width = _header_size(image)
    return {
        "file_name": str(image),
        "image_name": name,
        "height": height,
        "width": width,
        "resolution": resolution,
        "label_file_name": str(label),
        "annotations": [],
    }


def _header_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image turned upright, without decoding its pixels."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RamsesError(f"{path}: the image cannot be read ({type(error).__name__}); replace the file") from None
    return (width, height) if turned else (height, width)


def _empty_dataset_dicts(folder: Path, images: Iterable[Path], single: float | None, key: str) -> list[DatasetDict]:
    """Images without rows are empty images where they have a label image, and skipped otherwise.

    Args:
        folder: holds metadata.json, which says the resolution.
        images: the images.
        single: the resolution where metadata.json has none: that of all rows of the folder, if it is one.
        key: name of the folder.
    """
    dataset_dicts, skipped = [], 0
    entries = image_entries(folder)
    for image in images:
        label = folder / "labels" / f"{image.stem}.png"
        if not label.is_file():
            skipped += 1
            continue
        resolution = entries.get(image.stem, {}).get("res")
        resolution = single if resolution is None else resolution
        if not isinstance(resolution, (int, float)) or not 0 < resolution < np.inf:
            raise RamsesError(
                f"{image}: an empty image of unknown resolution; add its file_name and res to "
                f"{folder / 'metadata.json'}, under images"
            )
        dataset_dicts.append(_dataset_dict(image, label, f"{key}/{image.stem}", float(resolution)))
    if skipped:
        logger.warning("%s: %d images without rows and label image are skipped", folder, skipped)
    return dataset_dicts
