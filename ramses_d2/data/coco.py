"""Ground truth as a COCO data set for the evaluator, made one image at a time."""

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
from ramses_d2.files import read_json
from ramses_d2.masks import encode_label_map


def usable_outline(segmentation: Any, size: tuple[int, int], place: str) -> list[list[float]] | dict[str, Any] | None:
    """The outline of an annotation, without polygons of fewer than three points.

    Args:
        segmentation: list of polygons [x, y, x, y, ...], one polygon, or RLE (counts as list, str or bytes).
        size: (H, W) of the image.
        place: file and annotation, for errors.

    Returns:
        polygons or RLE; None when nothing is left.
    """
    if isinstance(segmentation, dict):
        if not {"size", "counts"} <= segmentation.keys():
            raise RamsesError(f"{place}: its segmentation has no size and counts, as run lengths need")
        if not isinstance(segmentation["size"], list | tuple) or not isinstance(
            segmentation["counts"], list | str | bytes
        ):
            raise RamsesError(f"{place}: its run lengths need a size [height, width], and counts (a list or text)")
        if tuple(segmentation["size"]) != tuple(size):
            raise RamsesError(
                f"{place}: its run lengths are of an image of {' x '.join(map(str, segmentation['size']))} px "
                f"(height x width), the image has {size[0]} x {size[1]}"
            )
        return segmentation
    polygons = segmentation or []
    if not isinstance(polygons, list):
        raise RamsesError(f"{place}: its segmentation is {type(polygons).__name__}, neither polygons nor run lengths")
    if polygons and all(isinstance(number, int | float) for number in polygons):
        polygons = [polygons]  # one polygon without the list around it
    for polygon in polygons:
        if not isinstance(polygon, list | tuple) and not hasattr(polygon, "tolist"):
            raise RamsesError(f"{place}: a polygon is a list of numbers x, y, x, y, ..., not {polygon!r}")
        if not all(isinstance(number, int | float) or hasattr(number, "dtype") for number in polygon):
            raise RamsesError(f"{place}: a polygon has something in it that is no number; write x, y, x, y, ...")
    return [list(polygon) for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0] or None


def measure_outline(outline: list[list[float]] | dict[str, Any], size: tuple[int, int]) -> tuple[float, list[float]]:
    """Area (px) and box (XYWH, px) of an outline in an image of ``size`` (H, W)."""
    if isinstance(outline, dict):
        rle = mask_utils.frPyObjects(outline, *size) if isinstance(outline["counts"], list) else outline
    else:
        rle = mask_utils.merge(mask_utils.frPyObjects(outline, *size))
    return float(mask_utils.area(rle)), mask_utils.toBbox(rle).tolist()


def measured(annotation: dict[str, Any], size: tuple[int, int], place: str) -> dict[str, Any]:
    """The annotation with ``area`` (px) and ``bbox`` (XYWH, px), measured on its outline where they are not given.

    An area of 0 is not given either: many programs write it for "not measured", and it would upset the painting order.

    Args:
        annotation: with a usable ``segmentation``.
        size: (H, W) of the image.
        place: file and annotation, for errors.
    """
    area, box = annotation.get("area"), given_box(annotation, place)
    try:
        is_given = area is not None and 0 < area < math.inf
    except TypeError:
        raise RamsesError(f"{place}: its area is {area!r}; write a number of px, or leave it out") from None
    if is_given and box is not None:
        return annotation | {"bbox": box}
    measured_area, measured_box = measure_outline(annotation["segmentation"], size)
    return annotation | {
        "area": area if is_given else measured_area,
        "bbox": measured_box if box is None else box,
    }


def given_box(annotation: dict[str, Any], place: str) -> list[float] | None:
    """The four numbers of an annotation's ``bbox``; None where there is none, or one with another count of numbers."""
    box = annotation.get("bbox")
    try:
        numbers = [] if box is None else [float(number) for number in box]
    except (TypeError, ValueError):
        raise RamsesError(f"{place}: its bbox is {box!r}; write four numbers of px, or leave it out") from None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None


def painting_order(annotations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Annotations from large to small, so that painting them in this order leaves the small ones on top."""
    return sorted(annotations, key=lambda annotation: -annotation["area"])


CocoId = Hashable


@dataclass(frozen=True)
class CocoFile:
    """What a COCO json lists.

    Attributes:
        path: of the file.
        images: id -> entry, in the order of the ids.
        annotations: image id -> entries, in the file's order.
        class_names: in class order.
        category_ids: contiguous class id -> id in the file; a class the file lacks has one that the file does not use.
    """

    path: Path
    images: dict[CocoId, dict[str, Any]]
    annotations: dict[CocoId, list[dict[str, Any]]]
    class_names: list[str]
    category_ids: list[CocoId]


def read_coco_file(json_path: str | Path, label_file: str | Path | None = None) -> CocoFile:
    """Read and check a COCO json.

    Args:
        json_path: the annotation file.
        label_file: class names in class order, see :func:`read_label_file`; default: the order of the ids.
    """
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
    ordered = {image_id: images[image_id] for image_id in sorted(images, key=_id_order)}
    return CocoFile(path, ordered, dict(annotations), *_classes(path, categories, annotations.values(), label_file))


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
    """Entries by their id."""
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
    path: Path,
    categories: dict[CocoId, dict[str, Any]],
    annotations: Iterable[Sequence[dict[str, Any]]],
    label_file: str | Path | None,
) -> tuple[list[str], list[CocoId]]:
    """Class names in class order, and the id of each in the file."""
    used = {annotation["category_id"] for of_image in annotations for annotation in of_image}
    names: dict[CocoId, str] = {}
    for key in sorted(categories, key=_id_order):
        if not isinstance(categories[key].get("name"), str):
            raise RamsesError(f"{path}: category {key!r} has no name")
        names[key] = categories[key]["name"].strip()
    children: dict[str, set[CocoId]] = defaultdict(set)
    for key, entry in categories.items():
        children[entry.get("supercategory", "")].add(key)
    kept = [key for key, name in names.items() if key in used or not children.get(name, set()) - {key}]
    ids: dict[str, CocoId] = {}
    for key in kept:
        other = ids.get(names[key])
        if other is not None and other in used and key in used:
            raise RamsesError(
                f"{path}: categories {other!r} and {key!r} are both named {names[key]!r}; make them one, or rename one"
            )
        if other is None or key in used:
            ids[names[key]] = key
    if label_file is None:
        ids = dict(sorted(ids.items(), key=lambda item: _id_order(item[1])))
        return list(ids), list(ids.values())

    wanted = read_label_file(label_file)
    unnamed = sorted(name for name, key in ids.items() if key in used and name not in wanted)
    if unnamed:
        raise RamsesError(f"{label_file}: class {', '.join(unnamed)} of {path} is not in it; add a line for each")
    unused = (number for number in count(1) if number not in categories)
    return wanted, [ids[name] if name in ids else next(unused) for name in wanted]


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
    """The file of every image."""
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


def coco_ground_truth(dataset_dicts: Sequence[dict[str, Any]], class_names: Sequence[str]) -> dict[str, Any]:
    """Convert dataset dicts to a COCO dict, plus the fields mass evaluation needs.

    Records with a label image are measured on it, and annotations without a pixel there are left out. Records of a
    COCO file keep its outlines, boxes and areas, overlaps included, and its crowd regions. Repeated dataset dicts
    (oversampling) count once.

    Args:
        dataset dicts: dataset dicts.
        class_names: class order; COCO category ids are the contiguous ids + 1.

    Returns:
        JSON-serialisable ``{"images", "annotations", "categories"}``. Images: id, file_name, height, width,
        resolution (px/mm or None). Annotations: id from 1, image_id, category_id, segmentation (RLE, counts
        as str), bbox (XYWH), area (px), iscrowd, and, but for crowd regions, label, mass (g or None), gt_mass and
        resolution; coco_id, the id in the file they come from, if there is one.
    """
    images, annotations = [], []
    for dataset_dict in {dataset_dict["image_id"]: dataset_dict for dataset_dict in dataset_dicts}.values():
        resolution = _none_if_unknown(dataset_dict["resolution"])
        images.append(
            {"id": dataset_dict["image_id"], "resolution": resolution}
            | {key: dataset_dict[key] for key in ("file_name", "height", "width")}
        )
        measured = (
            _from_label_image(dataset_dict) if "label_file_name" in dataset_dict else _from_outlines(dataset_dict)
        )
        for annotation, shape in measured:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": dataset_dict["image_id"]}
                | {"category_id": annotation["category_id"] + 1, **shape, "iscrowd": 0}
                | {"label": annotation["label"], "mass": _none_if_unknown(annotation["mass"])}
                | {"gt_mass": annotation["gt_mass"], "resolution": resolution}
                | {key: annotation[key] for key in ("coco_id",) if key in annotation}
            )
        for region in dataset_dict.get("crowd", ()):
            shape = {"segmentation": _run_lengths(region["segmentation"], dataset_dict)}
            shape |= {"bbox": list(region["bbox"]), "area": region["area"], "iscrowd": 1}
            annotations.append(
                {"id": len(annotations) + 1, "image_id": dataset_dict["image_id"]}
                | {"category_id": region["category_id"] + 1, **shape}
                | {key: region[key] for key in ("coco_id",) if key in region}
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(class_names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _from_label_image(dataset_dict: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Annotations with a pixel, each with its segmentation, bbox and area."""
    rles = encode_label_map(read_label_map(dataset_dict), [a["label"] for a in dataset_dict["annotations"]])
    areas = [int(mask_utils.area(rle)) for rle in rles]  # one by one: pycocotools 2.0.11 fails on lists of 256 and more
    boxes = mask_utils.toBbox(rles) if rles else np.zeros((0, 4))
    return [
        (annotation, {"segmentation": _as_text(rle), "bbox": box.tolist(), "area": area})
        for annotation, rle, area, box in zip(dataset_dict["annotations"], rles, areas, boxes, strict=True)
        if area
    ]


def _from_outlines(dataset_dict: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """All annotations, each with its segmentation, bbox and area as its file has them."""
    measured = []
    for annotation in dataset_dict["annotations"]:
        x0, y0, x1, y1 = annotation["bbox"]
        rle = _run_lengths(annotation["segmentation"], dataset_dict)
        area = annotation["area"]
        area = float(mask_utils.area(rle)) if math.isnan(area) else area
        measured.append((annotation, {"segmentation": rle, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": area}))
    return measured


def _run_lengths(outline: Any, dataset_dict: dict[str, Any]) -> dict[str, Any]:
    """Polygons or RLE of any kind as COCO's compressed RLE, counts as str."""
    height, width = dataset_dict["height"], dataset_dict["width"]
    if isinstance(outline, list):
        return _as_text(mask_utils.merge(mask_utils.frPyObjects(outline, height, width)))
    if isinstance(outline["counts"], list):
        return _as_text(mask_utils.frPyObjects(outline, height, width))
    return _as_text(outline)


def _as_text(rle: dict[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _none_if_unknown(value: float) -> float | None:
    return None if math.isnan(value) else value
