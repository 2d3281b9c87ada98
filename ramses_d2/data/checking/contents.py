"""What a RAMSES folder holds, read as far as possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from ramses_d2.data.checking.findings import Finding, Kind, finding
from ramses_d2.data.checking.scan import AnnotationScan, scan_annotations
from ramses_d2.data.folder import METADATA_NAME, class_names_from_ids, image_entries
from ramses_d2.errors import RamsesError
from ramses_d2.files import IMAGE_SUFFIXES, base_names, read_json

_EMPTY = AnnotationScan(
    pd.DataFrame(columns=["label", "baseimg"], dtype=str),
    pd.DataFrame({"label": [], "baseimg": [], "class": [], "res": [], "mass": [], "area": [], "gt_mass": []}),
    {},
    [],
)
_KIND_OF_COLUMN = {"res": Kind.BAD_RESOLUTION, "mass": Kind.BAD_MASS}


@dataclass(frozen=True)
class FolderContents:
    """The files and rows of a RAMSES folder.

    Attributes:
        folder: as given.
        images: base name -> image.
        labels: base name -> label image.
        scan: annotations.csv, None if it cannot be read.
        rows: its usable rows, as :attr:`AnnotationScan.table`, with ``label`` int and ``baseimg`` without extension.
        unusable: number of rows without a usable label, by base name; "" for those without one.
        class_names: the class list of classes.json or as given, None if there is none.
        resolutions: base name -> px per mm, from metadata.json.
        findings: what is wrong so far.
    """

    folder: Path
    images: dict[str, Path]
    labels: dict[str, Path]
    scan: AnnotationScan | None
    rows: pd.DataFrame
    unusable: dict[str, int]
    class_names: list[str] | None
    resolutions: dict[str, float]
    findings: list[Finding] = field(default_factory=list)

    @cached_property
    def base_names(self) -> list[str]:
        """Base names of images, label images and rows, sorted."""
        return sorted({*self.images, *self.labels, *self.rows["baseimg"].unique()})


def read_contents(folder: Path, class_names: Sequence[str] | None = None) -> FolderContents:
    """List the files of a folder and read its annotations.csv, classes.json and metadata.json.

    Args:
        folder: the data set.
        class_names: class list; default: that of classes.json.

    Raises:
        RamsesError: no such folder, or one that is no data set.
    """
    if not folder.is_dir():
        raise RamsesError(f"{folder}: no such folder; a RAMSES folder holds annotations.csv, images/ and labels/")
    if not (folder / "annotations.csv").exists() and not (folder / "images").is_dir():
        raise RamsesError(f"{folder}: neither annotations.csv nor images/ is in it; name a RAMSES folder")
    findings: list[Finding] = []
    images = _list_images(folder, findings)
    labels = {path.stem: path for path in sorted((folder / "labels").glob("*.png"))}
    scan = _scan(folder, findings)
    table = (scan or _EMPTY).table
    table = table.assign(baseimg=base_names(table["baseimg"], {*images, *labels}))
    usable = table["label"].notna() & (table["baseimg"] != "")
    unusable = table["baseimg"][~usable].value_counts().to_dict()
    if scan is not None and scan.surplus:
        unusable[""] = unusable.get("", 0) + len(scan.surplus)
    return FolderContents(
        folder=folder,
        images=images,
        labels=labels,
        scan=scan,
        rows=table[usable].astype({"label": "int64"}),
        unusable=unusable,
        class_names=_class_names(folder, findings) if class_names is None else list(class_names),
        resolutions=_resolutions(folder, findings),
        findings=findings,
    )


def _list_images(folder: Path, findings: list[Finding]) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in sorted((folder / "images").glob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in images:
            message = f"{images[path.stem].name} has the same base name; rename one"
            findings.append(finding(Kind.SAME_BASE_NAME, folder, f"images/{path.name}", message, image=path.stem))
        images.setdefault(path.stem, path)
    return images


def _scan(folder: Path, findings: list[Finding]) -> AnnotationScan | None:
    path = folder / "annotations.csv"
    try:
        scan = scan_annotations(path)
    except RamsesError as error:
        message = str(error).removeprefix(f"{path}: ")
        findings.append(finding(Kind.CSV_UNREADABLE, folder, path.name, message))
        return None
    for problem in scan.problems:
        kind = Kind.BAD_ROW if problem.column is None else _KIND_OF_COLUMN.get(problem.column, Kind.BAD_VALUE)
        cells = scan.table.loc[problem.row] if problem.row in scan.table.index else {}
        label, image = cells.get("label", math.nan), cells.get("baseimg") or None
        label = None if math.isnan(label) else int(label)
        findings.append(finding(kind, folder, path.name, problem.message, row=problem.row, image=image, label=label))
    return scan


def _class_names(folder: Path, findings: list[Finding]) -> list[str] | None:
    path = folder / "classes.json"
    if not path.is_file():
        return None
    try:
        return class_names_from_ids(read_json(path), path)
    except RamsesError as error:
        message = str(error).removeprefix(f"{path}: ")
        findings.append(finding(Kind.JSON_UNREADABLE, folder, path.name, message))
        return None


def _resolutions(folder: Path, findings: list[Finding]) -> dict[str, float]:
    """Usable resolutions of metadata.json."""
    path = folder / METADATA_NAME
    try:
        values = {base: entry.get("res") for base, entry in image_entries(folder).items()}
    except RamsesError as error:
        message = str(error).removeprefix(f"{path}: ")
        findings.append(finding(Kind.JSON_UNREADABLE, folder, path.name, message))
        return {}
    usable = {}
    for base, value in values.items():
        if isinstance(value, (int, float)) and 0 < value < math.inf:
            usable[base] = float(value)
        elif value is not None:
            message = f"res is {value!r}; write the resolution in px per mm, above 0, or null"
            findings.append(finding(Kind.BAD_RESOLUTION, folder, path.name, message, image=base))
    return usable
