"""A COCO json, checked: what it lists, under ids of any kind, and the order of its classes.

Classes are in the order of their ids in the file, or in that of a label file. A category without annotations that is
only the supercategory of others (Roboflow writes such a dummy) is left out; every other category stays, used or not, so
that the training and validation files of one data set agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ramses_d2.errors import RamsesError

from .json_file import read_json

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

    Raises:
        RamsesError: a file, list or key is missing; an id occurs twice or is not listed; a category that is used is not
            in the label file; two classes of one name.
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
    """Class names in class order: one a line; blank lines, and lines that begin with "#", do not count.

    Raises:
        RamsesError: no such file, no name, or a name twice.
    """
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
    """Entries by their id.

    Raises:
        RamsesError: an entry without id, or an id that occurs twice.
    """
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
