"""What can be wrong with a data set, and the dataset dict of one thing that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pandas as pd

ERROR, WARNING = "error", "warning"


class Kind(str, Enum):
    """The kinds of findings; a kind equals its name, e.g. ``"image-missing"``.

    Attributes:
        severity: "error" = training stops or learns something wrong, "warning" = worth a look.
        explanation: one line.
        mendable: whether a repaired copy is free of it.
    """

    severity: str
    explanation: str
    repairable: bool

    def __new__(cls, name: str, severity: str, explanation: str, repairable: bool = False) -> Kind:
        """A member with its attributes."""
        kind = str.__new__(cls, name)
        kind._value_ = name
        kind.severity, kind.explanation, kind.repairable = severity, explanation, repairable
        return kind

    # Files
    IMAGE_MISSING = "image-missing", ERROR, "rows name an image that is not in images/"
    LABEL_IMAGE_MISSING = "label-image-missing", ERROR, "an image has rows but no label image in labels/"
    ORPHAN_LABEL_IMAGE = "orphan-label-image", WARNING, "a label image has neither image nor rows"
    NOT_ANNOTATED = (
        "not-annotated",
        WARNING,
        "an image has neither rows nor label image (an error if a split names it)",
    )
    SAME_BASE_NAME = "same-base-name", ERROR, "two images differ only in their extension"
    IMAGE_UNREADABLE = "image-unreadable", ERROR, "an image is truncated, no image, or of an unknown kind"
    LABEL_IMAGE_UNREADABLE = "label-image-unreadable", ERROR, "a label image is truncated or no picture"
    CSV_UNREADABLE = "csv-unreadable", ERROR, "annotations.csv is missing or no comma-separated table"
    JSON_UNREADABLE = "json-unreadable", ERROR, "metadata.json, classes.json or a split file cannot be used"

    # Images
    EXIF_ROTATED = (
        "exif-rotated",
        WARNING,
        "an image is turned by its EXIF tag: its label must lie as it is shown",
        True,
    )
    LABEL_NOT_UPRIGHT = "label-not-upright", ERROR, "an image is turned by its EXIF tag, its label image is not", True
    SIZE_DIFFERS = "size-differs", ERROR, "image and label image have different sizes"
    CSV_SIZE_WRONG = "csv-size-wrong", ERROR, "height, width in annotations.csv are not those of the picture", True
    NOT_UINT16 = "label-not-uint16", ERROR, "a label image is not 16-bit grey (8-bit grey is a warning)", True
    LABEL_COLOURED = "label-coloured", ERROR, "a label image has colours, which are no labels"

    # Rows
    BAD_ROW = "bad-row", ERROR, "a row of annotations.csv has more cells than the header"
    BAD_VALUE = "bad-value", ERROR, "a cell of annotations.csv cannot be used, or a column is missing"
    DUPLICATE_ROW = "duplicate-row", ERROR, "a second row for the same particle", True
    UNKNOWN_CLASS = "unknown-class", ERROR, "a class is not in the class list"
    BAD_RESOLUTION = "bad-resolution", ERROR, "the resolution is not a number above 0"
    SEVERAL_RESOLUTIONS = "several-resolutions", ERROR, "rows of one image have different resolutions"
    RESOLUTION_UNKNOWN = "resolution-unknown", ERROR, "an image without rows has no resolution in metadata.json"
    RESOLUTION_OUTLIER = (
        "resolution-outlier",
        WARNING,
        "an image's resolution is far from that of the others, or absurd",
    )
    BAD_MASS = "bad-mass", ERROR, "a mass is 0, negative, infinite or no number"
    MASS_OUTLIER = "mass-outlier", WARNING, "the mass per area is far from that of the particle's class"

    # Rows against pixels
    ROW_WITHOUT_PIXELS = "row-without-pixels", ERROR, "a row's label has no pixel in the label image", True
    PIXELS_WITHOUT_ROW = "pixels-without-row", ERROR, "particles of a label image have no row", True
    BOX_WRONG = "box-wrong", ERROR, "a row's box is not that of its pixels", True
    BOXES_MIXED = "boxes-mixed", WARNING, "some boxes have rows in x0, x1, others columns", True
    BOXES_UNUSABLE = "boxes-unusable", WARNING, "most boxes fit the label images neither way round", True
    AREA_WRONG = "area-wrong", ERROR, "a row's area is not the number of its pixels", True
    TOUCHES_BORDER = "touches-border", WARNING, "a particle touches the image's border: it may be cut"
    DISCONNECTED = "disconnected", WARNING, "a particle has several parts"
    SPECKS = "specks", WARNING, "a particle has stray pixels away from its body", True
    TINY_PARTICLE = "tiny-particle", WARNING, "a particle of a few pixels"

    # Across images
    IN_TWO_SUBSETS = "in-two-subsets", ERROR, "a split names an image for training and for validation"
    COPY_IN_TWO_SUBSETS = "copy-in-two-subsets", ERROR, "the same pixels under two names, in training and in validation"
    DUPLICATE_IMAGE = "duplicate-picture", WARNING, "the same pixels under two names"
    SPLIT_IMAGE_MISSING = "split-picture-missing", ERROR, "a split names an image that its folder does not have"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: what.
        severity: "error" or "warning".
        folder: the data set folder, as given.
        file: the file inside it; a split file elsewhere has its own path.
        message: what is wrong, and what to do where that is not plain.
        row: row in annotations.csv (the header is row 1), None where there is none.
        image: base name.
        label: value in the label image.
    """

    kind: Kind
    severity: str
    folder: str
    file: str
    message: str
    row: int | None = None
    image: str | None = None
    label: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return asdict(self) | {"kind": self.kind.value}

    def __str__(self) -> str:
        """File, row, label and image, and the message."""
        where = str(Path(self.folder) / self.file)
        if self.row is not None:
            where += f", row {self.row}" if self.file.endswith(".csv") else f" (row {self.row})"
        if self.label is not None:
            where += f", label {self.label}"
        if self.image is not None and Path(self.file).stem != self.image:
            where += f" of {self.image}"
        return f"{where}: {self.message}"


def finding(
    kind: Kind,
    folder: Path,
    file: str,
    message: str,
    *,
    severity: str | None = None,
    row: int | None = None,
    image: str | None = None,
    label: int | None = None,
) -> Finding:
    """A finding with the severity of its kind, unless another is given."""
    return Finding(kind, severity or kind.severity, str(folder), file, message, row, image, label)


def row_findings(
    kind: Kind, folder: Path, rows: pd.DataFrame, message: Callable[..., str], *columns: str
) -> Iterable[Finding]:
    """One finding per row.

    Args:
        kind: of all of them.
        folder: the data set folder.
        rows: rows of annotations.csv, index = row, with the columns ``baseimg`` and ``label``.
        message: called with the values of ``columns``.
        columns: of ``rows``.
    """
    values = zip(*(rows[name].tolist() for name in columns), strict=True) if columns else [()] * len(rows)
    for row, image, label, each in zip(rows.index, rows["baseimg"], rows["label"], values, strict=True):
        label = None if pd.isna(label) else int(label)
        yield finding(kind, folder, "annotations.csv", message(*each), row=int(row), image=image, label=label)


def counted(number: float, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
