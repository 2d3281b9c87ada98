"""What every meta-architecture does with the images it is to predict, whatever its network."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.structures import Instances

from .mass import known_resolution

# Grids are rounded from the image's aspect ratio and the mask head doubles coarse maps: both need multiples of 64
SIZE_DIVISIBILITY = 64

logger = logging.getLogger(__name__)


def predict_by_size(
    batched_inputs: Sequence[dict[str, Any]], predict: Callable[[list[dict[str, Any]]], list[Instances]]
) -> list[dict[str, Instances]]:
    """Predict images; those of one size go through together.

    Mixing sizes would pad some, and padding changes both RAMSES' grids and ConvNeXt's global response normalisation: an
    image's result must not depend on its neighbours in the batch.

    Args:
        batched_inputs: dicts with "image" (3, h, w).
        predict: gives the instances of images of one size.

    Returns:
        {"instances": Instances} of each image, in the order given.
    """
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, item in enumerate(batched_inputs):
        groups[tuple(item["image"].shape)].append(index)
    results: list[dict[str, Instances]] = [{} for _ in batched_inputs]
    for indices in groups.values():
        found = predict([batched_inputs[i] for i in indices])
        for index, result in zip(indices, found, strict=True):
            results[index] = {"instances": result}
    return results


class ImageResolution:
    """Resolution of images to be weighed.

    Args:
        default: px/mm of images that state none; 0 = unknown.
    """

    def __init__(self, default: float) -> None:
        self.default = default
        self._warned = False

    def __call__(self, item: dict[str, Any]) -> float:
        """px/mm of the original image of an input; NaN, and one warning, when nobody knows it."""
        resolution = known_resolution(item.get("resolution"), self.default)
        if resolution is not None:
            return resolution
        if not self._warned:
            logger.warning(
                "Resolution unknown, masses are NaN: give px/mm (--resolution, INPUT.RESOLUTION, resolution=)"
            )
            self._warned = True
        return math.nan
