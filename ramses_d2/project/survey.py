"""What a training set looks like, as far as settings depend on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from scipy import ndimage

from ..data import register_datasets
from ..data.label_map import read_label_map
from ..errors import RamsesError

# Images whose label images are read
_SAMPLE = 60


@dataclass(frozen=True)
class Survey:
    """Figures of a training set; lengths in px of the files.

    Attributes:
        classes: names in order.
        images, particles: how many.
        most_particles: of one image.
        long_side: of the images, 95th percentile.
        aspect: short side / long side, median.
        scale_5, scale_50, scale_95: percentiles of sqrt(box height * box width) of the particles.
        weighed: particles of known mass in images of known resolution.
        resolution: px/mm, median; NaN = unknown.
    """

    classes: list[str]
    images: int
    particles: int
    most_particles: int
    long_side: float
    aspect: float
    scale_5: float
    scale_50: float
    scale_95: float
    weighed: int
    resolution: float


def survey_data(address: str) -> Survey:
    """Look at a data set.

    Raises:
        RamsesError: it cannot be read, or has no image or no particle.
    """
    register_datasets([address])
    dataset_dicts: list[dict[str, Any]] = list(
        {dataset_dict["image_id"]: dataset_dict for dataset_dict in DatasetCatalog.get(address)}.values()
    )
    counts = [len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts]
    if not sum(counts):
        raise RamsesError(f"{address}: {len(dataset_dicts)} images and no particle in them; nothing to learn from")
    sides = np.array([(dataset_dict["height"], dataset_dict["width"]) for dataset_dict in dataset_dicts], float)
    scales = particle_scales(dataset_dicts)
    known = [dataset_dict["resolution"] for dataset_dict in dataset_dicts if not math.isnan(dataset_dict["resolution"])]
    weighed = sum(
        not math.isnan(annotation["mass"])
        for dataset_dict in dataset_dicts
        if not math.isnan(dataset_dict["resolution"])
        for annotation in dataset_dict["annotations"]
    )
    return Survey(
        classes=list(MetadataCatalog.get(address).thing_classes),
        images=len(dataset_dicts),
        particles=sum(counts),
        most_particles=max(counts),
        long_side=float(np.percentile(sides.max(axis=1), 95)),
        aspect=float(np.median(sides.min(axis=1) / sides.max(axis=1))),
        scale_5=float(np.percentile(scales, 5)),
        scale_50=float(np.percentile(scales, 50)),
        scale_95=float(np.percentile(scales, 95)),
        weighed=weighed,
        resolution=float(np.median(known)) if known else math.nan,
    )


def particle_scales(dataset_dicts: list[dict[str, Any]]) -> np.ndarray:
    """sqrt(box height * box width) of the particles of evenly spread images, px."""
    filled = [dataset_dict for dataset_dict in dataset_dicts if dataset_dict["annotations"]]
    scales = []
    for dataset_dict in filled[:: max(1, math.ceil(len(filled) / _SAMPLE))]:
        for box in ndimage.find_objects(read_label_map(dataset_dict)):
            if box is not None:
                scales.append(math.sqrt((box[0].stop - box[0].start) * (box[1].stop - box[1].start)))
    if not scales:
        raise RamsesError("no particle has a pixel in the label images: check the data with tools/prepare_data.py")
    return np.array(scales)
