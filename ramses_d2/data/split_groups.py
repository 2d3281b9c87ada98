"""Which images belong together, so that none of them is used for training while another is used for validation."""

from __future__ import annotations

import logging
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from ramses_d2.errors import RamsesError

from .batch_masses import Batch, batch_of_images, parse_batches
from .folder_metadata import METADATA_NAME, image_entries, read_metadata

logger = logging.getLogger(__name__)

BATCH, REGEX = "batch", "regex:"


def group_keys(group_by: str, images: pd.DataFrame, rows: pd.DataFrame) -> list[Hashable | None]:
    """Name the group of every image.

    Args:
        group_by: "batch" = the batches of each folder's metadata.json; "regex:PATTERN" = the part of the base name that
            the pattern matches, or its parentheses: ``regex:(.+)_`` puts belt_1 and belt_2 together; else a column of
            annotations.csv, or a field of the ``images`` in metadata.json, such as ``tag``. Equal values in different
            folders are one group, batches of different folders are not.
        images: P rows with ``folder`` and ``base``, indexed by image name.
        rows: the annotations, with ``picture`` (the image's name) and their other columns.

    Returns:
        P keys; None = a group of its own (in no batch, no match, no value).

    Raises:
        RamsesError: no such column and field, a wrong pattern, two values in one image, or a wrong metadata.json.
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
    values = rows[["picture", column]].dropna()
    values = values[values[column].astype(str) != ""].drop_duplicates()
    twice = values["picture"].duplicated()
    if twice.any():
        name = values.loc[twice, "picture"].iloc[0]
        found = ", ".join(map(repr, values.loc[values["picture"] == name, column].tolist()))
        raise RamsesError(f"group by column {column}: image {name} has several values ({found}); it needs one")
    by_name = dict(zip(values["picture"], values[column], strict=True))
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
