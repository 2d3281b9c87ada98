"""Grams and the geometry map: the only place that knows how they relate.

The geometry map times the class factor is an areal density in g/cm2. Summed over the pixels of a mask it gives the
*normalised mass*, in g/cm2 * px; a square centimetre has ``mass_scale`` pixels of the mask grid.
Shape letters: K objects, P cells or instances, Hm Wm mask grid.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import pycocotools.mask as mask_utils
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn

logger = logging.getLogger(__name__)


def known_resolution(*candidates: float | None) -> float | None:
    """The first resolution (px/mm) that is a number above 0; None when there is none."""
    return next((float(value) for value in candidates if value is not None and 0 < value < math.inf), None)


class ImageResolution:
    """px/mm of an input's original image, else the default (0 = unknown); NaN and one warning where none is known."""

    def __init__(self, default: float) -> None:
        self.default, self._has_warned = default, False

    def __call__(self, item: dict[str, Any]) -> float:
        resolution = known_resolution(item.get("resolution"), self.default)
        if resolution is None and not self._has_warned:
            self._has_warned = True
            logger.warning("Resolution unknown, masses are NaN: set --resolution, INPUT.RESOLUTION or resolution=")
        return math.nan if resolution is None else resolution


def mass_scale(grid_resolution: float) -> float:
    """Pixels of the mask grid in a square centimetre: normalised mass = grams * mass_scale; NaN when unknown.

    A resize changes it, a crop or a flip does not.
    """
    return (10 * grid_resolution) ** 2


def normalize_mass(grams: torch.Tensor, scale: float) -> torch.Tensor:
    """Grams to normalised masses, any shape; NaN stays NaN."""
    return grams * scale


def mass_in_grams(normalized: torch.Tensor, scale: float) -> torch.Tensor:
    """Normalised masses to grams, any shape; NaN everywhere when the scale is NaN."""
    return normalized / scale


def geometry_sums(geometry: torch.Tensor, label_map: torch.Tensor, num_objects: int) -> torch.Tensor:
    """(K,) sums of the geometry map (Hm, Wm) over the objects 1..K of a label map (Hm, Wm); they keep its graph."""
    sums = geometry.new_zeros(num_objects + 1).index_add(0, label_map.flatten(), geometry.flatten())
    return sums[1:]


def instance_masses(masks: torch.Tensor, geometry: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """(P,) normalised masses from soft or binary masks (P, Hm, Wm), geometry map (Hm, Wm) and class factors (P,)."""
    return factors * (masks.flatten(1).to(geometry.dtype) @ geometry.flatten())


class ArealDensity(nn.Module):
    """Masses from areas, by a density of each class: a buffer, 0 = unknown, so that a checkpoint holds them."""

    grams_per_mm2: torch.Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("grams_per_mm2", torch.zeros(num_classes))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ArealDensity | None:
        """As ``MODEL.RAMSES.MASS.DENSITY`` says; None where it is off, or the network has a mass branch."""
        ramses = cfg.MODEL.RAMSES
        has_branch = cfg.MODEL.META_ARCHITECTURE == "RAMSES" and ramses.MASS.ENABLED
        return cls(ramses.NUM_CLASSES) if ramses.MASS.DENSITY and not has_branch else None

    @property
    def is_known(self) -> bool:
        """Whether every class has a density; training data without masses give none."""
        return bool((self.grams_per_mm2 > 0).all())

    def set_densities(self, grams_per_mm2: Sequence[float]) -> None:
        """Take densities (C,) in g/mm2, 0 = unknown."""
        values = torch.as_tensor(grams_per_mm2, dtype=self.grams_per_mm2.dtype)
        self.grams_per_mm2.copy_(values.to(self.grams_per_mm2.device))

    def add_masses(self, instances: Instances, resolution: float) -> None:
        """Add ``pred_masses`` (K,) in grams to instances of an image of ``resolution`` px/mm, if densities are set."""
        if self.is_known:
            areas = mask_areas(instances.pred_masks).to(self.grams_per_mm2)
            instances.pred_masses = self.grams_per_mm2[instances.pred_classes] * areas / resolution**2


def mask_areas(masks: torch.Tensor | Sequence[dict]) -> torch.Tensor:
    """Areas (K,) in px of bit masks (K, H, W) or COCO RLEs."""
    if isinstance(masks, torch.Tensor):
        return masks.flatten(1).sum(1)
    # One by one: pycocotools 2.0.11 fails on lists of 256 and more
    return torch.tensor([float(mask_utils.area(rle)) for rle in masks])
