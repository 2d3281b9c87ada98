"""The particle table: one row per predicted particle, with the original's column names (reference section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

# x is the ROW axis in this table, as in the original's
COLUMNS = ["baseimg", "label", "res", "class", "x0", "x1", "y0", "y1", "area", "mass", "score"]


def particle_table(
    image_name: str,
    labels: np.ndarray,
    class_names: Sequence[str],
    masses: Sequence[float],
    scores: Sequence[float],
    resolution: float,
) -> pd.DataFrame:
    """Measure the particles of one label image.

    Args:
        image_name: file name with extension.
        labels: (H, W) label image, k = particle k - 1; particles without a pixel get no row.
        class_names, masses, scores: of each particle; masses in grams, NaN = unknown.
        resolution: px/mm, NaN = unknown.

    Returns:
        ``COLUMNS``: x0, x1 first and last + 1 row, y0, y1 first and last + 1 column, area in px, mass in g.
    """
    boxes = ndimage.find_objects(labels.astype(np.int32), max_label=len(class_names))
    areas = np.bincount(labels.ravel(), minlength=len(class_names) + 1)
    rows = [
        {
            "baseimg": image_name,
            "label": index + 1,
            "res": resolution,
            "class": class_names[index],
            "x0": box[0].start,
            "x1": box[0].stop,
            "y0": box[1].start,
            "y1": box[1].stop,
            "area": areas[index + 1],
            "mass": masses[index],
            "score": scores[index],
        }
        for index, box in enumerate(boxes)
        if box is not None
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
