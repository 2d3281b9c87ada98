"""Data sets that a script has registered by itself, such as by Detectron2's ``register_coco_instances``.

Their dataset dicts have outlines, but no labels, masses or resolution. What is missing is filled in whenever they are
asked for; what is there stays, so that the script's own use of them goes on to work.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ramses_d2.errors import RamsesError

from .folder import DatasetDict
from .outlines import given_box, measured, painting_order, usable_outline


def complete_registration(name: str) -> None:
    """Let a registered data set give dataset dicts that the rest of the program works on; again changes nothing.

    Its class names may be known only after its dataset dicts were asked for; they are then.

    Args:
        name: in DatasetCatalog.

    Raises:
        RamsesError: its dataset dicts cannot be read, see :func:`complete_dataset_dicts`, or have no classes.
    """
    metadata = MetadataCatalog.get(name)
    if getattr(metadata, "ramses_dataset_dicts", False) or getattr(metadata, "evaluator_type", "") == "ramses":
        return
    load: Callable[[], list[DatasetDict]] = DatasetCatalog.pop(name)
    DatasetCatalog.register(name, lambda: _load(name, load))
    metadata.set(ramses_dataset_dicts=True)
    if not hasattr(metadata, "thing_classes"):
        DatasetCatalog.get(name)
    if not hasattr(metadata, "thing_classes"):
        raise RamsesError(
            f"data set {name!r} has no class names; set MetadataCatalog.get({name!r}).thing_classes, in class order"
        )
    ids = getattr(metadata, "thing_dataset_id_to_contiguous_id", None)
    if ids and not hasattr(metadata, "dataset_category_ids"):
        metadata.set(dataset_category_ids=sorted(ids, key=ids.__getitem__))


def _load(name: str, load: Callable[[], list[DatasetDict]]) -> list[DatasetDict]:
    try:
        dataset_dicts = load()
    except (OSError, ValueError, KeyError, AssertionError) as error:  # of a loader that we did not write
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RamsesError(f"data set {name!r} cannot be read: {reason}") from error
    return complete_dataset_dicts(dataset_dicts, f"data set {name!r}")


def complete_dataset_dicts(dataset_dicts: list[DatasetDict], place: str) -> list[DatasetDict]:
    """Records of Detectron2's form with what ours have in addition, see datasets/README.md.

    Args:
        dataset dicts: dataset dicts; an annotation without ``label`` has a ``segmentation``.
        place: name of the data set, for errors.

    Returns:
        new dataset dicts; annotations have labels from large to small, crowd is kept apart. Values Detectron2 does not
        know (``resolution``, ``mass``, ``gt_mass``) are taken where they are there, and unknown elsewhere.

    Raises:
        RamsesError: a dataset dict lacks its size or file, or there are annotations but no outline.
    """
    numbers = count(1)
    completed = [
        _complete(dataset_dict, f"{place}: {dataset_dict.get('file_name')}", numbers) for dataset_dict in dataset_dicts
    ]
    given = sum(not a.get("iscrowd", 0) for dataset_dict in dataset_dicts for a in dataset_dict.get("annotations", ()))
    if given and not any(dataset_dict["annotations"] for dataset_dict in completed):
        raise RamsesError(f"{place}: no annotation has a segmentation; RAMSES learns from outlines, not from boxes")
    return completed


def _complete(dataset_dict: DatasetDict, place: str, numbers: count[int]) -> DatasetDict:
    missing = [key for key in ("file_name", "image_id", "height", "width") if dataset_dict.get(key) is None]
    if missing:
        raise RamsesError(f"{place}: its dataset dict has no {' and no '.join(missing)}")
    path = Path(dataset_dict["file_name"])
    if not path.is_file():
        raise RamsesError(f"{place}: the image is missing; give register_coco_instances the folder it is in")
    annotations = dataset_dict.get("annotations", [])
    defaults = {
        "coco_image_id": dataset_dict["image_id"],
        "image_name": f"{path.parent.name}/{path.stem}",
        "resolution": math.nan,
    }
    completed = defaults | dataset_dict
    if "label_file_name" not in dataset_dict and any("label" not in annotation for annotation in annotations):
        size = (dataset_dict["height"], dataset_dict["width"])
        whole = [
            _measured(annotation | {"segmentation": outline}, size, place)
            for annotation in annotations
            if (outline := usable_outline(annotation.get("segmentation"), size, place)) is not None
        ]
        crowd = [annotation for annotation in whole if annotation.get("iscrowd", 0)]
        annotations = painting_order(annotation for annotation in whole if not annotation.get("iscrowd", 0))
        annotations = [
            {"coco_id": next(numbers)} | annotation | {"label": label, "iscrowd": 0}
            for label, annotation in enumerate(annotations, start=1)
        ]
        if crowd:
            completed["crowd"] = [
                annotation
                | {"bbox": BoxMode.convert(annotation["bbox"], BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)}
                | {"bbox_mode": BoxMode.XYWH_ABS}
                for annotation in crowd
            ]
    completed["annotations"] = [{"mass": math.nan, "gt_mass": False, "area": math.nan} | a for a in annotations]
    return completed


def _measured(annotation: dict[str, Any], size: tuple[int, int], place: str) -> dict[str, Any]:
    """The annotation with its area, and its box as XYXY."""
    box = given_box(annotation, place)
    if box is not None:
        box = BoxMode.convert(box, annotation.get("bbox_mode", BoxMode.XYWH_ABS), BoxMode.XYWH_ABS)
    annotation = measured(annotation | {"bbox": box}, size, place)
    box = BoxMode.convert(annotation["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    return annotation | {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS}
