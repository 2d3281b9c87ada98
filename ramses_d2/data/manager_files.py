"""Read and write the split files of a :class:`ramses_d2.data.dataset_manager.DatasetManager`, in both formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ramses_d2.errors import RamsesError

from .annotations_csv import read_annotations
from .image_table import find_empty_images, read_folders
from .split_file import FORMAT, find_folder, is_original, read_split, write_original_split, write_split

if TYPE_CHECKING:
    from .dataset_manager import DatasetManager

OURS, ORIGINAL = FORMAT, "ramses2"
_SIDES = ("train", "valid")
_OUR_KEYS = ("format", "version", "folders", "classes", "subsets", "settings")
_SETTINGS = (
    "seed", "minres", "mininst", "maxinst", "exclude", "input_shape", "crop_to_aspect_ratio", "mask_stride", "group_by",
)  # fmt: skip
# The original's key -> argument of the constructor
_ORIGINAL_SETTINGS = {
    name: name
    for name in ("exclude", "mask_stride", "minres", "input_shape", "cls_to_idx", "mininst", "maxinst", "seed")
} | {"crop_to_ar": "crop_to_aspect_ratio"}
_COUNTS = ("train_class_counts", "valid_class_counts")
_ORIGINAL_KEYS = ("dataset_id", "ratio", *_ORIGINAL_SETTINGS, *_COUNTS, *_SIDES)
# What the original's file says where no network size was asked for: the published network's
_INPUT_SHAPE = (2048, 3072)


def read_manager(cls: type[DatasetManager], *paths: str | Path) -> DatasetManager:
    """See ``DatasetManager.from_file``."""
    tables = [Path(path) for path in paths if Path(path).suffix.lower() == ".csv"]
    files = [Path(path) for path in paths if Path(path) not in tables]
    if len(files) != 1 or len(tables) > 1:
        raise RamsesError(f"{', '.join(map(str, paths)) or '(none)'}: give a split's JSON, and if need be one CSV")
    split = read_split(files[0])
    lists = {name: split[name] for name in _SIDES if name in split} if is_original(split) else split["subsets"]
    read = _read_original if is_original(split) else _read_ours
    manager = read(cls, files[0], split, tables[0] if tables else None)
    manager.train_basenames, manager.valid_basenames = (list(lists.get(name, [])) for name in _SIDES)
    manager.other_subsets = {name: list(listed) for name, listed in lists.items() if name not in _SIDES}
    manager.update_info()
    if is_original(split):  # what the file says: the original counts only weighed particles in some sets
        for name in _COUNTS:
            setattr(manager, name, dict(split.get(name, getattr(manager, name))))
    return manager


def save_manager(manager: DatasetManager, path: Path, dataset_id: str | None, format: str, force: bool) -> Path:
    """See ``DatasetManager.save``."""
    if path.suffix.lower() != ".json":
        path = path.with_name(f"{path.name}.json")
    if format == OURS:
        settings = manager.other_keys.get("settings", {}) | {name: getattr(manager, name) for name in _SETTINGS}
        names = _with_keys(manager)
        return write_split(
            path,
            _folder_paths(manager, {name.partition("/")[0] for listed in names.values() for name in listed}),
            sorted(manager.cls_to_idx, key=manager.cls_to_idx.get),
            names,
            manager.other_keys | {"settings": settings},
            force=force,
        )
    if format != ORIGINAL:
        raise RamsesError(f"split format {format!r}: it is {OURS!r} or {ORIGINAL!r}")
    dataset_id = dataset_id or manager.dataset_id or datetime.now().strftime("%Y%m%d-%H%M%S")
    table = None if manager.annotations.empty else _whole_numbers(manager.annotations)
    path = write_original_split(path, _original_content(manager, dataset_id), table, force=force)
    manager.dataset_id = dataset_id
    return path


def _read_ours(
    cls: type[DatasetManager], path: Path, split: Mapping[str, Any], csv_path: Path | None
) -> DatasetManager:
    if csv_path is not None:
        raise RamsesError(f"{csv_path}: {path} needs no CSV, it names the data set folders")
    folders = {str((path.parent / folder).resolve()): key for key, folder in split["folders"].items()}
    if len(folders) < len(split["folders"]):
        raise RamsesError(f"{path}: two keys of folders are the same folder, so an image has two names")
    stored = split.get("settings", {})
    if not isinstance(stored, dict):
        raise RamsesError(f"{path}: key 'settings' is of a wrong type; remove it, or see datasets/README.md")
    settings = {"mininst": 0} | {name: stored[name] for name in _SETTINGS if name in stored}
    table = read_folders(list(folders))
    empty = find_empty_images(table, list(folders)) if settings["mininst"] == 0 else ()
    ids = {name: index for index, name in enumerate(split["classes"], start=1)}
    manager = cls(table, cls_to_idx=ids, empty=empty, keys=folders, **settings)
    manager.other_keys = {key: value for key, value in split.items() if key not in _OUR_KEYS} | {"settings": stored}
    return manager


def _read_original(
    cls: type[DatasetManager], path: Path, split: Mapping[str, Any], csv_path: Path | None
) -> DatasetManager:
    if csv_path is not None or path.with_suffix(".csv").is_file():
        table = read_annotations(csv_path or path.with_suffix(".csv"))
    else:
        table = pd.DataFrame(columns=["label", "baseimg", "class", "folder"], dtype=str)
    settings = {argument: split[key] for key, argument in _ORIGINAL_SETTINGS.items() if key in split}
    manager = cls(table, filter_annotations=False, bare_names=True, **settings)
    manager.dataset_id = split.get("dataset_id")
    manager.other_keys = {key: value for key, value in split.items() if key not in _ORIGINAL_KEYS}
    manager.source = path
    return manager


def _original_content(manager: DatasetManager, dataset_id: str) -> dict[str, Any]:
    if manager.other_subsets:
        raise RamsesError(f"the {ORIGINAL} format has train and valid only, no folds; save the {OURS} format")
    shape = manager.input_shape or _INPUT_SHAPE
    content = {
        "dataset_id": dataset_id,
        "exclude": manager.exclude,
        "ratio": shape[0] / shape[1],
        "crop_to_ar": manager.crop_to_aspect_ratio and manager.input_shape is not None,
        "mask_stride": manager.mask_stride,
        "minres": manager.minres,
        "input_shape": list(shape),
        "cls_to_idx": manager.cls_to_idx,
        "mininst": manager.mininst,
        "maxinst": manager.maxinst,
        "seed": manager.seed,
        "train_class_counts": manager.train_class_counts,
        "valid_class_counts": manager.valid_class_counts,
        "train": _without_keys(manager, manager.train_basenames),
        "valid": _without_keys(manager, manager.valid_basenames),
    }
    return content | {key: value for key, value in manager.other_keys.items() if key != "settings"}


def _without_keys(manager: DatasetManager, names: Sequence[str]) -> list[str]:
    """Base names, which must tell the images apart and have rows in the CSV."""
    bases = manager.images["base"]
    shared = set(bases[bases.duplicated(keep=False)])
    empty = set(manager.counts.index[~manager.counts.any(axis=1)])
    for name in names:
        if name in empty:
            raise RamsesError(f"image {name} has no particles: the {ORIGINAL} format cannot hold it; use mininst=1")
        if bases.get(name) in shared:
            raise RamsesError(
                f"image {name}: another folder has one of the same base name, and the {ORIGINAL} format cannot "
                f"tell them apart; rename one, or save the {OURS} format"
            )
    return [bases.get(name, name) for name in names]


def _with_keys(manager: DatasetManager) -> dict[str, list[str]]:
    """All subsets with names ``<folder key>/<base name>``."""
    by_name: dict[str, list[str]] = {}
    for place in manager.places.itertuples():
        by_name.setdefault(place.image, []).append(f"{place.key}/{place.base}")
    subsets = {}
    for subset, names in manager.subsets.items():
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise RamsesError(
                f"{len(unknown)} images of subset {subset} are in no known folder, the first is {unknown[0]}; "
                f"read the split with its CSV"
            )
        subsets[subset] = [name for bare in names for name in by_name[bare]]
    return subsets


def _folder_paths(manager: DatasetManager, used: set[str]) -> dict[str, Path]:
    """Key -> folder; one that is not here is looked for beside the split file that was read, if it is used."""
    paths = {}
    for folder, key in manager.folders.items():
        if Path(folder).is_dir():
            paths[key] = Path(folder)
        elif key in used and manager.source is not None:
            paths[key] = find_folder(folder, manager.source, manager.source.with_suffix(".csv"))
        elif key in used:
            raise RamsesError(f"{folder}: no such folder; correct the column folder of the annotations")
    return paths


def _whole_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The table with whole numbers written as such, although a column with unknown values is float."""
    numbers = {
        name: table[name].astype("Int64")
        for name in table.select_dtypes("float")
        if name not in ("res", "mass") and (table[name].dropna() % 1 == 0).all()
    }
    return table.assign(**numbers)
