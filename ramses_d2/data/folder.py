"""Read a RAMSES folder (annotations.csv, images/, labels/) into Detectron2 dataset dicts.

Nothing is decoded here but the few label images that tell which box convention the CSV uses. The dataset dicts are
described in datasets/README.md.
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
from PIL import Image
from scipy import ndimage

from ramses_d2.data.images import read_label_image
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES, base_name, base_names, read_json

# What becomes of wrong values: (rows of the column that are wrong, the column, what would put them right)
Reject = Callable[[pd.Series, pd.Series, str], None]

REQUIRED_COLUMNS = ("label", "baseimg", "class", "res")
BOX_COLUMNS = ("x0", "y0", "x1", "y1")
MAX_LABEL = 65535  # of a 16-bit label image
_SIZE_COLUMNS = ("height", "width")
_NUMBER_COLUMNS = ("label", "res", "mass", "area", *_SIZE_COLUMNS, *BOX_COLUMNS)
_UNKNOWN = ("", "nan", "na", "none", "null")
_TRUTH = dict.fromkeys(("true", "1", "1.0"), True) | dict.fromkeys(("false", "0", "0.0", *_UNKNOWN), False)


def read_annotations(path: Path) -> pd.DataFrame:
    """Read an ``annotations.csv`` (reference section 6.2) with the right type in every column.

    Args:
        path: the file.

    Returns:
        table indexed by CSV row number, with at least the columns ``label`` (int), ``baseimg`` (str),
        ``class`` (str), ``res`` (px/mm), ``mass`` (g, NaN = unknown), ``gt_mass`` (bool), ``area`` (px, NaN =
        unknown). ``x0 y0 x1 y1`` (as in the file), ``height`` and ``width`` (px, NaN where blank) only if the
        file has them.
    """
    table = read_text_table(path)
    missing = missing_columns(table)
    if missing:
        raise RamsesError(
            f"{path}: column {', '.join(missing)} is missing (found: {', '.join(table.columns) or 'none'}); "
            f"add it, see datasets/README.md"
        )
    table = convert_columns(table, partial(_raise_first, path))
    table["label"] = table["label"].astype(np.int64)
    return table


def missing_columns(table: pd.DataFrame) -> list[str]:
    """The columns that every ``annotations.csv`` must have and this one lacks."""
    return [name for name in REQUIRED_COLUMNS if name not in table.columns]


def convert_columns(table: pd.DataFrame, reject: Reject) -> pd.DataFrame:
    """Give every column its type.

    Args:
        table: from :func:`read_text_table`, with the required columns.
        reject: called with the values that cannot be used, perhaps twice for one value; where it returns, they become
            NaN, "" or False.

    Returns:
        the columns that :func:`read_annotations` describes; ``label`` is float.
    """
    table = table.copy()
    for name in _NUMBER_COLUMNS:
        if name in table.columns:
            table[name] = _numbers(table[name], reject)
    for name in ("mass", "area"):
        if name not in table.columns:
            table[name] = np.nan
    table["gt_mass"] = _truths(table["gt_mass"], reject) if "gt_mass" in table.columns else False

    reject(table["baseimg"] == "", table["baseimg"], "give the image's base name")
    reject(table["class"] == "", table["class"], "give the class name")
    label, res, mass = table["label"], table["res"], table["mass"]
    for column, wrong, remedy in (
        (label, ~(label.between(1, MAX_LABEL) & (label % 1 == 0)), f"a label is a whole number from 1 to {MAX_LABEL}"),
        (res, ~(res > 0) | np.isinf(res), "the resolution is px per mm, above 0"),
        (mass, (mass <= 0) | np.isinf(mass), "a mass is in grams, above 0, or NaN where unknown"),
    ):
        reject(wrong, column, remedy)
        table[column.name] = column.mask(wrong)
    for name in (name for name in _SIZE_COLUMNS if name in table.columns):
        wrong = (table[name] < 1) | np.isinf(table[name])
        reject(wrong, table[name], "the size of the image is in px, 1 or more, or blank")
        table[name] = table[name].mask(wrong)
    return table


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
    """All cells as stripped text, blank lines dropped, index = row number in the file.

    Args:
        path: the file.
        content: read this instead of the file's content.
    """
    if not path.is_file():
        raise RamsesError(f"{path}: no such file; a RAMSES folder holds annotations.csv, images/ and labels/")
    try:
        table, header = (_read_cells(path, content, **rows) for rows in ({}, {"header": None, "nrows": 1}))
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


def _read_cells(path: Path, content: str | None, **rows: Any) -> pd.DataFrame:
    """All cells of a CSV, or those of the rows that pandas is told to read."""
    source = path if content is None else StringIO(content)
    text = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}
    return pd.read_csv(source, **text, **rows)


def describe_value(name: str, value: str | float, remedy: str) -> str:
    """What is wrong with a value of column ``name``, and what to do."""
    return f"{name} is {f'{value:g}' if isinstance(value, float) else repr(value)}; {remedy}"


def _numbers(column: pd.Series, reject: Reject) -> pd.Series:
    """Text to float; an unknown value ("", "NaN" ...) becomes NaN."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    reject(numbers.isna() & ~column.str.lower().isin(_UNKNOWN), column, "write a number, with a decimal point")
    return numbers


def _truths(column: pd.Series, reject: Reject) -> pd.Series:
    truths = column.str.lower().map(_TRUTH)
    reject(truths.isna(), column, "write True or False")
    return truths.eq(True)


def _raise_first(path: Path, wrong: pd.Series, column: pd.Series, remedy: str) -> None:
    """Raise for the first row in which ``wrong`` is true."""
    if wrong.any():
        row = wrong.idxmax()
        raise RamsesError(f"{path}, row {row}: {describe_value(column.name, column[row], remedy)}")


logger = logging.getLogger(__name__)

# CSV columns that hold left, top, right, bottom
CONVENTIONS = {
    "x0, x1 are rows, y0, y1 are columns": ["y0", "x0", "y1", "x1"],
    "x0, x1 are columns, y0, y1 are rows": ["x0", "y0", "x1", "y1"],
}
_PROBED_IMAGES = 5
_AGREEING = 0.9  # share of the compared boxes
_TOLERANCE = 1  # px: some producers write inclusive ends


def xyxy_boxes(groups: Mapping[str, pd.DataFrame], labels: Mapping[str, Path], csv_path: Path) -> dict[str, np.ndarray]:
    """Boxes of every image; says in the log which convention the CSV follows.

    Where the CSV has no boxes, or boxes that match neither convention, they are taken from the label images,
    which means decoding all of them.

    Args:
        groups: base name -> the image's K rows.
        labels: base name -> label image.
        csv_path: for the log.

    Returns:
        base name -> float (K, 4) XYXY_ABS, end exclusive; zeros for a row without pixels.
    """
    if not groups:
        return {}
    columns = None
    if not set(BOX_COLUMNS) <= set(next(iter(groups.values())).columns):
        logger.info("%s: no box columns; boxes are taken from the label images", csv_path)
    elif (convention := _detect(groups, labels)) is not None:
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


def _detect(groups: Mapping[str, pd.DataFrame], labels: Mapping[str, Path]) -> str | None:
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


METADATA_NAME = "metadata.json"


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
