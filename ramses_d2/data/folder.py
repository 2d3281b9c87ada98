"""Read a RAMSES folder (annotations.csv, metadata.json, images/, labels/) into Detectron2 dataset dicts.

datasets/README.md describes the files. Pixels are decoded only in the few label images that tell the box convention.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from detectron2.structures import BoxMode
from scipy import ndimage

from ramses_d2.data.images import image_size, read_label_image
from ramses_d2.errors import RamsesError
from ramses_d2.files import base_name, base_names, check_resolution, list_images, read_json

logger = logging.getLogger(__name__)

DatasetDict = dict[str, Any]
# What becomes of wrong values: (rows of the column that are wrong, the column, what would put them right)
Reject = Callable[[pd.Series, pd.Series, str], None]

METADATA_NAME = "metadata.json"
REQUIRED_COLUMNS = ("label", "baseimg", "class", "res")
BOX_COLUMNS = ("x0", "y0", "x1", "y1")
MAX_LABEL = 65535  # of a 16-bit label image
_LAYOUT = "a RAMSES folder holds annotations.csv, images/ and labels/"
_UNKNOWN = ("", "nan", "na", "none", "null")
_TRUE_OR_FALSE = dict.fromkeys(("true", "1", "1.0"), True) | dict.fromkeys(("false", "0", "0.0", *_UNKNOWN), False)
_NUMBER_COLUMNS = ("label", "res", "mass", "area", "height", "width", *BOX_COLUMNS)
# Column -> which of its numbers are wrong, and what they should be
_SIZE = (lambda side: (side < 1) | np.isinf(side), "the size of the image is in px, 1 or more, or blank")
_RULES: dict[str, tuple[Callable[[pd.Series], pd.Series], str]] = {
    "label": (
        lambda label: ~(label.between(1, MAX_LABEL) & (label % 1 == 0)),
        f"a label is a whole number from 1 to {MAX_LABEL}",
    ),
    "res": (lambda res: ~(res > 0) | np.isinf(res), "the resolution is px per mm, above 0"),
    "mass": (lambda mass: (mass <= 0) | np.isinf(mass), "a mass is in grams, above 0, or NaN where unknown"),
    "height": _SIZE,
    "width": _SIZE,
}
# CSV columns that hold left, top, right, bottom: the original writes rows first, other producers columns first
CONVENTIONS = {
    "x0, x1 are rows, y0, y1 are columns": ["y0", "x0", "y1", "x1"],
    "x0, x1 are columns, y0, y1 are rows": ["x0", "y0", "x1", "y1"],
}
_PROBED_IMAGES = 5
_AGREEING = 0.9  # share of the compared boxes
_TOLERANCE = 1  # px: some producers write inclusive ends


def read_annotations(path: Path) -> pd.DataFrame:
    """Read an ``annotations.csv``, checked, with the right type in every column.

    The table is indexed by CSV row number and has at least ``label`` (int), ``baseimg``, ``class`` (str), ``res``
    (px/mm), ``mass`` (g, NaN = unknown), ``gt_mass`` (bool) and ``area`` (px, NaN = unknown). ``x0 y0 x1 y1`` (as in
    the file), ``height`` and ``width`` (px, NaN where blank) are there only if the file has them.
    """
    table = read_text_table(path)
    missing = missing_columns(table)
    if missing:
        raise RamsesError(
            f"{path}: column {', '.join(missing)} is missing (found: {', '.join(table.columns) or 'none'}); "
            f"add it, see datasets/README.md"
        )
    return convert_columns(table, partial(_raise_first, path)).astype({"label": np.int64})


def missing_columns(table: pd.DataFrame) -> list[str]:
    """The columns that every ``annotations.csv`` must have and this one lacks."""
    return [name for name in REQUIRED_COLUMNS if name not in table.columns]


def convert_columns(table: pd.DataFrame, reject: Reject) -> pd.DataFrame:
    """The columns that :func:`read_annotations` describes, from text; ``label`` is float.

    ``reject`` is called with the values that cannot be used, perhaps twice for one value; where it returns, they become
    NaN, "" or False.
    """
    table = table.copy()
    for name in _NUMBER_COLUMNS:
        if name in table.columns:
            numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
            unreadable = numbers.isna() & ~table[name].str.lower().isin(_UNKNOWN)
            reject(unreadable, table[name], "write a number, with a decimal point")
            table[name] = numbers
    for name in ("mass", "area"):
        if name not in table.columns:
            table[name] = np.nan
    gt_mass = table["gt_mass"].str.lower().map(_TRUE_OR_FALSE) if "gt_mass" in table.columns else None
    if gt_mass is not None:
        reject(gt_mass.isna(), table["gt_mass"], "write True or False")
    table["gt_mass"] = False if gt_mass is None else gt_mass.eq(True)
    reject(table["baseimg"] == "", table["baseimg"], "give the image's base name")
    reject(table["class"] == "", table["class"], "give the class name")
    for name, (is_wrong, remedy) in _RULES.items():
        if name in table.columns:
            wrong = is_wrong(table[name])
            reject(wrong, table[name], remedy)
            table[name] = table[name].mask(wrong)
    return table


def _raise_first(path: Path, wrong: pd.Series, column: pd.Series, remedy: str) -> None:
    if wrong.any():
        row = wrong.idxmax()
        raise RamsesError(f"{path}, row {row}: {describe_value(column.name, column[row], remedy)}")


def describe_value(name: str, value: str | float, remedy: str) -> str:
    """What is wrong with a value of column ``name``, and what to do."""
    return f"{name} is {f'{value:g}' if isinstance(value, float) else repr(value)}; {remedy}"


def reject_duplicates(table: pd.DataFrame, path: Path) -> None:
    """Stop when two rows name the same object, that is the same ``baseimg`` and ``label``."""
    duplicated = table.duplicated(["baseimg", "label"])
    if duplicated.any():
        row = duplicated.idxmax()
        raise RamsesError(
            f"{path}, row {row}: label {table.at[row, 'label']} of image {table.at[row, 'baseimg']} "
            f"appears a second time; one row per object"
        )


def read_text_table(path: Path, content: str | None = None) -> pd.DataFrame:
    """All cells of a CSV (or of ``content``) as stripped text, blank lines dropped, index = row number in the file."""
    if not path.is_file():
        raise RamsesError(f"{path}: no such file; {_LAYOUT}")
    text = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}
    try:
        table, header = (
            pd.read_csv(path if content is None else StringIO(content), **text, **rows)
            for rows in ({}, {"header": None, "nrows": 1})
        )
    except pd.errors.EmptyDataError:
        raise RamsesError(f"{path}: the file is empty; it needs at least the header row") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise RamsesError(f"{path}: not a comma-separated UTF-8 table ({' '.join(str(error).split())})") from None
    if any(";" in name for name in table.columns):
        raise RamsesError(f"{path}: separated by semicolons; save it with commas between cells and points in numbers")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus cells for row names
        raise RamsesError(f"{path}: rows have more cells than the header; numbers need a decimal point, not a comma")
    names = header.iloc[0].fillna("").str.strip()  # as written: pandas calls a second "mass" "mass.1"
    twice = names[names.duplicated() & (names != "")]
    if len(twice):
        raise RamsesError(f"{path}: column {twice.iloc[0]} is there twice; remove or rename one")
    table.columns = table.columns.str.strip()
    table.index += 2
    table = table.fillna("").apply(lambda column: column.str.strip())
    return table[(table != "").any(axis=1)].copy()


def xyxy_boxes(groups: Mapping[str, pd.DataFrame], labels: Mapping[str, Path], csv_path: Path) -> dict[str, np.ndarray]:
    """Boxes float (K, 4) XYXY_ABS, end exclusive, of every image; the log says which convention the CSV follows.

    ``groups`` are the K rows and ``labels`` the label image by base name. Where the CSV has no boxes, or boxes of
    neither convention, they are taken from the label images, which means decoding all of them; a row without pixels has
    zeros.
    """
    if not groups:
        return {}
    columns = None
    if not set(BOX_COLUMNS) <= set(next(iter(groups.values())).columns):
        logger.info("%s: no box columns; boxes are taken from the label images", csv_path)
    elif (convention := _detect_convention(groups, labels)) is not None:
        logger.info("%s: in its boxes %s", csv_path, convention)
        columns = CONVENTIONS[convention]
    else:
        logger.warning("%s: its boxes do not match the label images, which are used instead", csv_path)
    boxes = {}
    for base, rows in groups.items():
        if columns is not None and rows[columns].notna().all(axis=None):
            boxes[base] = rows[columns].to_numpy(dtype=float)
        else:
            boxes[base] = np.nan_to_num(_label_boxes(labels[base], rows["label"]))
    return boxes


def _detect_convention(groups: Mapping[str, pd.DataFrame], labels: Mapping[str, Path]) -> str | None:
    """The convention most boxes of a few images, spread over the data set, agree with; None for neither."""
    bases = list(groups)
    probed = [bases[i] for i in np.unique(np.linspace(0, len(bases) - 1, _PROBED_IMAGES).astype(int))]
    true = np.concatenate([_label_boxes(labels[base], groups[base]["label"]) for base in probed])
    seen = ~np.isnan(true).any(axis=1)
    rows = pd.concat([groups[base] for base in probed])[seen]
    agreement = {
        convention: (np.abs(rows[columns].to_numpy(dtype=float) - true[seen]) <= _TOLERANCE).all(axis=1).mean()
        for convention, columns in CONVENTIONS.items()
        if len(rows)
    }
    best = max(agreement, key=agreement.get, default=None)
    return best if best is not None and agreement[best] >= _AGREEING else None


def _label_boxes(path: Path, labels: pd.Series) -> np.ndarray:
    """(K, 4) XYXY boxes of the given labels in a label image; NaN for one without pixels."""
    found = ndimage.find_objects(read_label_image(path))
    boxes = np.full((len(labels), 4), np.nan)
    for index, label in enumerate(labels):
        if label <= len(found) and found[label - 1] is not None:
            rows, columns = found[label - 1]
            boxes[index] = columns.start, rows.start, columns.stop, rows.stop
    return boxes


def read_metadata(folder: Path) -> dict[str, Any]:
    """The content of a folder's metadata.json; nothing where there is none."""
    path = folder / METADATA_NAME
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise RamsesError(f"{path}: not a metadata.json, which is an object with images; see datasets/README.md")
    return content


def image_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Base name -> entry of the image under ``images`` of a folder's metadata.json; nothing where there is none."""
    images = read_metadata(folder).get("images", [])
    if not isinstance(images, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("file_name"), str) for entry in images
    ):
        raise RamsesError(
            f"{folder / METADATA_NAME}: images must be a list of objects with file_name and res; see datasets/README.md"
        )
    return {base_name(entry["file_name"]): entry for entry in images}


def load_folder(
    folder: str | Path,
    class_names: Sequence[str] | None = None,
    *,
    key: str | None = None,
    only: Collection[str] | None = None,
) -> tuple[list[DatasetDict], list[str]]:
    """Read one RAMSES folder: dataset dicts sorted by base name, ``image_id`` from 1, and the class names.

    ``key`` names the folder in ``image_name`` (default: its own name), ``only`` the base names to read (default: all
    images that have rows or a label image).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RamsesError(f"{folder}: no such folder; {_LAYOUT}")
    csv_path = folder / "annotations.csv"
    table = read_annotations(csv_path)
    class_names = list(class_names) if class_names is not None else folder_class_names(folder, table)
    key = key or folder.resolve().name
    return build_dataset_dicts(folder, table, csv_path, class_names, key=key, only=only), class_names


def folder_class_names(folder: Path, table: pd.DataFrame | None = None) -> list[str]:
    """Class order of a folder: its classes.json (name -> id from 1), else the sorted names in the CSV."""
    path = folder / "classes.json"
    if path.is_file():
        return class_names_from_ids(read_json(path), path)
    if table is None:
        table = read_annotations(folder / "annotations.csv")
    return sorted(table["class"].unique())


def class_names_from_ids(ids: Any, path: Path) -> list[str]:
    """``{"Ra": 1, "Rc": 2}`` to ``["Ra", "Rc"]``."""
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
    """Join the annotation rows of a folder, read from ``csv_path``, with its images and label images."""
    images = list_images(folder / "images", _LAYOUT)
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
    dataset_dicts = _annotated(folder, groups, images, csv_path, class_names, key)
    empty = [base for base in sorted(images) if base not in groups and (only is None or base in only)]
    if len(lost):
        _reject_misnamed(folder, empty, lost, csv_path)
    single = float(resolutions[0]) if len(resolutions) == 1 else None
    dataset_dicts += _empty(folder, [images[base] for base in empty], single, key)
    dataset_dicts.sort(key=lambda dataset_dict: dataset_dict["image_name"])
    for image_id, dataset_dict in enumerate(dataset_dicts, start=1):
        dataset_dict["image_id"] = image_id
    return dataset_dicts


def _reject_misnamed(folder: Path, empty: Iterable[str], lost: pd.Series, csv_path: Path) -> None:
    """Stop where images without rows have particles and rows have no image: their names may be mistyped.

    Otherwise such an image would be learned as an empty one. ``lost`` is ``baseimg`` of the rows without image.
    """
    for base in empty:
        label = folder / "labels" / f"{base}.png"
        if label.is_file() and read_label_image(label).any():
            raise RamsesError(
                f"{csv_path}, row {lost.index[0]}: image {folder / 'images' / lost.iloc[0]}.* is missing, while "
                f"{label} has particles without rows; correct baseimg, or remove the rows without image"
            )


def _annotated(
    folder: Path,
    groups: dict[str, pd.DataFrame],
    images: dict[str, Path],
    csv_path: Path,
    class_names: Sequence[str],
    key: str,
) -> list[DatasetDict]:
    """The dataset dicts of the images that have rows."""
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
        resolution = rows["res"].iloc[0]
        other = ~np.isclose(rows["res"], resolution, rtol=1e-4)
        if other.any():
            row = rows.index[other][0]
            raise RamsesError(
                f"{csv_path}, row {row}: res is {rows.at[row, 'res']:g}, but another row of the same image says "
                f"{resolution:g}; an image has one resolution"
            )
        size = rows[["height", "width"]].iloc[0] if {"height", "width"} <= set(rows.columns) else pd.Series([np.nan])
        known = tuple(int(side) for side in size) if size.notna().all() else None
        columns = rows.assign(category_id=rows["class"].map(category_ids), bbox=boxes[base].tolist())
        annotations = columns[["label", "category_id", "bbox", "area", "mass", "gt_mass"]].to_dict("records")
        annotations = [row | {"bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0} for row in annotations]
        name = f"{key}/{base}"
        dataset_dicts.append(_dataset_dict(images[base], labels[base], name, float(resolution), known, annotations))
    return dataset_dicts


def _empty(folder: Path, images: Iterable[Path], single: float | None, key: str) -> list[DatasetDict]:
    """Images without rows are empty images where they have a label image, and skipped otherwise.

    metadata.json says their resolution, else it is ``single``, that of all rows of the folder.
    """
    dataset_dicts, skipped = [], 0
    entries = image_entries(folder)
    for image in images:
        label = folder / "labels" / f"{image.stem}.png"
        if not label.is_file():
            skipped += 1
            continue
        resolution = entries.get(image.stem, {}).get("res")
        where = f"{image}: an empty image needs its file_name and res in {folder / METADATA_NAME}, under images"
        resolution = check_resolution(single if resolution is None else resolution, where)
        dataset_dicts.append(_dataset_dict(image, label, f"{key}/{image.stem}", resolution, None, []))
    if skipped:
        logger.warning("%s: %d images without rows and label image are skipped", folder, skipped)
    return dataset_dicts


def _dataset_dict(
    image: Path,
    label: Path,
    name: str,
    resolution: float,
    size: tuple[int, int] | None,
    annotations: list[dict[str, Any]],
) -> DatasetDict:
    """One dataset dict; a size that the CSV does not have comes from the image's header."""
    height, width = size or image_size(image)
    return {
        "file_name": str(image),
        "image_name": name,
        "height": height,
        "width": width,
        "resolution": resolution,
        "label_file_name": str(label),
        "annotations": annotations,
    }
