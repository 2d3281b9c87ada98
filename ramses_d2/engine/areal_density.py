"""The densities of networks that weigh by area, from the training truth, when a training starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase

from ..evaluation.power_law import best_scale, training_truth
from ..modeling.areal_density import ArealDensity

logger = logging.getLogger(__name__)


def fit_densities(dataset_dicts: Sequence[dict[str, Any]], num_classes: int) -> np.ndarray:
    """The areal density of each class that weighs the training particles with the least MAPE.

    Args:
        dataset dicts: dataset dicts; repeats count once.
        num_classes: C.

    Returns:
        (C,) g/mm2; that of all particles for a class without weighed ones. 0 where nothing is weighed at all.

    Raises:
        RamsesError: a label map cannot be read.
    """
    class_ids, areas, masses = training_truth(dataset_dicts)
    if not len(masses):
        return np.zeros(num_classes)
    densities = np.full(num_classes, best_scale(areas, masses, 1.0))
    for class_id in np.unique(class_ids):
        own = class_ids == class_id
        densities[class_id] = best_scale(areas[own], masses[own], 1.0)
    return densities


class FitArealDensity(HookBase):
    """Fits the densities before the first step; a resumed training has them from its checkpoint.

    Args:
        density: of the network.
        dataset_names: of the training data.
    """

    def __init__(self, density: ArealDensity, dataset_names: Sequence[str]) -> None:
        self.density = density
        self.dataset_names = dataset_names

    def before_train(self) -> None:
        if self.trainer.start_iter > 0:
            return
        dataset_dicts = [dataset_dict for name in self.dataset_names for dataset_dict in DatasetCatalog.get(name)]
        densities = fit_densities(dataset_dicts, len(self.density.grams_per_mm2))
        self.density.set_densities(densities)
        if not self.density.is_known:
            logger.warning("The training data has no weighed particle of known resolution: no masses are predicted")
            return
        names = MetadataCatalog.get(self.dataset_names[0]).thing_classes
        listed = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, densities, strict=True))
        logger.info("Areal densities, g/mm2: %s", listed)
