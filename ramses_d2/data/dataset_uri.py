"""Data sets by address, registered in Detectron2's catalogs when they are needed.

=============================================  ==================================================
``ramses://FOLDER``                            all pictures of one RAMSES folder
``ramses://split.json#train``                  one subset of a split file (ours or the original's)
``coco://annotations.json?images=DIR``         a COCO json; its folder if DIR is left out
=============================================  ==================================================

A relative path is looked up in the working directory, then in ``$DETECTRON2_DATASETS``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ramses_d2.errors import RamsesError

from .coco_source import coco_class_names, load_coco
from .folder import Record, folder_class_names, load_folder
from .split_file import load_split, split_class_names, subset_names

_FORMS = "ramses://FOLDER, ramses://split.json#SUBSET and coco://annotations.json?images=DIR"
Loader = Callable[[], tuple[list[Record], list[str]]]


def register(uri: str) -> str:
    """Make a data set known to ``DatasetCatalog`` and ``MetadataCatalog`` under its URI.

    Calling it again changes nothing, unless the URI now leads to another place, which then replaces the
    first. Only the class names are read here; the records when Detectron2 asks for them.

    Args:
        uri: see the module's table.

    Returns:
        ``uri``, the name in both catalogs.

    Raises:
        RamsesError: not such a URI; file, folder or subset missing.
    """
    load, class_names, source = _resolve(uri)
    if uri in DatasetCatalog.list():
        if MetadataCatalog.get(uri).source == source:
            return uri
        DatasetCatalog.remove(uri)
        MetadataCatalog.remove(uri)
    DatasetCatalog.register(uri, partial(_records, load))
    MetadataCatalog.get(uri).set(thing_classes=class_names, evaluator_type="ramses", source=source)
    return uri


def register_datasets(names: Sequence[str]) -> None:
    """Register every URI among the names of a config's data sets; names a script has registered itself stay.

    Raises:
        RamsesError: neither a URI nor a registered name, or data sets with different class lists.
    """
    for name in names:
        if "://" in name or name not in DatasetCatalog.list():
            register(name)
    uris = [name for name in names if "://" in name]
    for name in uris[1:]:
        first, other = (MetadataCatalog.get(each).thing_classes for each in (uris[0], name))
        if first != other:
            raise RamsesError(
                f"data sets {uris[0]} ({', '.join(first)}) and {name} ({', '.join(other)}) "
                f"have different class lists; fix the order by a split file or a classes.json in each folder"
            )


def _records(load: Loader) -> list[Record]:
    return load()[0]


def _resolve(uri: str) -> tuple[Loader, list[str], str]:
    """How to read the data set, its class names, and where it is (to notice that a URI leads elsewhere)."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in ("ramses", "coco") or not rest:
        raise RamsesError(f"data set {uri!r} is not one of {_FORMS}")
    if scheme == "coco":
        name, _, query = rest.partition("?")
        key, _, images = query.partition("=")
        if query and key != "images":
            raise RamsesError(f"data set {uri!r}: unknown option {key!r}; write coco://annotations.json?images=DIR")
        json_path = _find(name, uri)
        folder = _find(images, uri) if images else json_path.parent
        return partial(load_coco, json_path, folder), coco_class_names(json_path), f"{json_path}?{folder}"

    name, _, subset = rest.partition("#")
    path = _find(name, uri)
    if path.is_dir():
        if subset:
            raise RamsesError(f"data set {uri!r}: {path} is a folder and has no subsets; name a split file")
        return partial(load_folder, path), folder_class_names(path), str(path)
    subsets = subset_names(path)
    if subset not in subsets:
        raise RamsesError(
            f"data set {uri!r}: {path} has no subset {subset!r}; append one of {', '.join('#' + s for s in subsets)}"
        )
    return partial(load_split, path, subset), split_class_names(path), f"{path}#{subset}"


def _find(name: str, uri: str) -> Path:
    """Absolute path of a file or folder named in a URI."""
    roots = [Path.cwd()]
    if os.environ.get("DETECTRON2_DATASETS"):
        roots.append(Path(os.environ["DETECTRON2_DATASETS"]).expanduser())
    for root in roots:
        path = root / Path(name).expanduser()
        if path.exists():
            return path.resolve()
    raise RamsesError(f"data set {uri!r}: {name} is not found in {' or '.join(map(str, roots))}")
