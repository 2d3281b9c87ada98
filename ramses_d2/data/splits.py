"""Split files, ours and RAMSES2's, and how images are divided: groups that stay together, balanced sides, caps.

Shape letters: P images, C classes, G groups, S sides.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.data.batch_masses import Batch, batch_of_images, parse_batches
from ramses_d2.data.folder import (
    METADATA_NAME,
    DatasetDict,
    build_dataset_dicts,
    class_names_from_ids,
    image_entries,
    load_folder,
    read_annotations,
    read_metadata,
)
from ramses_d2.errors import RamsesError
from ramses_d2.files import atomic_file, base_name, check_output, read_json

FORMAT, VERSION = "ramses-split", 1
SIDES = ("train", "valid")
BATCH, REGEX = "batch", "regex:"

logger = logging.getLogger(__name__)


def load_split(path: str | Path, subset: str) -> tuple[list[DatasetDict], list[str]]:
    """One subset of a split file: dataset dicts in the order of the file, and the class names."""
    path = Path(path)
    split = read_split(path)
    subsets = split_subsets(split)
    if subset not in subsets:
        raise RamsesError(f"{path}: no subset {subset!r}; it has {', '.join(subsets) or 'none'}")
    names, class_names = subsets[subset], split_class_names(path)
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


def read_split(path: Path) -> dict[str, Any]:
    """The content of a split file, ours or RAMSES2's, checked."""
    split = read_json(path)
    if not isinstance(split, dict) or not is_original(split):
        if not isinstance(split, dict) or (split.get("format"), split.get("version")) != (FORMAT, VERSION):
            raise RamsesError(
                f'{path}: not a split file ("format": "{FORMAT}", "version": {VERSION}); see datasets/README.md'
            )
        for name, kind in (("folders", dict), ("classes", list), ("subsets", dict)):
            if not isinstance(split.get(name), kind):
                raise RamsesError(f"{path}: key {name!r} is missing or of a wrong type; see datasets/README.md")
        if not all(isinstance(text, str) for text in (*split["folders"].values(), *split["classes"])):
            raise RamsesError(f"{path}: folders must be paths, and classes names; see datasets/README.md")
    for name, images in split_subsets(split).items():
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise RamsesError(f"{path}: {name} is not a list of image names; see datasets/README.md")
    return split


def is_original(split: Mapping[str, Any]) -> bool:
    """Whether a split is in RAMSES2's format."""
    return "cls_to_idx" in split


def split_subsets(split: Mapping[str, Any]) -> dict[str, list[str]]:
    """Subset -> names of its images."""
    return {name: split[name] for name in SIDES if name in split} if is_original(split) else split["subsets"]


def split_class_names(path: str | Path) -> list[str]:
    """Class order of a split file."""
    split = read_split(Path(path))
    return class_names_from_ids(split["cls_to_idx"], Path(path)) if is_original(split) else list(split["classes"])


def subset_names(path: str | Path) -> list[str]:
    """Names of the subsets of a split file."""
    return list(split_subsets(read_split(Path(path))))


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
    """The folder as written, else (a path of another machine) its last part beside the split file."""
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
    """Write a split file: folders by key, relative to the file, and images ``<folder key>/<base name>``."""
    path = Path(path)
    check_output(path, force)
    if not path.parent.is_dir():
        raise RamsesError(f"{path}: name a JSON file in an existing folder")
    if path.exists():
        read_split(path)  # only a split file is replaced
    root = path.parent.resolve()
    relative = {key: Path(os.path.relpath(Path(folder).resolve(), root)).as_posix() for key, folder in folders.items()}
    split = {"format": FORMAT, "version": VERSION, "folders": relative, "classes": list(class_names)}
    split |= {"subsets": {name: list(images) for name, images in subsets.items()}} | dict(other or {})
    with atomic_file(path) as stream:
        stream.write(json.dumps(split, indent=1) + "\n")
    return path


def group_keys(group_by: str, images: pd.DataFrame, rows: pd.DataFrame) -> list[Hashable | None]:
    """P group keys of images; None = a group of its own (in no batch, no match, no value).

    Args:
        group_by: "batch" = the batches of each folder's metadata.json; "regex:PATTERN" = the part of the base name that
            the pattern matches, or its parentheses: ``regex:(.+)_`` puts belt_1 and belt_2 together; else a column of
            annotations.csv, or a field of the ``images`` in metadata.json, such as ``tag``. Equal values in different
            folders are one group, batches of different folders are not.
        images: P rows with ``folder`` and ``base``, indexed by image name.
        rows: the annotations, with ``image`` (the image's name) and their other columns.
    """
    if group_by.startswith(REGEX):
        keys = _regex_keys(group_by.removeprefix(REGEX), images)
    elif group_by == BATCH:
        keys = _batch_keys(images)
    elif group_by in rows:
        keys = _column_keys(group_by, images, rows)
    else:
        keys = _field_keys(group_by, images)
    alone = sum(key is None for key in keys)
    if alone:
        logger.warning("%d of %d images are in no group by %s: each is one of its own", alone, len(keys), group_by)
    return keys


def has_batches(images: pd.DataFrame) -> bool:
    """Whether a metadata.json of the images' folders has a batch of several images."""
    return any(len(batch.images) > 1 for folder in images["folder"].unique() for batch in _batches(Path(folder)))


def _batches(folder: Path) -> list[Batch]:
    return parse_batches(read_metadata(folder).get("batches", []), folder / METADATA_NAME)


def _regex_keys(pattern: str, images: pd.DataFrame) -> list[Hashable | None]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise RamsesError(f"group by {REGEX}{pattern}: not a regular expression ({error})") from None
    matches = [compiled.search(base) for base in images["base"]]
    return [(match.groups() or match.group()) if match else None for match in matches]


def _batch_keys(images: pd.DataFrame) -> list[Hashable | None]:
    by_place: dict[tuple[str, str], tuple[str, int]] = {}
    for folder in images["folder"].unique():
        numbers = batch_of_images(_batches(Path(folder)), Path(folder) / METADATA_NAME)
        by_place |= {(folder, base): (folder, number) for base, number in numbers.items()}
    if not by_place:
        raise RamsesError(f"group by {BATCH}: no metadata.json of the data set folders lists batches")
    return [by_place.get(place) for place in zip(images["folder"], images["base"], strict=True)]


def _column_keys(column: str, images: pd.DataFrame, rows: pd.DataFrame) -> list[Hashable | None]:
    values = rows[["image", column]].dropna()
    values = values[values[column].astype(str) != ""].drop_duplicates()
    twice = values["image"].duplicated()
    if twice.any():
        name = values.loc[twice, "image"].iloc[0]
        found = ", ".join(map(repr, values.loc[values["image"] == name, column].tolist()))
        raise RamsesError(f"group by column {column}: image {name} has several values ({found}); it needs one")
    by_name = dict(zip(values["image"], values[column], strict=True))
    return [by_name.get(name) for name in images.index]


def _field_keys(field: str, images: pd.DataFrame) -> list[Hashable | None]:
    by_place: dict[tuple[str, str], Any] = {}
    for folder in images["folder"].unique():
        for base, image in image_entries(Path(folder)).items():
            if image.get(field) not in (None, ""):
                by_place[folder, base] = str(image[field])
    if not by_place:
        raise RamsesError(
            f"group by {field}: neither a column of annotations.csv nor a field of the images in metadata.json; "
            f"give one of them, {BATCH} or {REGEX}PATTERN"
        )
    return [by_place.get(place) for place in zip(images["folder"], images["base"], strict=True)]


def group_numbers(keys: Sequence[Hashable | None]) -> np.ndarray:
    """Groups (P,) as numbers 0 ... G - 1 in the order in which they come; an image without key is its own group."""
    alone = [(False, key) if key is not None else (True, index) for index, key in enumerate(keys)]
    return pd.factorize(pd.Series(alone, dtype=object))[0]


def assign_sides(
    counts: np.ndarray,
    groups: np.ndarray,
    shares: Sequence[float],
    *,
    stratify: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Deal whole groups out to sides, so that every side gets its share of the images and, stratified, of each class.

    Groups are dealt in random order, each to the side that lacks most of what it has; then single groups change sides
    as long as that brings the shares nearer to what they should be. A side is never empty, and stratified, a class
    that S groups or more have is missing on no side if that can be reached one move at a time. Takes particles (P, C),
    groups (P,) and S shares that add up to 1; returns the side (P,) of every image.
    """
    # What each group has of the images and of each class, as shares of all
    shares = np.asarray(shares, dtype=float)[:, None]
    sides = len(shares)
    number = int(groups.max(initial=-1)) + 1
    if number < sides:
        raise RamsesError(
            f"{len(counts)} images in {number} groups cannot be divided into {sides} sides; "
            f"add images, or group them otherwise"
        )
    amounts = np.column_stack([np.ones(len(counts)), counts]) if stratify else np.ones((len(counts), 1))
    load = np.zeros((number, amounts.shape[1]))
    np.add.at(load, groups, amounts)
    total = load.sum(axis=0)
    load = load[:, total > 0] / total[total > 0]

    # Deal: each group to the side that lacks most of what it has
    excess = np.repeat(-shares, load.shape[1], axis=1)  # share that a side has minus what it should have
    side = np.empty(number, dtype=np.int64)
    for group in rng.permutation(number):
        side[group] = np.argmin(excess @ load[group])
        excess[side[group]] += load[group]
    _improve(side, load, excess)
    return side[groups]


def _improve(side: np.ndarray, load: np.ndarray, excess: np.ndarray) -> None:
    """Move the group that helps most to another side, until none helps; changes ``side`` and ``excess``.

    What is made smaller: the squared excess of every side and column of ``load`` (the images, then the classes), plus
    1 for every class that a side lacks although enough groups have it, and more for a side without images.
    """
    sides, has = len(excess), load > 0
    weight = np.where(has.sum(axis=0) >= sides, 1.0, 0.0)
    weight[0] = 1 + len(weight)
    holders = np.stack([has[side == index].sum(axis=0) for index in range(sides)])
    rows, square = np.arange(len(side)), (load**2).sum(axis=1)
    while True:
        # Half the change of the cost for every group and target: excess, then classes that a side gains or loses
        pull = load @ excess.T - (has @ (weight * (holders == 0)).T) / 2
        cost = pull - pull[rows, side][:, None] + square[:, None]
        cost += (has * (weight * (holders == 1))[side]).sum(axis=1)[:, None] / 2
        cost[rows, side] = np.inf
        group, target = np.unravel_index(np.argmin(cost), cost.shape)
        if cost[group, target] > -1e-12:
            return
        for index, sign in ((side[group], -1), (target, 1)):
            excess[index] += sign * load[group]
            holders[index] += sign * has[group]
        side[group] = target


def draw_capped(
    counts: np.ndarray,
    caps: np.ndarray,
    *,
    max_reuse: int = 1,
    not_counting: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> list[int]:
    """Choose images so that no class gets more particles than its cap, repeating images where classes are rare.

    The images are gone through in random order, and each that would push none of its classes above the cap is taken.
    This is repeated as long as an image can be used again and a class is below its cap. An image is used as a whole,
    so this is capping and oversampling, not balancing. ``counts`` are particles (P, C), ``caps`` (C,) count repeats.
    ``max_reuse`` 0 means 1, and an image without particles is used once. For the classes of ``not_counting`` (C,) no
    image is repeated, but their cap holds. Returns indices as they were taken (``rng`` None: in the order given).
    """
    counted = np.ones(counts.shape[1], dtype=bool) if not_counting is None else ~np.asarray(not_counting, dtype=bool)
    most = np.where(counts.any(axis=1), max(1, max_reuse), 1)
    uses = np.zeros(len(counts), dtype=np.int64)
    total = np.zeros(counts.shape[1], dtype=np.int64)
    drawn: list[int] = []
    while True:
        before = len(drawn)
        for index in np.arange(len(counts)) if rng is None else rng.permutation(len(counts)):
            if uses[index] < most[index] and (total + counts[index] <= caps).all():
                drawn.append(int(index))
                uses[index] += 1
                total += counts[index]
        usable_again = any(uses[index] < most[index] for index in drawn[before:])
        if not usable_again or not (total < caps)[counted].any():
            return drawn
