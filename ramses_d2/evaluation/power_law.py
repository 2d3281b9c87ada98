"""The baseline a mass branch must beat: grams read off class and area, ``mass = scale * area ^ exponent``.

It is fitted on the training truth and made as strong as that form allows, then applied to the predicted masks
and classes of the very pairs the branch is judged by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ramses_d2.data.label_map import read_label_map
from ramses_d2.errors import RamsesError

# Particles a class needs for an exponent of its own
MIN_PARTICLES = 5
# Label maps read where the annotations have no areas: evenly spread images, plenty for two numbers a class
MAX_DECODED_IMAGES = 100
# Bodies of one shape and density: mass grows as length^3, area as length^2
SIMILAR_BODIES = 1.5


@dataclass(frozen=True)
class PowerLaw:
    """Grams from class and area.

    Attributes:
        laws: class id -> (scale, exponent).
        pooled: (scale, exponent) for classes the training truth lacks.
    """

    laws: Mapping[int, tuple[float, float]]
    pooled: tuple[float, float]

    def predict(self, class_ids: Iterable[int], areas_mm2: np.ndarray) -> np.ndarray:
        """Masses in grams, float64 (K,), of K class ids and areas in mm2; NaN where the area is."""
        laws = [self.laws.get(int(class_id), self.pooled) for class_id in class_ids]
        scales, exponents = np.array(laws, dtype=float).reshape(-1, 2).T
        return scales * np.asarray(areas_mm2, dtype=float) ** exponents


def fit_power_law(dataset_dicts: Sequence[dict[str, Any]]) -> PowerLaw:
    """Fit the baseline on training truth.

    The exponent of a class is that of least squares in log space, or the one shared by all classes where it
    has too few particles; its scale is then the one of least MAPE.

    Args:
        dataset dicts: dataset dicts; repeats count once. Missing areas are read from the label maps.

    Raises:
        RamsesError: no particle with a known mass in an image of known resolution, or a label map that
            cannot be read.
    """
    class_ids, areas, masses = training_truth(dataset_dicts)
    if len(masses) == 0:
        raise RamsesError(
            "the training data has no particle with a known mass in an image of known resolution; "
            "a power law needs some"
        )
    x, y = np.log(areas), np.log(masses)
    classes, member = np.unique(class_ids, return_inverse=True)
    count = np.bincount(member)
    centred_x, centred_y = (v - (np.bincount(member, v) / count)[member] for v in (x, y))
    shared = _slope(centred_x, centred_y, otherwise=SIMILAR_BODIES)
    laws = {}
    for class_id in classes.tolist():
        mine = class_ids == class_id
        enough = mine.sum() >= MIN_PARTICLES
        exponent = _slope(x[mine], y[mine], otherwise=shared) if enough else shared
        laws[class_id] = (best_scale(areas[mine], masses[mine], exponent), exponent)
    return PowerLaw(laws, (best_scale(areas, masses, shared), shared))


def training_truth(dataset_dicts: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class ids, areas in mm2 and masses in g of all particles where these are known, (K,) each."""
    images = {
        dataset_dict["file_name"]: dataset_dict
        for dataset_dict in dataset_dicts
        if not math.isnan(dataset_dict["resolution"])
    }.values()
    weighed = [[a for a in dataset_dict["annotations"] if not math.isnan(a["mass"])] for dataset_dict in images]
    without_area = [i for i, known in enumerate(weighed) if any(math.isnan(a["area"]) for a in known)]
    decoded = set(without_area[:: max(1, math.ceil(len(without_area) / MAX_DECODED_IMAGES))])

    rows = []
    for index, (dataset_dict, known) in enumerate(zip(images, weighed, strict=True)):
        counts = np.bincount(read_label_map(dataset_dict).ravel()) if index in decoded else np.zeros(0, np.int64)
        for annotation in known:
            area, label = annotation["area"], annotation["label"]
            if math.isnan(area) and label < len(counts):
                area = counts[label]
            if area > 0:  # false for NaN too
                rows.append((annotation["category_id"], area / dataset_dict["resolution"] ** 2, annotation["mass"]))
    class_ids, areas, masses = np.array(rows, dtype=float).reshape(-1, 3).T
    return class_ids.astype(np.int64), areas, masses


def _slope(x: np.ndarray, y: np.ndarray, otherwise: float) -> float:
    """Slope of the least-squares line, or ``otherwise`` where all x are equal."""
    x = x - x.mean()
    spread = float(x @ x)
    return float(x @ (y - y.mean())) / spread if spread > 1e-9 else otherwise


def best_scale(areas: np.ndarray, masses: np.ndarray, exponent: float) -> float:
    """The s of least mean |s q - m| / m with q = area ^ exponent: the median of m / q weighted by q / m."""
    ratio = np.sort(masses / areas**exponent)
    weight = np.cumsum(1 / ratio)
    return float(ratio[np.searchsorted(weight, weight[-1] / 2)])
