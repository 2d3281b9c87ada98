"""Data sets by address, registered in Detectron2's catalogs when they are needed.

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

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from detectron2.data import DatasetCatalog, MetadataCatalog

from ramses_d2.errors import RamsesError

from .coco_source import coco_classes, load_coco
from .folder import DatasetDict, folder_class_names, load_folder
from .registered_dataset_dicts import complete_registration
from .split_file import load_split, split_class_names, subset_names

_FORMS = "ramses://FOLDER, ramses://split.json#SUBSET and coco://annotations.json?images=DIR"
_COCO_OPTIONS = ("images", "labels")


class Source(NamedTuple):
    """Where a URI leads.

    Attributes:
        load: gives the dataset dicts and the class names.
        class_names: the same class names, without reading the dataset dicts.
        place: path and subset, to notice that a URI leads elsewhere.
        category_ids: contiguous class id -> category id in the COCO file; None for a RAMSES folder.
    """

    load: Callable[[], tuple[list[DatasetDict], list[str]]]
    class_names: list[str]
    place: str
    category_ids: list[Any] | None = None


def register(uri: str) -> str:
    """Make a data set known to ``DatasetCatalog`` and ``MetadataCatalog`` under its URI.

    Calling it again changes nothing, unless the URI now leads to another place or to other classes, which then
    replace the first. Only the class names are read here; the dataset dicts when Detectron2 asks for them.

    Args:
        uri: see the module's table.

    Returns:
        ``uri``, the name in both catalogs.

    Raises:
        RamsesError: not such a URI; file, folder or subset missing.
    """
    source = _resolve(uri)
    if uri in DatasetCatalog.list():
        known = MetadataCatalog.get(uri)
        if (known.source, list(known.thing_classes), known.get("dataset_category_ids")) == (
            source.place,
            source.class_names,
            source.category_ids,
        ):
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
    """Register every URI among the names of a config's data sets.

    Names a script has registered itself, such as by Detectron2's ``register_coco_instances``, stay; what their dataset
    dicts lack is filled in, see :mod:`ramses_d2.data.registered_dataset_dicts`.

    Raises:
        RamsesError: neither a URI nor a registered name, a registered data set that cannot be read or has no outlines,
            or data sets with different class lists.
    """
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
