"""Read a RAMSES folder, or what a ``ramses://`` address names, for writing it in another format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from detectron2.data import DatasetCatalog, MetadataCatalog

from ramses_d2.data.batch_masses import parse_batches
from ramses_d2.data.catalog import register
from ramses_d2.data.convert.source import Source, SourceImage, unique_names
from ramses_d2.data.folder import (
    BOX_COLUMNS,
    METADATA_NAME,
    DatasetDict,
    image_entries,
    load_folder,
    read_annotations,
    read_metadata,
)
from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError
from ramses_d2.files import base_names

# Columns that a dataset dict has already, or that are measured anew
_DATASET_DICT_COLUMNS = {
    *("label", "baseimg", "class", "res", "mass", "gt_mass", "area", "height", "width"),
    *BOX_COLUMNS,
    *("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd"),  # mean something else in COCO
}
_IMAGE_KEYS = ("file_name", "res", "height", "width")


def read_ramses(source: str | Path) -> Source:
    """Read a RAMSES data set.

    Args:
        source: a folder, or an address ``ramses://FOLDER`` or ``ramses://split.json#SUBSET``. An image that a split
            repeats is taken once.

    Returns:
        the images with all numeric columns of annotations.csv, and of metadata.json their entries and the batches
        that are complete.

    Raises:
        RamsesError: anything missing or wrong, with file and row.
    """
    if str(source).startswith("ramses://"):
        name = register(str(source))
        dataset_dicts, classes = DatasetCatalog.get(name), MetadataCatalog.get(name).thing_classes
    else:
        dataset_dicts, classes = load_folder(source)
    dataset_dicts = list({dataset_dict["image_id"]: dataset_dict for dataset_dict in dataset_dicts}.values())
    if not dataset_dicts:
        raise RamsesError(f"{source}: no image with annotations or a label image")
    names = unique_names(
        [Path(dataset_dict["image_name"] + Path(dataset_dict["file_name"]).suffix) for dataset_dict in dataset_dicts]
    )
    names = dict(zip((Path(dataset_dict["file_name"]) for dataset_dict in dataset_dicts), names, strict=True))
    notes: Counter[str] = Counter()
    folders = list(dict.fromkeys(path.parent.parent for path in names))
    columns = {folder: _further_columns(folder, notes) for folder in folders}
    entries = {folder: image_entries(folder) for folder in folders}
    return Source(
        origin=str(source),
        classes=list(classes),
        images=_images(dataset_dicts, names, classes, columns, entries),
        count=len(dataset_dicts),
        batches=[batch for folder in folders for batch in _batches(folder, names, notes)],
        notes=notes,
    )


def _images(
    dataset_dicts: list[DatasetDict],
    names: dict[Path, str],
    classes: Sequence[str],
    columns: dict[Path, dict[str, pd.DataFrame]],
    entries: dict[Path, dict[str, dict[str, Any]]],
) -> Iterator[SourceImage]:
    for dataset_dict in dataset_dicts:
        path = Path(dataset_dict["file_name"])
        folder = path.parent.parent
        objects = pd.DataFrame(dataset_dict["annotations"], columns=["label", "category_id", "mass", "gt_mass"])
        objects["class"] = [classes[index] for index in objects.pop("category_id")]
        further = columns[folder].get(path.stem)
        if further is not None:
            objects = objects.merge(further, how="left", left_on="label", right_index=True)
        entry = entries[folder].get(path.stem, {})
        yield SourceImage(
            name=names[path],
            path=path,
            label_map=read_label_map(dataset_dict),
            objects=objects,
            resolution=dataset_dict["resolution"],
            details={key: entry[key] for key in entry if key not in _IMAGE_KEYS},
        )


def _further_columns(folder: Path, notes: Counter[str]) -> dict[str, pd.DataFrame]:
    """Base name -> the numeric columns of annotations.csv that a dataset dict leaves out, indexed by label."""
    path = folder / "annotations.csv"
    if not path.is_file():
        return {}
    table = read_annotations(path)
    further = table.drop(columns=[name for name in table if name in _DATASET_DICT_COLUMNS])
    numbers = further.apply(pd.to_numeric, errors="coerce")
    blank = further.isin(["", "nan", "NaN", "NA", "None", "null"])
    is_number = (numbers.notna() | blank).all() & numbers.notna().any()
    for name in further.columns[~is_number]:
        notes[f"column of text left out: {name}"] += 1
    numbers = numbers.loc[:, is_number].assign(label=table["label"])
    if numbers.shape[1] == 1:
        return {}
    bases = base_names(table["baseimg"], {image.stem for image in (folder / "images").iterdir()})
    return {base: rows.set_index("label") for base, rows in numbers.groupby(bases)}


def _batches(folder: Path, names: dict[Path, str], notes: Counter[str]) -> list[dict[str, Any]]:
    """The folder's batches whose images are all read, under their new names: a part would not have its grams."""
    new_names = {path.stem: f"{name}{path.suffix}" for path, name in names.items() if path.parent.parent == folder}
    batches, kept = read_metadata(folder).get("batches", []), []
    for batch, parsed in zip(batches, parse_batches(batches, folder / METADATA_NAME), strict=True):
        if all(base in new_names for base in parsed.images):
            kept.append(batch | {"image_names": [new_names[base] for base in parsed.images]})
        else:
            notes["batches left out because an image of them is not converted"] += 1
    return kept
