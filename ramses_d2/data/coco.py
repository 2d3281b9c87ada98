"""COCO json: read and checked into dataset dicts, and dataset dicts back into a COCO ground truth for the evaluator."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pycocotools.mask as mask_utils
from detectron2.structures import BoxMode

from ramses_d2.data.folder import DatasetDict
from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError
from ramses_d2.files import check_resolution, read_json
from ramses_d2.masks import encode_label_map, json_rle, to_rle

logger = logging.getLogger(__name__)

CocoId = Hashable
NO_SEGMENTATION = "no annotation has a segmentation; RAMSES learns from masks, not from boxes"


@dataclass(frozen=True)
class CocoFile:
    """What a COCO json lists.

    Attributes:
        images: id -> entry, in the order of the ids.
        annotations: image id -> entries, in the file's order.
        category_ids: contiguous class id -> id in the file; a class the file lacks has one that the file does not use.
    """

    path: Path
    images: dict[CocoId, dict[str, Any]]
    annotations: dict[CocoId, list[dict[str, Any]]]
    class_names: list[str]
    category_ids: list[CocoId]


def read_coco_file(json_path: str | Path, label_file: str | Path | None = None) -> CocoFile:
    """Read and check the lists of a COCO json; classes in the order of ``label_file``, else of the category ids."""
    path = Path(json_path)
    content = read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise RamsesError(f"{path}: not a COCO data set, list {key!r} is missing")
    images = _by_id(content["images"], "image", path)
    categories = _by_id(content["categories"], "category", path)
    annotations: dict[CocoId, list[dict[str, Any]]] = defaultdict(list)
    for number, annotation in _by_id(content["annotations"], "annotation", path).items():
        for key, known in (("image_id", images), ("category_id", categories)):
            value = annotation.get(key)
            if not isinstance(value, Hashable) or value not in known:
                raise RamsesError(f"{path}: annotation {number} has {key} {value!r}, which is not listed")
        annotations[annotation["image_id"]].append(annotation)
    used = {annotation["category_id"] for of_image in annotations.values() for annotation in of_image}
    ordered = {image_id: images[image_id] for image_id in sorted(images, key=_id_order)}
    return CocoFile(path, ordered, dict(annotations), *_classes(path, categories, used, label_file))


def read_label_file(path: str | Path) -> list[str]:
    """Class names in class order: one a line; blank lines, and lines that begin with "#", do not count."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RamsesError(f"{path}: not a label file ({reason}); it is text, one class name a line") from None
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise RamsesError(f"{path}: no class name; write one a line")
    for name in names:
        if names.count(name) > 1:
            raise RamsesError(f"{path}: class {name!r} is there twice; every line is a class of its own")
    return names


def _by_id(entries: Iterable[Any], kind: str, path: Path) -> dict[CocoId, dict[str, Any]]:
    found: dict[CocoId, dict[str, Any]] = {}
    for position, entry in enumerate(entries, start=1):
        key = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(key, bool) or not isinstance(key, int | float | str):
            raise RamsesError(f"{path}: {kind} number {position} has no id; give each a number or a name")
        if key in found:
            raise RamsesError(f"{path}: {kind} id {key!r} is there twice; number them anew")
        found[key] = entry
    return found


def _id_order(key: CocoId) -> tuple[int, float, str]:
    """Numbers, and strings that are numbers, by value; other strings after them."""
    text = str(key)
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _classes(
    path: Path, categories: dict[CocoId, dict[str, Any]], used: set[CocoId], label_file: str | Path | None
) -> tuple[list[str], list[CocoId]]:
    """Class names in class order, and the id of each in the file."""
    names: dict[CocoId, str] = {}
    children: dict[str, set[CocoId]] = defaultdict(set)
    for key in sorted(categories, key=_id_order):
        if not isinstance(categories[key].get("name"), str):
            raise RamsesError(f"{path}: category {key!r} has no name")
        names[key] = categories[key]["name"].strip()
        children[categories[key].get("supercategory", "")].add(key)
    ids: dict[str, CocoId] = {}
    for key, name in names.items():
        if key not in used and children.get(name, set()) - {key}:
            continue  # an unused category that is the supercategory of others is a heading, not a class
        other = ids.get(name)
        if other is not None and other in used and key in used:
            raise RamsesError(
                f"{path}: categories {other!r} and {key!r} are both named {name!r}; make them one, or rename one"
            )
        if other is None or key in used:
            ids[name] = key
    if label_file is None:
        ids = dict(sorted(ids.items(), key=lambda item: _id_order(item[1])))
        return list(ids), list(ids.values())

    wanted = read_label_file(label_file)
    unnamed = sorted(name for name, key in ids.items() if key in used and name not in wanted)
    if unnamed:
        raise RamsesError(f"{label_file}: class {', '.join(unnamed)} of {path} is not in it; add a line for each")
    unused = (number for number in count(1) if number not in categories)
    return wanted, [ids[name] if name in ids else next(unused) for name in wanted]


def coco_classes(json_path: str | Path, label_file: str | Path | None = None) -> tuple[list[str], list[CocoId]]:
    """Class names in class order, and the category id of each in the file."""
    coco = read_coco_file(json_path, label_file)
    return coco.class_names, coco.category_ids


# ---- annotations


def usable_segmentation(
    segmentation: Any, size: tuple[int, int], place: str
) -> list[list[float]] | dict[str, Any] | None:
    """The polygons or RLE of an annotation in an image of ``size`` (H, W); None when nothing is left.

    Polygons of fewer than three points are dropped; one polygon may lack the list around it. ``place`` names file and
    annotation in errors.
    """
    if isinstance(segmentation, dict):
        rle_size, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(rle_size, list | tuple) or not isinstance(counts, list | str | bytes):
            raise RamsesError(
                f"{place}: its segmentation needs size [height, width] and counts (a list or text) for RLE"
            )
        if tuple(rle_size) != tuple(size):
            raise RamsesError(
                f"{place}: its RLE is of an image of {' x '.join(map(str, rle_size))} px (height x width), "
                f"the image has {size[0]} x {size[1]}"
            )
        return segmentation
    polygons = segmentation or []
    if not isinstance(polygons, list):
        raise RamsesError(f"{place}: its segmentation is {type(polygons).__name__}, neither polygons nor RLE")
    if polygons and all(isinstance(number, int | float) for number in polygons):
        polygons = [polygons]
    for polygon in polygons:
        if not isinstance(polygon, list | tuple) and not hasattr(polygon, "tolist"):
            raise RamsesError(f"{place}: a polygon is a list of numbers x, y, x, y, ..., not {polygon!r}")
        if not all(isinstance(number, int | float) or hasattr(number, "dtype") for number in polygon):
            raise RamsesError(f"{place}: a polygon has something else than numbers in it; write x, y, x, y, ...")
    return [list(polygon) for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0] or None


def given_box(annotation: dict[str, Any], place: str) -> list[float] | None:
    """The four numbers of an annotation's ``bbox``; None where there is none, or one with another count of numbers."""
    box = annotation.get("bbox")
    try:
        numbers = [] if box is None else [float(number) for number in box]
    except (TypeError, ValueError):
        raise RamsesError(f"{place}: its bbox is {box!r}; write four numbers of px, or leave it out") from None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None


def measured(annotation: dict[str, Any], size: tuple[int, int], place: str) -> dict[str, Any]:
    """The annotation with ``area`` (px) and ``bbox`` (XYWH, px), measured on its segmentation where they are not given.

    An area of 0 counts as not given: many programs write it for "not measured", and it would upset the painting order.
    """
    area, box = annotation.get("area"), given_box(annotation, place)
    try:
        is_given = area is not None and 0 < area < math.inf
    except TypeError:
        raise RamsesError(f"{place}: its area is {area!r}; write a number of px, or leave it out") from None
    if not is_given or box is None:
        rle = to_rle(annotation["segmentation"], *size)
        area = area if is_given else float(mask_utils.area(rle))
        box = mask_utils.toBbox(rle).tolist() if box is None else box
    return annotation | {"area": area, "bbox": box}


def painting_order(annotations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Annotations from large to small, so that painting them in this order leaves the small ones on top."""
    return sorted(annotations, key=lambda annotation: -annotation["area"])


# ---- to dataset dicts


def load_coco(
    json_path: str | Path, image_folder: str | Path | None = None, label_file: str | Path | None = None
) -> tuple[list[DatasetDict], list[str]]:
    """Read a COCO data set: dataset dicts in the order of the image ids, and the class names.

    The objects of an image get the labels 1 ... n from large to small, so that painting them in label order leaves the
    small ones on top. Crowd annotations are kept apart, in ``crowd``. Annotations without a segmentation are dropped,
    with one warning. The file's own ids stay as ``coco_image_id``, and ``coco_id`` of an annotation. Images lie in
    ``image_folder``, by default beside the file.
    """
    coco = read_coco_file(json_path, label_file)
    path = coco.path
    image_folder = Path(image_folder) if image_folder is not None else path.parent
    class_ids = {category_id: index for index, category_id in enumerate(coco.category_ids)}
    paths = _find_images(coco, image_folder)
    dataset_dicts, dropped = [], 0
    for coco_id, image in coco.images.items():
        size = _size(image, path)
        resolution = image.get("resolution", image.get("res"))
        is_known = resolution is not None and resolution == resolution  # JSON of other programs may have NaN
        resolution = check_resolution(resolution, f"{path}: image {coco_id}") if is_known else math.nan
        objects, crowd = [], []
        for annotation in coco.annotations.get(coco_id, ()):
            place = f"{path}: annotation {annotation['id']}"
            segmentation = usable_segmentation(annotation.get("segmentation"), size, place)
            if segmentation is None:
                dropped += not annotation.get("iscrowd", 0)
                continue
            kept = measured(annotation | {"segmentation": segmentation}, size, place)
            (crowd if annotation.get("iscrowd", 0) else objects).append(kept)
        inside = paths[coco_id]
        inside = inside.relative_to(image_folder if inside.is_relative_to(image_folder) else inside.anchor)
        dataset_dict = {
            "file_name": str(paths[coco_id]),
            "image_id": len(dataset_dicts) + 1,
            "coco_image_id": coco_id,
            "image_name": f"{image_folder.resolve().name}/{inside.with_suffix('').as_posix()}",
            "height": size[0],
            "width": size[1],
            "resolution": resolution,
            "annotations": [
                _annotation(each, label, class_ids, path) for label, each in enumerate(painting_order(objects), start=1)
            ],
        }
        if crowd:
            dataset_dict["crowd"] = [_region(each, class_ids) for each in crowd]
        dataset_dicts.append(dataset_dict)
    if dropped and not any(dataset_dict["annotations"] for dataset_dict in dataset_dicts):
        raise RamsesError(f"{path}: {NO_SEGMENTATION}")
    if dropped:
        logger.warning("%s: %d annotations without a segmentation are dropped", path, dropped)
    return dataset_dicts, coco.class_names


def posix_name(name: str) -> str:
    """A ``file_name`` with the separators of a path here; one written on Windows has backslashes."""
    return name.replace("\\", "/")


def find_image(folder: Path, name: str) -> Path | None:
    """The file that a ``file_name`` names, None if there is none; an absolute one stands for itself."""
    return next((path for path in (folder / name, folder / posix_name(name)) if path.is_file()), None)


def _find_images(coco: CocoFile, folder: Path) -> dict[CocoId, Path]:
    """The file of every image; one that only has a URL lies in the folder under the URL's last part."""
    paths, missing = {}, []
    for coco_id, image in coco.images.items():
        name = image.get("file_name")
        where = f"{coco.path}: image {coco_id}"
        if name is not None and not isinstance(name, str):
            raise RamsesError(f"{where} has file_name {name!r}; write the name as text")
        if name:
            path = find_image(folder, name)
            if path is None:
                missing.append(folder / name)
        else:
            url = image.get("coco_url") or image.get("flickr_url")
            if not url:
                raise RamsesError(f"{where} has no file_name")
            path = folder / PurePosixPath(urlparse(url).path).name
            if not path.is_file():
                raise RamsesError(f"{where} has no file_name; download {url} as {path}")
        paths[coco_id] = path
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise RamsesError(
            f"{coco.path}: image {missing[0]} is missing{others}; give its folder as coco://FILE?images=DIR, or "
            f"--image-folder"
        )
    return paths


def _size(image: dict[str, Any], path: Path) -> tuple[int, int]:
    sides = image.get("height"), image.get("width")
    if not all(isinstance(side, int | float) and side >= 1 for side in sides):
        raise RamsesError(f"{path}: image {image['id']} has height {sides[0]}, width {sides[1]}; give its size in px")
    return int(sides[0]), int(sides[1])


def _annotation(annotation: dict[str, Any], label: int, class_ids: dict[CocoId, int], path: Path) -> dict[str, Any]:
    """An object in the fields of a dataset dict."""
    mass = annotation.get("mass")
    try:
        mass = np.nan if mass is None else float(mass)
    except (TypeError, ValueError):
        mass = -1.0
    if mass <= 0:
        raise RamsesError(
            f"{path}: annotation {annotation['id']} has mass {annotation['mass']!r}; it is in grams, above 0"
        )
    region = _region(annotation, class_ids)
    return {
        "label": label,
        "coco_id": region["coco_id"],
        "category_id": region["category_id"],
        "bbox": BoxMode.convert(region["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS),
        "bbox_mode": BoxMode.XYXY_ABS,
        "area": region["area"],
        "mass": mass,
        "gt_mass": bool(annotation.get("gt_mass", False)),
        "iscrowd": 0,
        "segmentation": region["segmentation"],
    }


def _region(annotation: dict[str, Any], class_ids: dict[CocoId, int]) -> dict[str, Any]:
    """A region; of a crowd there is nothing to learn, and nothing in it is a false prediction. Its box is XYWH."""
    return {
        "coco_id": annotation["id"],
        "category_id": class_ids[annotation["category_id"]],
        "bbox": annotation["bbox"],
        "area": float(annotation["area"]),
        "segmentation": annotation["segmentation"],
    }


# ---- from dataset dicts


def coco_ground_truth(dataset_dicts: Sequence[DatasetDict], class_names: Sequence[str]) -> dict[str, Any]:
    """Convert dataset dicts to a COCO data set ready for JSON, plus the fields mass evaluation needs.

    Objects of a label image are measured on it, and those without a pixel there are left out. Objects of a COCO file
    keep its segmentations, boxes and areas, overlaps included, and its crowd regions. Repeated dataset dicts
    (oversampling) count once. Category ids are the class ids + 1; ids of annotations count from 1. Beside COCO's keys
    (segmentation = RLE, bbox = XYWH), images have resolution (px/mm or None), and annotations label, mass (g or None),
    gt_mass, resolution, and coco_id, the id in the file they come from.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for dataset_dict in {dataset_dict["image_id"]: dataset_dict for dataset_dict in dataset_dicts}.values():
        image_id, resolution = dataset_dict["image_id"], _none_if_unknown(dataset_dict["resolution"])
        images.append(
            {"id": image_id, "resolution": resolution}
            | {key: dataset_dict[key] for key in ("file_name", "height", "width")}
        )
        regions = []
        for each, shape in _shapes(dataset_dict):
            known = {"label": each["label"], "mass": _none_if_unknown(each["mass"]), "gt_mass": each["gt_mass"]}
            regions.append((each, shape | {"iscrowd": 0} | known | {"resolution": resolution}))
        for each in dataset_dict.get("crowd", ()):
            shape = {"segmentation": _rle(each, dataset_dict), "bbox": list(each["bbox"]), "area": each["area"]}
            regions.append((each, shape | {"iscrowd": 1}))
        for each, fields in regions:
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": each["category_id"] + 1}
            coco_id = {"coco_id": each["coco_id"]} if "coco_id" in each else {}
            annotations.append(annotation | fields | coco_id)
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(class_names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _shapes(dataset_dict: DatasetDict) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The objects of an image, each with its segmentation, bbox (XYWH) and area."""
    annotations = dataset_dict["annotations"]
    if "label_file_name" in dataset_dict:
        rles = encode_label_map(read_label_map(dataset_dict), [each["label"] for each in annotations])
        # One by one: pycocotools 2.0.11 fails on lists of 256 and more
        areas = [int(mask_utils.area(rle)) for rle in rles]
        boxes = mask_utils.toBbox(rles) if rles else np.zeros((0, 4))
        return [
            (each, {"segmentation": json_rle(rle), "bbox": box.tolist(), "area": area})
            for each, rle, area, box in zip(annotations, rles, areas, boxes, strict=True)
            if area
        ]
    shapes = []
    for each in annotations:
        x0, y0, x1, y1 = each["bbox"]
        rle = _rle(each, dataset_dict)
        area = float(mask_utils.area(rle)) if math.isnan(each["area"]) else each["area"]
        shapes.append((each, {"segmentation": rle, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": area}))
    return shapes


def _rle(annotation: dict[str, Any], dataset_dict: DatasetDict) -> dict[str, Any]:
    return json_rle(to_rle(annotation["segmentation"], dataset_dict["height"], dataset_dict["width"]))


def _none_if_unknown(value: float) -> float | None:
    return None if math.isnan(value) else value
