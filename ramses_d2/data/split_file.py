"""Split files: which images of which folders are for training and for validation, and the class order.

Two formats are read and written: ours (``"format": "ramses-split"``) and the original's JSON + CSV pair (reference
section 6.4). A name that is listed several times is used several times (oversampling), with one ``image_id``.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ramses_d2.atomic_file import atomic_file
from ramses_d2.errors import RamsesError

from .annotations_csv import read_annotations
from .folder import DatasetDict, build_dataset_dicts, class_names_from_ids, load_folder
from .image_names import base_name
from .json_file import read_json

FORMAT, VERSION = "ramses-split", 1
_ORIGINAL_SUBSETS = ("train", "valid")


def load_split(path: str | Path, subset: str) -> tuple[list[DatasetDict], list[str]]:
    """Read one subset of a split file.

    Args:
        path: our JSON file, or the original's.
        subset: one of its subsets.

    Returns:
        dataset dicts in the order of the file, and the class names.

    Raises:
        RamsesError: file, subset, folder or image missing; content wrong.
    """
    path = Path(path)
    split = read_split(path)
    subsets = _subsets(split)
    if subset not in subsets:
        raise RamsesError(f"{path}: no subset {subset!r}; it has {', '.join(subsets) or 'none'}")
    names = subsets[subset]
    class_names = _class_names(split, path)
    load = _load_original if is_original(split) else _load_ours
    by_name: dict[str, list[DatasetDict]] = load(path, split, names, class_names)
    missing = [name for name in names if name not in by_name]
    if missing:
        raise RamsesError(
            f"{path}: {len(missing)} images of subset {subset!r} are in no data set folder, the first is {missing[0]!r}"
        )
    dataset_dicts = [dataset_dict for name in names for dataset_dict in by_name[name]]
    image_ids: dict[str, int] = {}
    for dataset_dict in dataset_dicts:
        dataset_dict["image_id"] = image_ids.setdefault(dataset_dict["image_name"], len(image_ids) + 1)
    return dataset_dicts, class_names


def split_class_names(path: str | Path) -> list[str]:
    """Class order of a split file."""
    return _class_names(read_split(Path(path)), Path(path))


def subset_names(path: str | Path) -> list[str]:
    """Names of the subsets of a split file."""
    return list(_subsets(read_split(Path(path))))


def read_split(path: Path) -> dict[str, Any]:
    """The content of a split file, ours or the original's.

    Raises:
        RamsesError: no such file, or not a split.
    """
    split = read_json(path)
    if not isinstance(split, dict) or not is_original(split):
        _check_ours(split, path)
    for name, images in _subsets(split).items():
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise RamsesError(f"{path}: {name} is no list of image names; see datasets/README.md")
    return split


def _check_ours(split: Any, path: Path) -> None:
    """Stop where a split in our format lacks something, or has something of a wrong type."""
    if not isinstance(split, dict) or (split.get("format"), split.get("version")) != (FORMAT, VERSION):
        raise RamsesError(
            f'{path}: not a split file ("format": "{FORMAT}", "version": {VERSION}); see datasets/README.md'
        )
    for name, kind in (("folders", dict), ("classes", list), ("subsets", dict)):
        if not isinstance(split.get(name), kind):
            raise RamsesError(f"{path}: key {name!r} is missing or of a wrong type; see datasets/README.md")
    if not all(isinstance(text, str) for text in (*split["folders"].values(), *split["classes"])):
        raise RamsesError(f"{path}: folders must be paths, and classes names; see datasets/README.md")


def is_original(split: dict[str, Any]) -> bool:
    """Whether a split is in the original's format."""
    return "cls_to_idx" in split


def _subsets(split: dict[str, Any]) -> dict[str, list[str]]:
    if is_original(split):
        return {name: split[name] for name in _ORIGINAL_SUBSETS if name in split}
    return split["subsets"]


def _class_names(split: dict[str, Any], path: Path) -> list[str]:
    return class_names_from_ids(split["cls_to_idx"], path) if is_original(split) else list(split["classes"])


def _load_ours(
    path: Path, split: dict[str, Any], names: list[str], class_names: list[str]
) -> dict[str, list[DatasetDict]]:
    """Name ``<folder key>/<base name>`` -> its dataset dict."""
    bases = defaultdict(set)
    for name in names:
        key, _, base = name.partition("/")
        if key not in split["folders"]:
            raise RamsesError(
                f"{path}: image {name!r} is in no listed folder ({', '.join(split['folders'])}); "
                f"write <folder key>/<base name>"
            )
        bases[key].add(base)
    by_name = {}
    for key, wanted in bases.items():
        dataset_dicts, _ = load_folder(path.parent / split["folders"][key], class_names, key=key, only=wanted)
        by_name |= {dataset_dict["image_name"]: [dataset_dict] for dataset_dict in dataset_dicts}
    return by_name


def _load_original(
    path: Path, split: dict[str, Any], names: list[str], class_names: list[str]
) -> dict[str, list[DatasetDict]]:
    """Name, with or without extension -> its dataset dicts; one that is in several folders stands for all of them."""
    csv_path = path.with_suffix(".csv")
    if not csv_path.is_file():
        raise RamsesError(f"{csv_path}: no such file; a RAMSES2 split is a JSON and the CSV of the same name beside it")
    table = read_annotations(csv_path)
    if "folder" not in table.columns:
        raise RamsesError(f"{csv_path}: column folder is missing; it holds the path of each image's data set folder")
    bases = {base_name(name) for name in names}
    table = table[table["baseimg"].isin(names) | table["baseimg"].map(base_name).isin(bases)]
    by_base = defaultdict(list)
    for (folder, rows), key in zip(table.groupby("folder"), _folder_keys(table), strict=True):
        found = find_folder(folder, path, csv_path)
        wanted = {*rows["baseimg"], *rows["baseimg"].map(base_name)}
        for dataset_dict in build_dataset_dicts(found, rows, csv_path, class_names, key=key, only=wanted):
            by_base[dataset_dict["image_name"].rpartition("/")[2]].append(dataset_dict)
    found = {name: name if name in by_base else base_name(name) for name in names}
    return {name: by_base[base] for name, base in found.items() if base in by_base}


def _folder_keys(table: pd.DataFrame) -> list[str]:
    """Short names of the sorted folders: the last part of the path, all of it where that is ambiguous."""
    folders = sorted(table["folder"].unique())
    last = [_parts(folder)[-1] for folder in folders]
    return [
        name if last.count(name) == 1 else "/".join(_parts(folder)) for name, folder in zip(last, folders, strict=True)
    ]


def find_folder(folder: str, path: Path, csv_path: Path) -> Path:
    """The folder as written, else (a path of another machine) its last part beside the split file.

    Raises:
        RamsesError: neither exists.
    """
    candidates = [path.parent / folder, path.parent / _parts(folder)[-1]]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise RamsesError(
        f"{csv_path}: folder {folder!r} is found neither there nor as {candidates[1]}; correct the column"
    )


def _parts(folder: str) -> list[str]:
    """Parts of a path written on Windows or elsewhere."""
    return [part for part in folder.replace("\\", "/").split("/") if part] or ["."]


def write_split(
    path: str | Path,
    folders: Mapping[str, str | Path],
    class_names: Sequence[str],
    subsets: Mapping[str, Sequence[str]],
    other: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> Path:
    """Write a split file in our format.

    Args:
        path: JSON file.
        folders: key -> data set folder; written relative to the file.
        class_names: class order.
        subsets: subset -> images ``<folder key>/<base name>``, with repeats.
        other: further keys.
        force: replace an existing split file.

    Returns:
        ``path``.

    Raises:
        RamsesError: ``path`` exists (and is not to be replaced, or is no split file), or its folder does not.
    """
    path = Path(path)
    _check_replaceable(path, force)
    root = path.parent.resolve()
    relative = {key: Path(os.path.relpath(Path(folder).resolve(), root)).as_posix() for key, folder in folders.items()}
    split = {"format": FORMAT, "version": VERSION, "folders": relative, "classes": list(class_names)}
    split |= {"subsets": {name: list(images) for name, images in subsets.items()}} | dict(other or {})
    _write_text(path, json.dumps(split, indent=1) + "\n")
    return path


def write_original_split(
    path: str | Path, split: Mapping[str, Any], table: pd.DataFrame | None, *, force: bool = False
) -> Path:
    """Write a split as the original does: a JSON, and the annotations in the CSV of the same name.

    Args:
        path: the JSON file.
        split: its content, keys of reference section 6.4.
        table: all annotations, with ``folder`` and ``VALID``; None: no CSV is written.
        force: replace an existing split of the original's format.

    Returns:
        ``path``.

    Raises:
        RamsesError: a file exists (and is not to be replaced), or the folder does not.
    """
    path = Path(path)
    csv_path = path.with_suffix(".csv")
    _check_replaceable(path, force)
    if table is not None:
        if csv_path.exists() and not (path.exists() and is_original(read_split(path))):
            raise RamsesError(f"{csv_path} exists and belongs to no split: choose another name")
        _write_text(csv_path, table.to_csv(index=False, na_rep="nan"))
    _write_text(path, json.dumps(dict(split), indent=4))
    return path


def _check_replaceable(path: Path, force: bool) -> None:
    if not path.parent.is_dir() or path.is_dir():
        raise RamsesError(f"{path}: name a JSON file in an existing folder")
    if path.exists():
        if not force:
            raise RamsesError(f"{path} exists: choose another name, or replace it with --force")
        read_split(path)


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as stream:
        stream.write(text)
