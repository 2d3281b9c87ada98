"""Boxes of a RAMSES folder as XYXY, whatever its CSV means by x and y.

The original writes ROWS in ``x0, x1`` and columns in ``y0, y1``; other producers write columns in ``x0, x1``.
The label images decide: a few of them are decoded and compared with the CSV.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from .annotations_csv import BOX_COLUMNS
from .label_map import read_label_image

logger = logging.getLogger(__name__)

# CSV columns that hold left, top, right, bottom
CONVENTIONS = {
    "x0, x1 are rows, y0, y1 are columns": ["y0", "x0", "y1", "x1"],
    "x0, x1 are columns, y0, y1 are rows": ["x0", "y0", "x1", "y1"],
}
_PROBED_IMAGES = 5
_AGREEING = 0.9  # share of the compared boxes
_TOLERANCE = 1  # px: some producers write inclusive ends


def xyxy_boxes(groups: Mapping[str, pd.DataFrame], labels: Mapping[str, Path], csv_path: Path) -> dict[str, np.ndarray]:
    """Boxes of every image; says in the log which convention the CSV follows.

    Where the CSV has no boxes, or boxes that match neither convention, they are taken from the label images,
    which means decoding all of them.

    Args:
        groups: base name -> the image's K rows.
        labels: base name -> label image.
        csv_path: for the log.

    Returns:
        base name -> float (K, 4) XYXY_ABS, end exclusive; zeros for a row without pixels.
    """
    if not groups:
        return {}
    columns = None
    if not set(BOX_COLUMNS) <= set(next(iter(groups.values())).columns):
        logger.info("%s: no box columns; boxes are taken from the label images", csv_path)
    elif (convention := _detect(groups, labels)) is not None:
        logger.info("%s: in its boxes %s", csv_path, convention)
        columns = CONVENTIONS[convention]
    else:
        logger.warning("%s: its boxes do not match the label images, which are used instead", csv_path)
    boxes = {}
    for base, rows in groups.items():
        if columns is not None and rows[columns].notna().all(axis=None):
            boxes[base] = rows[columns].to_numpy(dtype=float)
        else:
            boxes[base] = np.nan_to_num(_label_boxes(labels[base], rows["label"]))
    return boxes


def _detect(groups: Mapping[str, pd.DataFrame], labels: Mapping[str, Path]) -> str | None:
    """The convention most boxes of a few images, spread over the data set, agree with; None for neither."""
    bases = list(groups)
    probed = [bases[i] for i in np.unique(np.linspace(0, len(bases) - 1, _PROBED_IMAGES).astype(int))]
    true = np.concatenate([_label_boxes(labels[base], groups[base]["label"]) for base in probed])
    seen = ~np.isnan(true).any(axis=1)
    rows = pd.concat([groups[base] for base in probed])[seen]
    agreement = {
        convention: (np.abs(rows[columns].to_numpy(dtype=float) - true[seen]) <= _TOLERANCE).all(axis=1).mean()
        for convention, columns in CONVENTIONS.items()
        if len(rows)
    }
    best = max(agreement, key=agreement.get, default=None)
    return best if best is not None and agreement[best] >= _AGREEING else None


def _label_boxes(path: Path, labels: pd.Series) -> np.ndarray:
    """(K, 4) XYXY boxes of the given labels in a label image; NaN for one without pixels."""
    found = ndimage.find_objects(read_label_image(path))
    boxes = np.full((len(labels), 4), np.nan)
    for index, label in enumerate(labels):
        if label <= len(found) and found[label - 1] is not None:
            rows, columns = found[label - 1]
            boxes[index] = columns.start, rows.start, columns.stop, rows.stop
    return boxes
