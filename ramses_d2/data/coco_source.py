"""Read a COCO json (polygons or RLE) into dataset dicts.

Masses and resolution are not part of COCO: ``mass`` (g) and ``gt_mass`` of an annotation, ``resolution`` or
``res`` (px/mm) of an image are read where present and unknown (NaN, False) elsewhere.
"""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import numpy as np
from detectron2.structures import BoxMode

from ramses_d2.errors import RamsesError

from .coco_file import CocoFile, CocoId, read_coco_file
from .folder import DatasetDict
from .outlines import measured, painting_order, usable_outline

logger = logging.getLogger(__name__)


def load_coco(
    json_path: str | Path, image_folder: str | Path | None = None, label_file: str | Path | None = None
) -> tuple[list[DatasetDict], list[str]]:
    """Read a COCO data set.

    The objects of an image get the labels 1 ... n from large to small, so that painting them in label order
    leaves the small ones on top. Crowd annotations are no objects; they are kept apart. Annotations without an outline
    are dropped, with one warning.

    Args:
        json_path: the annotation file.
        image_folder: where its images are; default: beside it.
        label_file: class names in class order, one a line; default: the order of the category ids.

    Returns:
        dataset dicts in the order of the image ids, and the class names. Beside the usual keys, these have the
        file's own ids (``coco_image_id``, ``coco_id`` of an annotation) and ``crowd``, where there is one.

    Raises:
        RamsesError: see :func:`~ramses_d2.data.coco_file.read_coco_file`; an image is missing, or a value is wrong; no
            outline at all.
    """
    coco = read_coco_file(json_path, label_file)
    image_folder = Path(image_folder) if image_folder is not None else coco.path.parent
    class_ids = {category_id: index for index, category_id in enumerate(coco.category_ids)}
    paths = _find_images(coco, image_folder)
    dataset_dicts, dropped = [], 0
    for coco_id, image in coco.images.items():
        size = _size(image, coco.path)
        resolution = _number(image.get("resolution", image.get("res")), f"{coco.path}: image {coco_id}", "resolution")
        if resolution <= 0:
            raise RamsesError(f"{coco.path}: image {coco_id} has resolution {resolution:g}; it is px per mm, above 0")
        outlined, crowd = [], []
        for annotation in coco.annotations.get(coco_id, ()):
            place = f"{coco.path}: annotation {annotation['id']}"
            outline = usable_outline(annotation.get("segmentation"), size, place)
            if outline is None:
                dropped += not annotation.get("iscrowd", 0)
                continue
            kept = measured(annotation | {"segmentation": outline}, size, place)
            (crowd if annotation.get("iscrowd", 0) else outlined).append(kept)
        dataset_dict = {
            "file_name": str(paths[coco_id]),
            "image_id": len(dataset_dicts) + 1,
            "coco_image_id": coco_id,
            "image_name": _image_name(image_folder, paths[coco_id]),
            "height": size[0],
            "width": size[1],
            "resolution": resolution,
            "annotations": _annotations(outlined, class_ids, coco.path),
        }
        if crowd:
            dataset_dict["crowd"] = [_crowd(annotation, class_ids) for annotation in crowd]
        dataset_dicts.append(dataset_dict)
    if dropped and not any(dataset_dict["annotations"] for dataset_dict in dataset_dicts):
        raise RamsesError(f"{coco.path}: no annotation has a segmentation; RAMSES learns from outlines, not from boxes")
    if dropped:
        logger.warning("%s: %d annotations without an outline are dropped", coco.path, dropped)
    return dataset_dicts, coco.class_names


def coco_classes(json_path: str | Path, label_file: str | Path | None = None) -> tuple[list[str], list[CocoId]]:
    """Class names in class order, and the category id of each in the file."""
    coco = read_coco_file(json_path, label_file)
    return coco.class_names, coco.category_ids


def posix_name(name: str) -> str:
    """A ``file_name`` with the separators of a path here; one written on Windows has backslashes."""
    return name.replace("\\", "/")


def find_image(folder: Path, name: str) -> Path | None:
    """The file that a ``file_name`` names, None if there is none; an absolute one stands for itself."""
    return next((path for path in (folder / name, folder / posix_name(name)) if path.is_file()), None)


def _find_images(coco: CocoFile, folder: Path) -> dict[CocoId, Path]:
    """The file of every image.

    Raises:
        RamsesError: one is not there.
    """
    paths, missing = {}, []
    for coco_id, image in coco.images.items():
        name = image.get("file_name")
        if name is not None and not isinstance(name, str):
            raise RamsesError(f"{coco.path}: image {coco_id} has file_name {name!r}; write the name as text")
        if not name:
            paths[coco_id] = _downloaded(coco, coco_id, folder)
            continue
        path = find_image(folder, name)
        if path is None:
            missing.append(folder / name)
        else:
            paths[coco_id] = path
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise RamsesError(
            f"{coco.path}: image {missing[0]} is missing{others}; give its folder as coco://FILE?images=DIR, or "
            f"--image-folder"
        )
    return paths


def _downloaded(coco: CocoFile, coco_id: CocoId, folder: Path) -> Path:
    """The file of an image that only has an address on the web."""
    url = coco.images[coco_id].get("coco_url") or coco.images[coco_id].get("flickr_url")
    if not url:
        raise RamsesError(f"{coco.path}: image {coco_id} has no file_name")
    path = folder / PurePosixPath(urlparse(url).path).name
    if not path.is_file():
        raise RamsesError(f"{coco.path}: image {coco_id} has no file_name; download {url} as {path}")
    return path


def _image_name(folder: Path, path: Path) -> str:
    """``<folder name>/<path in it without extension>``, also for an image elsewhere."""
    inside = path.relative_to(folder) if path.is_relative_to(folder) else path.relative_to(path.anchor)
    return f"{folder.resolve().name}/{inside.with_suffix('').as_posix()}"


def _size(image: dict[str, Any], path: Path) -> tuple[int, int]:
    """Height and width, px."""
    sides = image.get("height"), image.get("width")
    if not all(isinstance(side, int | float) and side >= 1 for side in sides):
        raise RamsesError(f"{path}: image {image['id']} has height {sides[0]}, width {sides[1]}; give its size in px")
    return int(sides[0]), int(sides[1])


def _annotations(annotations: list[dict[str, Any]], class_ids: dict[CocoId, int], path: Path) -> list[dict[str, Any]]:
    """Annotations of one image in our fields, sorted by label."""
    converted = []
    for label, annotation in enumerate(painting_order(annotations), start=1):
        mass = _number(annotation.get("mass"), f"{path}: annotation {annotation['id']}", "mass")
        if mass <= 0:
            raise RamsesError(f"{path}: annotation {annotation['id']} has mass {mass:g}; it is in grams, above 0")
        converted.append(
            {
                "label": label,
                "coco_id": annotation["id"],
                "category_id": class_ids[annotation["category_id"]],
                "bbox": BoxMode.convert(annotation["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS),
                "bbox_mode": BoxMode.XYXY_ABS,
                "area": float(annotation["area"]),
                "mass": mass,
                "gt_mass": bool(annotation.get("gt_mass", False)),
                "iscrowd": 0,
                "segmentation": annotation["segmentation"],
            }
        )
    return converted


def _crowd(annotation: dict[str, Any], class_ids: dict[CocoId, int]) -> dict[str, Any]:
    """A region of uncounted objects: nothing to learn from, and nothing in it is a false prediction."""
    return {
        "coco_id": annotation["id"],
        "category_id": class_ids[annotation["category_id"]],
        "bbox": annotation["bbox"],
        "area": float(annotation["area"]),
        "segmentation": annotation["segmentation"],
    }


def _number(value: Any, place: str, key: str) -> float:
    """A number, NaN where there is none."""
    try:
        return np.nan if value is None else float(value)
    except (TypeError, ValueError):
        raise RamsesError(f"{place} has {key} {value!r}, which is no number") from None
