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

# Pictures whose label images are read
_SAMPLE = 60


@dataclass(frozen=True)
class Survey:
    """Figures of a training set; lengths in px of the files.

    Attributes:
        classes: names in order.
        pictures, particles: how many.
        most_particles: of one picture.
        long_side: of the pictures, 95th percentile.
        aspect: short side / long side, median.
        scale_5, scale_50, scale_95: percentiles of sqrt(box height * box width) of the particles.
        weighed: particles of known mass in pictures of known resolution.
        resolution: px/mm, median; NaN = unknown.
    """

    classes: list[str]
    pictures: int
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
        RamsesError: it cannot be read, or has no picture or no particle.
    """
    register_datasets([address])
    records: list[dict[str, Any]] = list(
        {record["image_id"]: record for record in DatasetCatalog.get(address)}.values()
    )
    counts = [len(record["annotations"]) for record in records]
    if not sum(counts):
        raise RamsesError(f"{address}: {len(records)} pictures and no particle in them; nothing to learn from")
    sides = np.array([(record["height"], record["width"]) for record in records], float)
    scales = particle_scales(records)
    known = [record["resolution"] for record in records if not math.isnan(record["resolution"])]
    weighed = sum(
        not math.isnan(annotation["mass"])
        for record in records
        if not math.isnan(record["resolution"])
        for annotation in record["annotations"]
    )
    return Survey(
        classes=list(MetadataCatalog.get(address).thing_classes),
        pictures=len(records),
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


def particle_scales(records: list[dict[str, Any]]) -> np.ndarray:
    """sqrt(box height * box width) of the particles of evenly spread pictures, px."""
    filled = [record for record in records if record["annotations"]]
    scales = []
    for record in filled[:: max(1, math.ceil(len(filled) / _SAMPLE))]:
        for box in ndimage.find_objects(read_label_map(record)):
            if box is not None:
                scales.append(math.sqrt((box[0].stop - box[0].start) * (box[1].stop - box[1].start)))
    if not scales:
        raise RamsesError("no particle has a pixel in the label images: check the data with tools/prepare_data.py")
    return np.array(scales)
