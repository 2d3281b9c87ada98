"""Read a COCO json (polygons or RLE) into dataset records.

Categories become contiguous class ids in the order of their COCO ids. A category without annotations that is
only the supercategory of others (Roboflow writes such a dummy) is left out; every other category stays, used
or not, so that the training and validation files of one data set agree.

Masses and resolution are not part of COCO: ``mass`` (g) and ``gt_mass`` of an annotation, ``resolution`` or
``res`` (px/mm) of an image are read where present and unknown (NaN, False) elsewhere.
"""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
from detectron2.structures import BoxMode
from pycocotools.coco import COCO

from ramses_d2.errors import RamsesError

from .folder import Record, read_json

logger = logging.getLogger(__name__)


def load_coco(json_path: str | Path, image_folder: str | Path | None = None) -> tuple[list[Record], list[str]]:
    """Read a COCO data set.

    The objects of a picture get the labels 1 ... n from large to small, so that painting them in label order
    leaves the small ones on top. Crowd annotations are dropped; so are, with one warning, those without an
    outline.

    Args:
        json_path: the annotation file.
        image_folder: where its images are; default: beside it.

    Returns:
        records in the order of the image ids, and the class names.

    Raises:
        RamsesError: file, key or image missing; an annotation of an unknown category or image; no outline at
            all.
    """
    json_path = Path(json_path)
    image_folder = Path(image_folder) if image_folder is not None else json_path.parent
    key = image_folder.resolve().name
    coco = _index(json_path)
    categories = _categories(coco)
    category_ids = {category["id"]: index for index, category in enumerate(categories)}
    records, dropped = [], 0
    for coco_id in sorted(coco.imgs):
        image = coco.imgs[coco_id]
        path = image_folder / image["file_name"]
        if not path.is_file():
            raise RamsesError(
                f"{json_path}: image {path} is missing; give its folder as coco://FILE?images=DIR, or --image-folder"
            )
        crowd_free = [a for a in coco.imgToAnns[coco_id] if not a.get("iscrowd", 0)]
        outlined = [_measured(coco, a | {"segmentation": outline}) for a in crowd_free if (outline := _outline(a))]
        dropped += len(crowd_free) - len(outlined)
        resolution = _number(image.get("resolution", image.get("res")))
        if resolution <= 0:
            raise RamsesError(f"{json_path}: image {coco_id} has resolution {resolution:g}; it is px per mm, above 0")
        records.append(
            {
                "file_name": str(path),
                "image_id": len(records) + 1,
                "image_name": f"{key}/{Path(image['file_name']).with_suffix('').as_posix()}",
                "height": int(image["height"]),
                "width": int(image["width"]),
                "resolution": resolution,
                "annotations": _annotations(outlined, category_ids, json_path),
            }
        )
    if dropped and not any(record["annotations"] for record in records):
        raise RamsesError(f"{json_path}: no annotation has a segmentation; RAMSES learns from outlines, not from boxes")
    if dropped:
        logger.warning("%s: %d annotations without an outline are dropped", json_path, dropped)
    return records, [category["name"] for category in categories]


def coco_class_names(json_path: str | Path) -> list[str]:
    """Class order of a COCO json."""
    return [category["name"] for category in _categories(_index(Path(json_path)))]


def _index(json_path: Path) -> COCO:
    """pycocotools' index of the file, without its chatter on stdout."""
    content = read_json(json_path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise RamsesError(f"{json_path}: not a COCO data set, list {key!r} is missing")
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    for annotation in content["annotations"]:
        for key, known in (("image_id", coco.imgs), ("category_id", coco.cats)):
            if annotation.get(key) not in known:
                raise RamsesError(
                    f"{json_path}: annotation {annotation.get('id')} has {key} {annotation.get(key)!r}, "
                    f"which is not listed"
                )
    return coco


def _categories(coco: COCO) -> list[dict[str, Any]]:
    used = {annotation["category_id"] for annotation in coco.dataset["annotations"]}
    categories = [coco.cats[category_id] for category_id in sorted(coco.cats)]

    def is_dummy(category: dict[str, Any]) -> bool:
        is_parent = any(c.get("supercategory") == category["name"] for c in categories if c is not category)
        return is_parent and category["id"] not in used

    return [category for category in categories if not is_dummy(category)]


def _outline(annotation: dict[str, Any]) -> list[list[float]] | dict[str, Any] | None:
    """The segmentation without polygons of fewer than three points; None when nothing is left."""
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        return outline
    return [polygon for polygon in outline or [] if len(polygon) >= 6 and len(polygon) % 2 == 0] or None


def _measured(coco: COCO, annotation: dict[str, Any]) -> dict[str, Any]:
    """The annotation with area and box, measured on its outline where the file does not give them."""
    if annotation.get("area") is None or annotation.get("bbox") is None:
        rle = coco.annToRLE(annotation)
        annotation |= {"area": float(mask_utils.area(rle)), "bbox": mask_utils.toBbox(rle).tolist()}
    return annotation


def _annotations(annotations: list[dict[str, Any]], category_ids: dict[int, int], path: Path) -> list[dict[str, Any]]:
    """Annotations of one image in our fields, sorted by label."""
    large_to_small = sorted(annotations, key=lambda annotation: -annotation["area"])
    converted = []
    for label, annotation in enumerate(large_to_small, start=1):
        mass = _number(annotation.get("mass"))
        if mass <= 0:
            raise RamsesError(f"{path}: annotation {annotation.get('id')} has mass {mass:g}; it is in grams, above 0")
        converted.append(
            {
                "label": label,
                "category_id": category_ids[annotation["category_id"]],
                "bbox": BoxMode.convert(list(map(float, annotation["bbox"])), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS),
                "bbox_mode": BoxMode.XYXY_ABS,
                "area": float(annotation["area"]),
                "mass": mass,
                "gt_mass": bool(annotation.get("gt_mass", False)),
                "iscrowd": 0,
                "segmentation": annotation["segmentation"],
            }
        )
    return converted


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
