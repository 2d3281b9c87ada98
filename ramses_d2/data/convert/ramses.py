"""RAMSES folders: read one, or what a `ramses://` URI names, for another format; write one, whatever it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ramses_d2.data.batch_masses import parse_batches
from ramses_d2.data.catalog import register
from ramses_d2.data.convert.common import BOX_COLUMNS, ConversionReport, Source, SourceImage, unique_names
from ramses_d2.data.folder import METADATA_NAME, image_entries, load_folder, read_annotations, read_metadata
from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES, base_names, write_json

# Column order of the original's annotations.csv, where x0 and x1 are ROWS; feret and radius only where they are known
COLUMNS = (
    *("label", "baseimg", "area", "x0", "y0", "x1", "y1", "feret", "radius"),
    *("class", "res", "mass", "gt_mass", "height", "width"),
)
# Columns that a dataset dict has already, that are measured anew, or that mean something else in COCO
NOT_FURTHER = {*COLUMNS, "id", "image_id", "category_id", "bbox", "segmentation", "iscrowd"} - {"feret", "radius"}


def read_ramses(source: str | Path) -> Source:
    """Read a folder, `ramses://FOLDER` or `ramses://split.json#SUBSET`, with its complete batches.

    All numeric columns of annotations.csv come along. An image that a split repeats is taken once.
    """
    if str(source).startswith("ramses://"):
        name = register(str(source))
        dataset_dicts, classes = DatasetCatalog.get(name), MetadataCatalog.get(name).thing_classes
    else:
        dataset_dicts, classes = load_folder(source)
    dataset_dicts = list({dataset_dict["image_id"]: dataset_dict for dataset_dict in dataset_dicts}.values())
    if not dataset_dicts:
        raise RamsesError(f"{source}: no image with annotations or a label image")
    paths = [Path(dataset_dict["file_name"]) for dataset_dict in dataset_dicts]
    listed = zip(dataset_dicts, paths, strict=True)
    names = unique_names([Path(dataset_dict["image_name"] + path.suffix) for dataset_dict, path in listed])
    names = dict(zip(paths, names, strict=True))
    notes: Counter[str] = Counter()
    folders = list(dict.fromkeys(path.parent.parent for path in paths))
    columns = {folder: _further_columns(folder, notes) for folder in folders}
    entries = {folder: image_entries(folder) for folder in folders}

    def images() -> Iterator[SourceImage]:
        for dataset_dict, path in zip(dataset_dicts, paths, strict=True):
            folder = path.parent.parent
            objects = pd.DataFrame(dataset_dict["annotations"], columns=["label", "category_id", "mass", "gt_mass"])
            objects["class"] = [classes[index] for index in objects.pop("category_id")]
            if (further := columns[folder].get(path.stem)) is not None:
                objects = objects.merge(further, how="left", left_on="label", right_index=True)
            entry = entries[folder].get(path.stem, {})
            details = {key: entry[key] for key in entry if key not in ("file_name", "res", "height", "width")}
            label_map = read_label_map(dataset_dict)
            yield SourceImage(names[path], path, label_map, objects, dataset_dict["resolution"], details)

    batches = [batch for folder in folders for batch in _batches(folder, names, notes)]
    return Source(str(source), list(classes), images(), len(dataset_dicts), batches, notes)


def _further_columns(folder: Path, notes: Counter[str]) -> dict[str, pd.DataFrame]:
    """Base name -> the numeric columns of annotations.csv that a dataset dict leaves out, indexed by label."""
    path = folder / "annotations.csv"
    if not path.is_file():
        return {}
    table = read_annotations(path)
    further = table.drop(columns=[name for name in table if name in NOT_FURTHER])
    numbers = further.apply(pd.to_numeric, errors="coerce")
    blank = further.isin(["", "nan", "NaN", "NA", "None", "null"])
    is_number = (numbers.notna() | blank).all() & numbers.notna().any()
    for name in further.columns[~is_number]:
        notes[f"column of text left out: {name}"] += 1
    numbers = numbers.loc[:, is_number].set_index(table["label"])
    if numbers.empty:
        return {}
    bases = base_names(table["baseimg"], {image.stem for image in (folder / "images").iterdir()})
    return dict(list(numbers.groupby(bases.to_numpy())))


def _batches(folder: Path, names: dict[Path, str], notes: Counter[str]) -> list[dict[str, Any]]:
    """The folder's batches whose images are all read, under their new names: a part would not have its mass."""
    new_names = {path.stem: f"{name}{path.suffix}" for path, name in names.items() if path.parent.parent == folder}
    batches, kept = read_metadata(folder).get("batches", []), []
    for batch, parsed in zip(batches, parse_batches(batches, folder / METADATA_NAME), strict=True):
        if all(base in new_names for base in parsed.images):
            kept.append(batch | {"image_names": [new_names[base] for base in parsed.images]})
        else:
            notes["batches left out because an image of them is not converted"] += 1
    return kept


def write_ramses(
    source: Source, output: str | Path, *, images: str = "copy", force: bool = False, progress: bool = False
) -> ConversionReport:
    """Write annotations.csv, labels/, images/ ("none": to be put there by hand), metadata.json and classes.json."""
    report = ConversionReport(source.origin, Path(output), "ramses")
    tables, entries = [], []
    with report.new_folder(force) as folder:
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        for image in report.count(source, progress):
            if image.path.suffix.lower() not in IMAGE_SUFFIXES:
                raise RamsesError(f"{image.path}: not an image that RAMSES reads ({' '.join(IMAGE_SUFFIXES)})")
            is_known = 0 < image.resolution < np.inf
            if len(image.objects) and not is_known:
                hint = "give --resolution PX_PER_MM, or use a COCO json, which needs none"
                raise RamsesError(f"{image.path}: its resolution is not known; {hint}")
            file_name = image.place(folder / "images", images)
            Image.fromarray(image.label_map.astype(np.uint16)).save(folder / "labels" / f"{image.name}.png")
            height, width = image.label_map.shape
            boxes = dict(zip(("y0", "x0", "y1", "x1"), (image.objects[name] for name in BOX_COLUMNS), strict=True))
            more = {"baseimg": image.name, "res": image.resolution, "height": height, "width": width}
            tables.append(image.objects.drop(columns=list(BOX_COLUMNS)).assign(**boxes, **more))
            entry = {"file_name": file_name} | ({"res": image.resolution} if is_known else {})
            entry |= {"height": height, "width": width}
            details = {key: value for key, value in image.details.items() if key not in (*entry, "res")}
            entries.append(entry | {"camera": "", "date": "", "tag": ""} | details)
        annotations = _joined(tables)
        # An image without objects has no rows to say its resolution; the rows of the others must then agree
        unknown = [entry["file_name"] for entry in entries if "res" not in entry]
        if unknown and annotations["res"].nunique() != 1:
            raise RamsesError(f"{unknown[0]}: an image without objects, of unknown resolution; give --resolution")
        annotations.to_csv(folder / "annotations.csv", index=False, na_rep="NaN")
        classes = {name: index for index, name in enumerate(source.classes, start=1)}
        metadata = {"images": entries, "batches": source.batches}
        for name, content in (("metadata.json", metadata), ("classes.json", classes)):
            write_json(folder / name, content, indent=1, ensure_ascii=False)
    if images != "none":
        report.uri = f"ramses://{output}"
    return report


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows in the original's column order, further columns behind."""
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=[name for name in COLUMNS if name not in ("feret", "radius")])
    annotations = pd.concat(filled, ignore_index=True)
    order = [name for name in COLUMNS if name in annotations]
    return annotations[order + [name for name in annotations if name not in order]]
