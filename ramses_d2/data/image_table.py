"""The images of annotation tables: their names, where they are, what they hold, and why some cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

from .annotations_csv import read_annotations
from .folder import build_dataset_dicts, folder_class_names, load_folder
from .image_names import IMAGE_SUFFIXES, base_name

EmptyImage = tuple[str, str, float]  # folder, base name, resolution in px/mm


def read_folders(folders: Sequence[str | Path]) -> pd.DataFrame:
    """The annotations of RAMSES folders in one table, with ``folder`` (absolute path), indexed by CSV row.

    Raises:
        RamsesError: a folder is given twice; anything missing or wrong.
    """
    paths = [Path(folder).resolve() for folder in folders]
    if not paths or len(set(paths)) < len(paths):
        raise RamsesError(f"data set folders {', '.join(map(str, folders)) or '(none)'}: name each of them once")
    tables = []
    for path in paths:
        if not path.is_dir():
            raise RamsesError(f"{path}: no such folder; a RAMSES folder holds annotations.csv, images/ and labels/")
        tables.append(read_annotations(path / "annotations.csv").assign(folder=str(path)))
    return pd.concat(tables)


def common_class_names(folders: Sequence[str | Path], table: pd.DataFrame) -> list[str]:
    """Class order of several folders: that of their classes.json, else the sorted names in the table.

    Raises:
        RamsesError: the classes.json of two folders differ.
    """
    orders = {
        path: folder_class_names(path.parent)
        for path in (Path(folder) / "classes.json" for folder in folders)
        if path.is_file()
    }
    class_names = next(iter(orders.values()), sorted(table["class"].unique()))
    for path, order in orders.items():
        if order != class_names:
            raise RamsesError(f"{path} differs from {next(iter(orders))}; the folders of a split have one class order")
    return class_names


def find_empty_images(table: pd.DataFrame, folders: Sequence[str | Path]) -> list[EmptyImage]:
    """Images that have a label image, but no rows in the table of :func:`read_folders`.

    Raises:
        RamsesError: the resolution of one of them is unknown.
    """
    found: list[EmptyImage] = []
    for folder in map(Path, folders):
        path = folder.resolve()
        rows = table[table["folder"] == str(path)]
        images, labelled = _files(path)
        if empty := (images & labelled) - set(rows["baseimg"].map(base_name)):
            dataset_dicts, _ = load_folder(folder, sorted(table["class"].unique()), only=empty)
            found += [
                (str(path), dataset_dict["image_name"].rpartition("/")[2], dataset_dict["resolution"])
                for dataset_dict in dataset_dicts
            ]
    return found


def folder_keys(folders: Iterable[str]) -> dict[str, str]:
    """Folder -> short name: the last part of its path, numbered where several folders have the same."""
    keys: dict[str, str] = {}
    for folder in dict.fromkeys(folders):
        last = folder.replace("\\", "/").rstrip("/").rpartition("/")[2] or "data"
        key, number = last, 1
        while key in keys.values():
            number += 1
            key = f"{last}-{number}"
        keys[folder] = key
    return keys


def locate_images(
    annotations: pd.DataFrame, empty: Sequence[EmptyImage], keys: Mapping[str, str], bare_names: bool
) -> tuple[pd.DataFrame, pd.Series]:
    """Name the images.

    Args:
        annotations: with ``folder`` and ``baseimg``.
        empty: images without rows.
        keys: folder -> key.
        bare_names: base names, instead of ``<folder key>/<base name>``.

    Returns:
        one row per image, in the order of the annotations, with ``picture`` (its name; equal ones only if bare),
        ``folder``, ``base``, ``key`` and ``res`` (px/mm, NaN = unknown); and the image of every annotation.
    """
    rows = pd.DataFrame({"folder": annotations["folder"], "base": annotations["baseimg"].map(base_name)})
    rows["res"] = pd.to_numeric(annotations["res"], errors="coerce") if "res" in annotations else np.nan
    places = pd.concat([rows, pd.DataFrame(empty, columns=list(rows))], ignore_index=True)
    places["key"] = places["folder"].map(keys)
    places.insert(0, "picture", places["base"] if bare_names else places["key"] + "/" + places["base"])
    names = places["picture"].iloc[: len(rows)]
    return places.drop_duplicates(["folder", "base"], ignore_index=True), names


def rejected_images(
    places: pd.DataFrame,
    rows: pd.DataFrame,
    counts: pd.DataFrame,
    cls_to_idx: Mapping[str, int],
    *,
    minres: float,
    mininst: int,
    maxinst: int,
    exclude: Sequence[str],
    ratio: float | None,
) -> dict[str, str]:
    """Images that cannot be used, and why.

    Args:
        places: from :func:`locate_images`.
        rows: the annotations, with ``picture``, indexed by CSV row.
        counts: particles, images x classes.
        cls_to_idx: its classes are the known ones.
        minres: lowest resolution, px/mm.
        mininst: fewest particles.
        maxinst: most particles.
        exclude: classes.
        ratio: height / width of the window that a crop keeps, None = no crop.

    Raises:
        RamsesError: a folder is missing, or what a limit needs.
    """
    particles = counts.sum(axis=1)
    tests = {
        f"resolution below {minres:g} px/mm": places.loc[places["res"] < minres, "picture"],
        f"fewer than {mininst} particles": particles.index[particles < mininst],
        f"more than {maxinst} particles": particles.index[particles > maxinst],
    }
    for name in counts.columns:
        if name in exclude or name not in cls_to_idx:
            reason = f"class {name} excluded" if name in exclude else f"class {name} not in the class list"
            tests[reason] = counts.index[counts[name] > 0]
    reasons = _missing_files(places)
    for reason, names in tests.items():
        reasons = dict.fromkeys(names, reason) | reasons
    if ratio is not None:
        left = places[~places["picture"].isin(list(reasons))]
        reasons |= dict.fromkeys(_cut_images(left, rows, ratio), "particle outside of the crop")
    return reasons


def is_cut(boxes: np.ndarray, size: tuple[int, int], ratio: float) -> bool:
    """Whether a box touches or leaves the window that the crop to an aspect ratio keeps (reference section 6.5).

    The window is turned as the image is, as the training canvas is, and lies for a square one. Sides where nothing is
    cropped do not count. The odd pixel is cropped on the right and at the bottom.

    Args:
        boxes: (K, 4) XYXY, end exclusive, px.
        size: (H, W) of the image, px.
        ratio: height / width of the window, or width / height.
    """
    height, width = size
    ratio = min(ratio, 1 / ratio) if height <= width else max(ratio, 1 / ratio)
    kept_h = min(round(width * ratio), height)
    kept_w = min(round(kept_h / ratio), width)
    for start, end, length, kept in ((0, 2, width, kept_w), (1, 3, height, kept_h)):
        offset = (length - kept) // 2
        if kept < length and ((boxes[:, start] <= offset) | (boxes[:, end] >= offset + kept)).any():
            return True
    return False


def _missing_files(places: pd.DataFrame) -> dict[str, str]:
    reasons = {}
    for folder, image_files in places.groupby("folder", sort=False):
        if not Path(folder).is_dir():
            raise RamsesError(f"{folder}: no such folder; correct the column folder of the annotations")
        images, labelled = _files(Path(folder))
        for name, base in zip(image_files["picture"], image_files["base"], strict=True):
            if base not in images:
                reasons[name] = "image missing"
            elif base not in labelled:
                reasons[name] = "label image missing"
    return reasons


def _files(folder: Path) -> tuple[set[str], set[str]]:
    """Base names of the images and of the label images."""
    found = (folder / "images").iterdir() if (folder / "images").is_dir() else ()
    images = {path.stem for path in found if path.suffix.lower() in IMAGE_SUFFIXES}
    return images, {path.stem for path in (folder / "labels").glob("*.png")}


def _cut_images(places: pd.DataFrame, rows: pd.DataFrame, ratio: float) -> list[str]:
    cut = []
    defaults = {"mass": np.nan, "area": np.nan, "gt_mass": False}
    rows = rows.assign(**{name: value for name, value in defaults.items() if name not in rows})
    for (folder, key), images in places.groupby(["folder", "key"], sort=False):
        names = dict(zip(images["base"], images["picture"], strict=True))
        inside = rows[(rows["folder"] == folder) & rows["picture"].isin(images["picture"])]
        csv_path, classes = Path(folder) / "annotations.csv", sorted(inside["class"].unique())
        with_rows = set(inside["baseimg"].map(base_name))
        for dataset_dict in build_dataset_dicts(Path(folder), inside, csv_path, classes, key=key, only=with_rows):
            boxes = np.array([annotation["bbox"] for annotation in dataset_dict["annotations"]]).reshape(-1, 4)
            if is_cut(boxes, (dataset_dict["height"], dataset_dict["width"]), ratio):
                cut.append(names[dataset_dict["image_name"].removeprefix(f"{key}/")])
    return cut
