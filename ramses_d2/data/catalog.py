"""Data sets by URI, registered in Detectron2's catalogs when they are needed.

=============================================  ==================================================
``ramses://FOLDER``                            all images of one RAMSES folder
``ramses://split.json#train``                  one subset of a split file (ours or the original's)
``coco://annotations.json?images=DIR``         a COCO json; its folder if DIR is left out
``...?images=DIR&labels=label.txt``            the same, classes in the order of the lines of label.txt
=============================================  ==================================================

In ``coco://``, a ``?``, ``&``, ``#`` or ``%`` of a file's own name is written as ``%3F``, ``%26``, ``%23`` or ``%25``.
In ``ramses://``, every name is written as it is: a ``#`` separates the subset only where no file has it in its name.
A relative path is looked up in the working directory, then in ``$DETECTRON2_DATASETS``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ramses_d2.data.coco import (
    NO_SEGMENTATION,
    coco_classes,
    given_box,
    load_coco,
    measured,
    painting_order,
    usable_segmentation,
)
from ramses_d2.data.folder import DatasetDict, folder_class_names, load_folder
from ramses_d2.data.splits import load_split, split_class_names, subset_names
from ramses_d2.errors import RamsesError


def complete_registration(name: str) -> None:
    """Let a registered data set give complete dataset dicts, see :func:`complete_dataset_dicts`.

    Calling it again changes nothing. Class names that a script sets only while its dataset dicts load are waited for.
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
    """New dataset dicts with what ours have beside Detectron2's keys, see datasets/README.md.

    Annotations get labels from large to small, crowd is kept apart. ``resolution``, ``mass`` and ``gt_mass`` are taken
    where they are there, and unknown elsewhere.
    """
    numbers = count(1)
    completed = [_complete(each, f"{place}: {each.get('file_name')}", numbers) for each in dataset_dicts]
    given = sum(not a.get("iscrowd", 0) for each in dataset_dicts for a in each.get("annotations", ()))
    if given and not any(each["annotations"] for each in completed):
        raise RamsesError(f"{place}: {NO_SEGMENTATION}")
    return completed


def _complete(dataset_dict: DatasetDict, place: str, numbers: count[int]) -> DatasetDict:
    missing = [key for key in ("file_name", "image_id", "height", "width") if dataset_dict.get(key) is None]
    if missing:
        raise RamsesError(f"{place}: its dataset dict has no {' and no '.join(missing)}")
    path = Path(dataset_dict["file_name"])
    if not path.is_file():
        raise RamsesError(f"{place}: the image is missing; give register_coco_instances the folder it is in")
    defaults = {
        "coco_image_id": dataset_dict["image_id"],
        "image_name": f"{path.parent.name}/{path.stem}",
        "resolution": math.nan,
    }
    completed = defaults | dataset_dict
    annotations = dataset_dict.get("annotations", [])
    if "label_file_name" not in dataset_dict and any("label" not in annotation for annotation in annotations):
        size = (dataset_dict["height"], dataset_dict["width"])
        objects, crowd = [], []
        for annotation in annotations:
            segmentation = usable_segmentation(annotation.get("segmentation"), size, place)
            if segmentation is not None:
                box = given_box(annotation, place)
                if box is not None:
                    mode = annotation.get("bbox_mode", BoxMode.XYWH_ABS)
                    box = BoxMode.convert(box, mode, BoxMode.XYWH_ABS)
                found = measured(annotation | {"segmentation": segmentation, "bbox": box}, size, place)
                (crowd if annotation.get("iscrowd", 0) else objects).append(found | {"bbox_mode": BoxMode.XYWH_ABS})
        annotations = [
            {"coco_id": next(numbers)}
            | annotation
            | {"bbox": BoxMode.convert(annotation["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)}
            | {"bbox_mode": BoxMode.XYXY_ABS, "label": label, "iscrowd": 0}
            for label, annotation in enumerate(painting_order(objects), start=1)
        ]
        if crowd:
            completed["crowd"] = crowd
    completed["annotations"] = [{"mass": math.nan, "gt_mass": False, "area": math.nan} | a for a in annotations]
    return completed


_FORMS = "ramses://FOLDER, ramses://split.json#SUBSET and coco://annotations.json?images=DIR"
_COCO_OPTIONS = ("images", "labels")


class Source(NamedTuple):
    """Where a URI leads."""

    load: Callable[[], tuple[list[DatasetDict], list[str]]]  # dataset dicts and class names
    class_names: list[str]  # the same, without reading the dataset dicts
    place: str  # path and subset, to notice that a URI leads elsewhere
    category_ids: list[Any] | None = None  # class id -> category id in the COCO file


def register(uri: str) -> str:
    """Make a data set known to ``DatasetCatalog`` and ``MetadataCatalog`` under its URI.

    Calling it again changes nothing, unless the URI now leads to another place or to other classes, which then replace
    the first. Only the class names are read here; the dataset dicts when Detectron2 asks for them. Returns the URI.
    """
    source = _resolve(uri)
    if uri in DatasetCatalog.list():
        known = MetadataCatalog.get(uri)
        if (list(known.thing_classes), known.source, known.get("dataset_category_ids")) == source[1:]:
            return uri
        DatasetCatalog.remove(uri)
        MetadataCatalog.remove(uri)
    DatasetCatalog.register(uri, partial(_dataset_dicts, uri, source))
    metadata = MetadataCatalog.get(uri)
    metadata.set(thing_classes=source.class_names, evaluator_type="ramses", source=source.place)
    if source.category_ids is not None:
        metadata.set(dataset_category_ids=source.category_ids)
    return uri


def coco_uri(json_path: str | Path, images: str | Path, labels: str | Path | None = None) -> str:
    """The URI of a COCO json, its image folder and, if one is given, its label file; relative paths stay relative."""
    uri = f"coco://{_quoted(json_path)}?images={_quoted(images)}"
    return uri if labels is None else f"{uri}&labels={_quoted(labels)}"


def _quoted(path: str | Path) -> str:
    return re.sub("[%?&#]", lambda found: f"%{ord(found[0]):02X}", str(path))


def register_datasets(names: Sequence[str]) -> None:
    """Register every URI among the names of a config's data sets, and complete what scripts have registered."""
    for name in names:
        if "://" in name or name not in DatasetCatalog.list():
            register(name)
        else:
            complete_registration(name)
    uris = [name for name in names if "://" in name]
    for name in uris[1:]:
        first, other = (list(MetadataCatalog.get(each).thing_classes) for each in (uris[0], name))
        if first != other:
            coco = any(uri.startswith("coco") for uri in (uris[0], name))
            raise RamsesError(
                f"data sets {uris[0]} ({', '.join(first)}) and {name} ({', '.join(other)}) have different class lists; "
                + (
                    "write one class name a line into a file, and give it to each: coco://FILE?images=DIR&labels=FILE"
                    if coco
                    else "fix the order by a split file or a classes.json in each folder"
                )
            )


def _dataset_dicts(uri: str, source: Source) -> list[DatasetDict]:
    """The dataset dicts, whose class ids must be those of the class names that were registered."""
    dataset_dicts, class_names = source.load()
    if class_names != source.class_names:
        raise RamsesError(
            f"data set {uri!r}: its class list was changed after it was registered, from "
            f"{', '.join(source.class_names)} to {', '.join(class_names)}; register it again"
        )
    return dataset_dicts


def _resolve(uri: str) -> Source:
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in ("ramses", "coco") or not rest:
        raise RamsesError(f"data set {uri!r} is not one of {_FORMS}")
    if scheme == "coco":
        name, _, query = rest.partition("?")
        options = _coco_options(query, uri)
        json_path = _find(unquote(name), uri)
        folder = _find(options["images"], uri) if "images" in options else json_path.parent
        label_file = _find(options["labels"], uri) if "labels" in options else None
        class_names, category_ids = coco_classes(json_path, label_file)
        place = f"{json_path}?{folder}&{label_file}"
        return Source(partial(load_coco, json_path, folder, label_file), class_names, place, category_ids)

    name, subset = _name_and_subset(rest)
    path = _find(name, uri)
    if path.is_dir():
        if subset:
            raise RamsesError(f"data set {uri!r}: {path} is a folder and has no subsets; name a split file")
        return Source(partial(load_folder, path), folder_class_names(path), str(path))
    subsets = subset_names(path)
    if subset not in subsets:
        raise RamsesError(
            f"data set {uri!r}: {path} has no subset {subset!r}; append one of {', '.join('#' + s for s in subsets)}"
        )
    return Source(partial(load_split, path, subset), split_class_names(path), f"{path}#{subset}")


def _coco_options(query: str, uri: str) -> dict[str, str]:
    """The options behind the "?", in any order."""
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in _COCO_OPTIONS:
            raise RamsesError(
                f"data set {uri!r}: unknown option {key!r}; write coco://annotations.json?images=DIR&labels=label.txt"
            )
        if not value or key in options:
            raise RamsesError(f"data set {uri!r}: give {key}= one value")
        options[key] = unquote(value)
    return options


def _name_and_subset(rest: str) -> tuple[str, str]:
    """Path and subset of a ``ramses://`` URI: a "#" is part of the path where something there is named so."""
    cuts = [place for place, letter in enumerate(rest) if letter == "#"]
    for cut in (len(rest), *reversed(cuts)):
        if _path(rest[:cut]) is not None:
            return rest[:cut], rest[cut + 1 :]
    return rest[: cuts[0]] if cuts else rest, ""  # for the message


def _find(name: str, uri: str) -> Path:
    """Absolute path of a file or folder named in a URI."""
    path = _path(name)
    if path is None:
        raise RamsesError(f"data set {uri!r}: {name} is not found in {' or '.join(map(str, _roots()))}")
    return path


def _path(name: str) -> Path | None:
    paths = (root / Path(name).expanduser() for root in _roots())
    return next((path.resolve() for path in paths if path.exists()), None)


def _roots() -> list[Path]:
    """Where relative paths are looked up, in this order."""
    data_sets = os.environ.get("DETECTRON2_DATASETS")
    return [Path.cwd(), *([Path(data_sets).expanduser()] if data_sets else [])]
