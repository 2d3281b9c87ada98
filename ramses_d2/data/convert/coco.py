"""COCO jsons, both ways.

Not part of COCO, written and read: `label`, `mass` (g), `gt_mass` and any further numeric column of an annotation;
`resolution` and `res` (px/mm, the same number) and the entries of metadata.json of an image; `batches` beside `images`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pycocotools.mask as mask_utils
from skimage.measure import find_contours

from ramses_d2.data.catalog import coco_uri
from ramses_d2.data.coco import find_image, load_coco, posix_name
from ramses_d2.data.convert.common import BOX_COLUMNS, ConversionReport, Source, SourceImage, unique_names
from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError
from ramses_d2.files import atomic_path, check_output, read_json, write_json
from ramses_d2.masks import encode_in_box, to_rle

ANNOTATIONS_NAME = "annotations.json"
SEGMENTATIONS = ("auto", "polygons", "rle")
GENERATOR = "ramses_d2 convert"
IMAGE_KEYS = {
    *("id", "file_name", "height", "width", "resolution", "res", "license"),
    *("date_captured", "coco_url", "flickr_url", "url"),
}
ANNOTATION_KEYS = {
    *("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"),
    *("label", "mass", "gt_mass", "class", "num_keypoints"),
}


def read_coco(json_path: str | Path, image_folder: str | Path | None = None) -> Source:
    """Read a COCO json as training does: crowds dropped, small objects painted over large ones.

    Its images are beside it or in images/ beside it by default. Objects keep their `label` where each of an image has
    one of its own.
    """
    json_path = Path(json_path)
    content = read_json(json_path)
    if image_folder is None:
        image_folder = _default_images(json_path.parent, content)
    dataset_dicts, classes = load_coco(json_path, image_folder)
    annotations = {annotation["id"]: annotation for annotation in content["annotations"]}
    entries = {image["id"]: image for image in content["images"]}
    entries = [entries[dataset_dict["coco_image_id"]] for dataset_dict in dataset_dicts]
    listed = zip(entries, dataset_dicts, strict=True)
    names = unique_names([Path(posix_name(entry.get("file_name") or each["file_name"])) for entry, each in listed])
    notes: Counter[str] = Counter()
    notes["crowd annotations left out"] = sum(bool(annotation.get("iscrowd")) for annotation in annotations.values())
    kept = sum(len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts)
    notes["annotations without a segmentation left out"] = len(annotations) - notes["crowd annotations left out"] - kept

    def images() -> Iterator[SourceImage]:
        for dataset_dict, entry, name in zip(dataset_dicts, entries, names, strict=True):
            label_map = read_label_map(dataset_dict)
            size = label_map.shape
            rles = (to_rle(each["segmentation"], *size) for each in dataset_dict["annotations"])
            overlap = sum(int(mask_utils.area(rle)) for rle in rles) - int(np.count_nonzero(label_map))
            notes["pixels of overlapping objects given to the smaller one"] += overlap
            objects = _objects(dataset_dict["annotations"], annotations, classes)
            label_map = np.r_[0, objects["label"].to_numpy(np.int64)][label_map]  # the n-th object is painted as n
            details = {k: v for k, v in entry.items() if k not in IMAGE_KEYS and isinstance(v, (str, int, float))}
            if entry.get("date_captured"):
                details["date"] = entry["date_captured"]
            path = Path(dataset_dict["file_name"])
            yield SourceImage(name, path, label_map, objects, dataset_dict["resolution"], details)

    return Source(str(json_path), classes, images(), len(dataset_dicts), content.get("batches") or [], notes)


def _default_images(beside: Path, content: Any) -> Path:
    """The json's folder, or images/ in it where the first image is only there."""
    images = content.get("images") if isinstance(content, dict) else None
    name = images[0].get("file_name") if images and isinstance(images[0], dict) else None
    if isinstance(name, str) and find_image(beside, name) is None and find_image(beside / "images", name) is not None:
        return beside / "images"
    return beside


def _objects(entries: list[dict[str, Any]], annotations: dict[Any, dict[str, Any]], classes: list[str]) -> pd.DataFrame:
    """One row per object: what its dataset dict has, and the further numbers of its annotation."""
    rows = []
    for entry in entries:
        annotation = annotations[entry["coco_id"]]
        row = {"label": annotation.get("label"), "class": classes[entry["category_id"]]}
        row |= {"mass": entry["mass"], "gt_mass": entry["gt_mass"]}
        further = {k: v for k, v in annotation.items() if k not in ANNOTATION_KEYS and type(v) in (int, float)}
        rows.append(row | further)
    labels = [row["label"] for row in rows]
    if not all(type(label) is int and label > 0 for label in labels) or len(set(labels)) < len(labels):
        labels = [entry["label"] for entry in entries]
    return pd.DataFrame(rows, columns=None if rows else ["label", "class"]).assign(label=labels)


def write_coco(
    source: Source,
    output: str | Path,
    *,
    segmentation: str = "auto",
    images: str = "copy",
    force: bool = False,
    progress: bool = False,
) -> ConversionReport:
    """Write a COCO json with ids from 1, boxes [left, top, width, height] and areas in px.

    `NAME.json` is the json alone, with file names relative to the images' common folder; another output is a folder
    with annotations.json and images/. Segmentation "auto": polygons where they give back the object pixel for pixel,
    RLE where it has holes.
    """
    if segmentation not in SEGMENTATIONS:
        raise RamsesError(f"segmentation {segmentation!r}: choose from {', '.join(SEGMENTATIONS)}")
    report = ConversionReport(source.origin, Path(output), "coco")
    alone = report.output.suffix.lower() == ".json"
    categories = {name: index for index, name in enumerate(source.classes, start=1)}
    paths: list[Path] = []
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with _new_json(report.output, force) if alone else report.new_folder(force) as target:
        if not alone:
            (target / "images").mkdir()
        for image in report.count(source, progress):
            paths.append(image.path.absolute())
            file_name = image.path.name if alone else image.place(target / "images", images)
            entries.append({"id": len(paths), "file_name": file_name} | _image_entry(image))
            for row in image.objects.to_dict("records"):
                left, top, right, bottom = (row[name] for name in BOX_COLUMNS)
                mask = image.label_map[top:bottom, left:right] == row["label"]
                shape, exact = coco_segmentation(mask, left, top, image.label_map.shape, segmentation)
                if not exact:
                    source.notes["objects whose polygons lose their holes"] += 1
                annotation = {"id": len(annotations) + 1, "image_id": len(paths)}
                annotation |= {"category_id": categories[row["class"]], "segmentation": shape, "area": row["area"]}
                annotation |= {"bbox": [left, top, right - left, bottom - top], "iscrowd": 0, "label": row["label"]}
                annotation |= {} if math.isnan(row["mass"]) else {"mass": row["mass"]}
                further = [name for name in row if name not in (*ANNOTATION_KEYS, *BOX_COLUMNS)]
                annotation |= {"gt_mass": row["gt_mass"]}
                annotations.append(annotation | {name: row[name] for name in further if not math.isnan(row[name])})
        common = report.output / "images"
        if alone:
            common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
            for entry, path in zip(entries, paths, strict=True):
                entry["file_name"] = path.relative_to(common).as_posix()
        content = {
            "info": {"description": f"converted from {source.origin}", "contributor": GENERATOR},
            "licenses": [],
            "categories": [{"id": index, "name": name, "supercategory": ""} for name, index in categories.items()],
            "images": entries,
            "annotations": annotations,
            "batches": source.batches,
        }
        path = target if alone else target / ANNOTATIONS_NAME
        write_json(path, content, ensure_ascii=False, separators=(",", ":"))
    if alone or images != "none":
        report.uri = coco_uri(report.output if alone else report.output / ANNOTATIONS_NAME, common)
    return report


@contextmanager
def _new_json(output: Path, force: bool) -> Iterator[Path]:
    """A file to write, which becomes the output; one that is there is replaced if a conversion wrote it."""
    check_output(output, force)
    try:
        is_foreign = output.exists() and read_json(output)["info"]["contributor"] != GENERATOR
    except (RamsesError, LookupError, TypeError):
        is_foreign = True
    if is_foreign:
        raise RamsesError(f"{output} was not written by a conversion: refusing to replace it; choose another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as unfinished:
        yield unfinished


def _image_entry(image: SourceImage) -> dict[str, Any]:
    height, width = image.label_map.shape
    resolution = {} if math.isnan(image.resolution) else {"resolution": image.resolution, "res": image.resolution}
    details = {key: value for key, value in image.details.items() if key not in IMAGE_KEYS}
    date = {"date_captured": details.pop("date")} if details.get("date") else {}
    return {"height": height, "width": width} | resolution | date | details


def coco_segmentation(
    mask: np.ndarray, x0: int, y0: int, shape: tuple[int, int], kind: str = "auto"
) -> tuple[Any, bool]:
    """Polygons [x, y, x, y, ...] or RLE of a mask (h, w) whose box begins at x0, y0 of an image (H, W); whether exact.

    COCO polygons are filled and united, so they cannot have a hole. The outline goes through the middle between inner
    and outer pixels (marching squares), which pycocotools turns back into exactly the same pixels.
    """
    if kind != "rle":
        polygons = _polygons(mask)
        rles = mask_utils.frPyObjects([polygon.ravel().tolist() for polygon in polygons], *mask.shape)
        exact = bool((mask_utils.decode(mask_utils.merge(rles)) == mask).all())
        if exact or kind == "polygons":
            return [(polygon + (x0, y0)).ravel().tolist() for polygon in polygons], exact
    rle = encode_in_box(mask, x0, y0, *shape)
    return {"size": list(shape), "counts": rle["counts"].decode("ascii")}, True


def _polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Outer outlines, (n, 2) x and y from the box's corner, px."""
    polygons = []
    for contour in find_contours(np.pad(mask, 1).astype(np.uint8), 0.5, fully_connected="low"):
        points = contour[:-1, ::-1] - 0.5  # less the padding, plus half a pixel: a pixel's corner has whole numbers
        before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
        turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        x, y = points.T
        signed_area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
        if signed_area > 0:  # skimage walks round a hole the other way
            polygons.append(points[turn != 0])
    return polygons
