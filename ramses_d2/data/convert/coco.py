"""COCO jsons, both ways.

Not part of COCO, written and read: ``label``, ``mass`` (g), ``gt_mass`` and any further numeric column of an
annotation; ``resolution`` and ``res`` (px/mm, the same number) and the entries of metadata.json of an image; the list
``batches`` beside ``images``.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pycocotools.mask as mask_utils

from ramses_d2.data.catalog import coco_uri
from ramses_d2.data.coco import find_image, load_coco, posix_name
from ramses_d2.data.convert.outline import SEGMENTATIONS, coco_segmentation
from ramses_d2.data.convert.output import Report, new_file, new_folder, place_image, reported, write_json
from ramses_d2.data.convert.source import BOX_COLUMNS, Source, SourceImage, unique_names
from ramses_d2.data.folder import DatasetDict
from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError
from ramses_d2.files import read_json

ANNOTATIONS_NAME = "annotations.json"
_GENERATOR = "ramses_d2 convert"
_IMAGE_KEYS = {
    *("id", "file_name", "height", "width", "resolution", "res", "license"),
    *("date_captured", "coco_url", "flickr_url", "url"),
}
_ANNOTATION_KEYS = {
    *("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"),
    *("label", "mass", "gt_mass", "class", "painted", "num_keypoints"),
}


def read_coco(json_path: str | Path, image_folder: str | Path | None = None) -> Source:
    """Read a COCO json as training does: crowds dropped, small objects painted over large ones.

    Args:
        json_path: the annotation file.
        image_folder: where its images are; default: beside it, or in ``images/`` beside it.

    Returns:
        the images; an object keeps its ``label`` where every object of its image has one of its own.

    Raises:
        RamsesError: see :func:`ramses_d2.data.load_coco`.
    """
    json_path = Path(json_path)
    content = read_json(json_path)
    if image_folder is None:
        image_folder = _default_images(json_path, content)
    dataset_dicts, classes = load_coco(json_path, image_folder)
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    entries = {image["id"]: image for image in content["images"]}
    images = [entries[dataset_dict["coco_image_id"]] for dataset_dict in dataset_dicts]
    notes: Counter[str] = Counter()
    crowds = sum(1 for annotation in content["annotations"] if annotation.get("iscrowd", 0))
    notes["crowd annotations left out"] = crowds
    kept = sum(len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts)
    notes["annotations without an outline left out"] = len(content["annotations"]) - crowds - kept
    return Source(
        origin=str(json_path),
        classes=classes,
        images=_images(dataset_dicts, images, annotations, classes, notes),
        count=len(dataset_dicts),
        batches=content.get("batches") or [],
        notes=notes,
    )


def write_coco(
    source: Source,
    output: str | Path,
    *,
    segmentation: str = "auto",
    images: str = "copy",
    force: bool = False,
    progress: bool = False,
) -> Report:
    """Write a COCO json with ids from 1, boxes [left, top, width, height] and areas in pixels.

    Args:
        source: what one of the readers returned.
        output: ``NAME.json``: the json alone, whose file names are relative to the images' common folder; else a
            folder to create, with annotations.json and images/.
        segmentation: "polygons", "rle", or "auto": polygons for the objects that they give back pixel for pixel, run
            lengths for the others (those with holes).
        images: for a folder: "copy", "link" or "none".
        force: replace what a conversion wrote.
        progress: show a progress bar.

    Returns:
        what was written.

    Raises:
        RamsesError: something wrong in the source; ``output`` exists.
    """
    if segmentation not in SEGMENTATIONS:
        raise RamsesError(f"segmentation {segmentation!r}: choose from {', '.join(SEGMENTATIONS)}")
    output = Path(output)
    report = Report(source.origin, output, "coco")
    if output.suffix.lower() == ".json":
        content = _Content(source, segmentation)
        paths = []
        with new_file(output, output.is_file() and _is_ours(output), force) as unfinished:
            for image_file in reported(source, report, progress):
                paths.append(image_file.path.absolute())
                content.add(image_file, image_file.path.name)
            common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
            for image, path in zip(content.images, paths, strict=True):
                image["file_name"] = path.relative_to(common).as_posix()
            write_json(unfinished, content.to_json(), indent=None)
        report.address = coco_uri(output, common)
        return report
    with new_folder(output, report, force) as folder:
        (folder / "images").mkdir()
        content = _Content(source, segmentation)
        for image_file in reported(source, report, progress):
            content.add(
                image_file, place_image(image_file, folder / "images", images, upright=False, notes=source.notes)
            )
        write_json(folder / ANNOTATIONS_NAME, content.to_json(), indent=None)
    if images != "none":
        report.address = coco_uri(output / ANNOTATIONS_NAME, output / "images")
    return report


class _Content:
    """The lists of a COCO json, filled image by image."""

    def __init__(self, source: Source, segmentation: str) -> None:
        self.source = source
        self.segmentation = segmentation
        self.category_ids = {name: index for index, name in enumerate(source.classes, start=1)}
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, image_file: SourceImage, file_name: str) -> None:
        """Append one image and its objects."""
        image_id = len(self.images) + 1
        height, width = image_file.label_map.shape
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        if not math.isnan(image_file.resolution):
            image |= {"resolution": image_file.resolution, "res": image_file.resolution}
        details = dict(image_file.details)
        if details.get("date"):
            image["date_captured"] = details.pop("date")
        self.images.append(image | {key: value for key, value in details.items() if key not in _IMAGE_KEYS})
        further = [name for name in image_file.objects if name not in (*_ANNOTATION_KEYS, *BOX_COLUMNS, "class")]
        for row in image_file.objects.to_dict("records"):
            self.annotations.append(
                {"id": len(self.annotations) + 1, "image_id": image_id, "category_id": self.category_ids[row["class"]]}
                | self._geometry(row, image_file.label_map)
                | {"iscrowd": 0, "label": row["label"]}
                | ({"mass": row["mass"]} if not math.isnan(row["mass"]) else {})
                | {"gt_mass": row["gt_mass"]}
                | {name: row[name] for name in further if not math.isnan(row[name])}
            )

    def _geometry(self, row: dict[str, Any], label_map: np.ndarray) -> dict[str, Any]:
        left, top, right, bottom = (row[name] for name in BOX_COLUMNS)
        mask = label_map[top:bottom, left:right] == row["label"]
        outline, exact = coco_segmentation(mask, left, top, label_map.shape, self.segmentation)
        if not exact:
            self.source.notes["objects whose polygons lose their holes"] += 1
        return {"segmentation": outline, "area": row["area"], "bbox": [left, top, right - left, bottom - top]}

    def to_json(self) -> dict[str, Any]:
        """The json's content."""
        return {
            "info": {"description": f"converted from {self.source.origin}", "contributor": _GENERATOR},
            "licenses": [],
            "categories": [
                {"id": index, "name": name, "supercategory": ""} for name, index in self.category_ids.items()
            ],
            "images": self.images,
            "annotations": self.annotations,
            "batches": self.source.batches,
        }


def _is_ours(path: Path) -> bool:
    """Whether a conversion wrote the json."""
    try:
        return read_json(path)["info"]["contributor"] == _GENERATOR
    except (RamsesError, LookupError, TypeError):
        return False


def _default_images(json_path: Path, content: Any) -> Path:
    """The json's folder, or images/ in it where the first image is only there."""
    beside = json_path.parent
    images = content.get("images") if isinstance(content, dict) else None
    name = images[0].get("file_name") if images and isinstance(images[0], dict) else None
    if isinstance(name, str) and find_image(beside, name) is None and find_image(beside / "images", name) is not None:
        return beside / "images"
    return beside


def _images(
    dataset_dicts: Sequence[DatasetDict],
    images: Sequence[dict[str, Any]],
    annotations: dict[int, list[dict[str, Any]]],
    classes: Sequence[str],
    notes: Counter[str],
) -> Iterator[SourceImage]:
    names = unique_names(
        [
            Path(posix_name(image.get("file_name") or dataset_dict["file_name"]))
            for image, dataset_dict in zip(images, dataset_dicts, strict=True)
        ]
    )
    for dataset_dict, image, name in zip(dataset_dicts, images, names, strict=True):
        label_map = read_label_map(dataset_dict)
        notes["pixels of overlapping objects given to the smaller one"] += _overlap(dataset_dict, label_map)
        rows = _rows(dataset_dict, annotations[image["id"]], classes)
        painted = [row.pop("painted") for row in rows]
        lookup = np.zeros(len(rows) + 1, dtype=np.int64)
        lookup[painted] = [row["label"] for row in rows]
        yield SourceImage(
            name=name,
            path=Path(dataset_dict["file_name"]),
            label_map=lookup[label_map],
            objects=pd.DataFrame(rows, columns=None if rows else ["label", "class", "mass", "gt_mass"]),
            resolution=dataset_dict["resolution"],
            details=_details(image),
        )


def _rows(
    dataset_dict: DatasetDict, annotations: Sequence[dict[str, Any]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per object: what its dataset dict has, and the further keys of its annotation."""
    by_id = {annotation["id"]: annotation for annotation in annotations}
    rows = []
    for entry in dataset_dict["annotations"]:
        annotation = by_id[entry["coco_id"]]
        row = {"painted": entry["label"], "label": annotation.get("label"), "class": classes[entry["category_id"]]}
        row |= {"mass": entry["mass"], "gt_mass": entry["gt_mass"]}
        rows.append(row | {key: value for key, value in annotation.items() if _is_further(key, value)})
    labels = [row["label"] for row in rows]
    if not all(type(label) is int and label > 0 for label in labels) or len(set(labels)) < len(labels):
        for row in rows:
            row["label"] = row["painted"]
    return rows


def _is_further(key: str, value: Any) -> bool:
    return key not in _ANNOTATION_KEYS and isinstance(value, (int, float)) and not isinstance(value, bool)


def _details(image: dict[str, Any]) -> dict[str, Any]:
    """Entries of metadata.json: plain values that COCO does not define, and the date."""
    details = {
        key: value for key, value in image.items() if key not in _IMAGE_KEYS and isinstance(value, (str, int, float))
    }
    return details | ({"date": image["date_captured"]} if image.get("date_captured") else {})


def _overlap(dataset_dict: DatasetDict, label_map: np.ndarray) -> int:
    """Pixels that were claimed more than once: those of all outlines less those painted."""
    claimed = 0
    for entry in dataset_dict["annotations"]:
        outline, height, width = entry["segmentation"], dataset_dict["height"], dataset_dict["width"]
        if isinstance(outline, list) or isinstance(outline["counts"], list):
            outline = mask_utils.frPyObjects(outline, height, width)
        rle = mask_utils.merge(outline) if isinstance(outline, list) else outline
        claimed += int(mask_utils.area(rle))
    return claimed - int(np.count_nonzero(label_map))
