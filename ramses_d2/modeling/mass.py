"""Grams and the geometry map: the only place that knows how they relate (reference sections 0 and 2.7).

The geometry map times the class factor is an areal density in g/cm2. Summed over the pixels of a mask it gives the
*normalised mass*, in g/cm2 * px, and one square centimetre has ``mass_scale`` pixels of the mask grid.

Shape letters: K objects, P cells or instances, Hm Wm mask grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pycocotools.mask as mask_utils
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn


def known_resolution(*candidates: float | None) -> float | None:
    """The first resolution (px/mm) that is a number above 0; None when there is none."""
    return next((float(value) for value in candidates if value is not None and 0 < value < math.inf), None)


def mass_scale(resolution: float) -> float:
    """Pixels of the mask grid in a square centimetre: normalised mass = grams * mass_scale.

    A resize changes it, a crop or a flip does not.

    Args:
        resolution: px/mm *on the mask grid*; NaN when unknown, and then so is the scale.
    """
    return (10 * resolution) ** 2


def normalize_mass(grams: torch.Tensor, scale: float) -> torch.Tensor:
    """Grams to normalised masses, any shape; NaN stays NaN."""
    return grams * scale


def mass_in_grams(normalized: torch.Tensor, scale: float) -> torch.Tensor:
    """Normalised masses to grams, any shape; NaN everywhere when the scale is."""
    return normalized / scale


def geometry_sums(geometry: torch.Tensor, label_map: torch.Tensor, num_objects: int) -> torch.Tensor:
    """Sum of the geometry map over every object of a label map, differentiable in the map.

    Args:
        geometry: (Hm, Wm) geometry map.
        label_map: (Hm, Wm) int64, 0 = background, 1..K.
        num_objects: K.

    Returns:
        (K,) sums in label order.
    """
    sums = geometry.new_zeros(num_objects + 1).index_add(0, label_map.flatten(), geometry.flatten())
    return sums[1:]


def instance_masses(masks: torch.Tensor, geometry: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Normalised masses of predicted instances.

    Args:
        masks: (P, Hm, Wm) soft or binary masks.
        geometry: (Hm, Wm) geometry map.
        factors: (P,) class factors.

    Returns:
        (P,) normalised masses.
    """
    return factors * (masks.flatten(1).to(geometry.dtype) @ geometry.flatten())


class ArealDensity(nn.Module):
    """Weighs instances by their area. Its densities are a buffer, 0 = unknown, so a checkpoint holds them.

    Args:
        num_classes: C.
    """

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
        """Whether there are densities to weigh with; without weighed training truth there are none."""
        return bool((self.grams_per_mm2 > 0).all())

    def set_densities(self, grams_per_mm2: Sequence[float]) -> None:
        """Take densities (C,) in g/mm2, 0 = unknown."""
        values = torch.as_tensor(grams_per_mm2, dtype=self.grams_per_mm2.dtype)
        self.grams_per_mm2.copy_(values.to(self.grams_per_mm2.device))

    def weigh(self, instances: Instances, resolution: float) -> None:
        """Add ``pred_masses`` (K,) in grams to instances; does nothing where no density is known.

        Args:
            instances: with pred_classes and pred_masks, bit masks or run lengths.
            resolution: px/mm of the image they lie in; NaN gives NaN grams.
        """
        if self.is_known:
            areas = mask_areas(instances.pred_masks).to(self.grams_per_mm2)
            instances.pred_masses = self.grams_per_mm2[instances.pred_classes] * areas / resolution**2


def mask_areas(masks: torch.Tensor | Sequence[dict]) -> torch.Tensor:
    """Areas (K,) in px of bit masks (K, H, W) or COCO run lengths."""
    if isinstance(masks, torch.Tensor):
        return masks.flatten(1).sum(1)
    # One by one: pycocotools 2.0.11 fails on lists of 256 and more
    return torch.tensor([float(mask_utils.area(rle)) for rle in masks])
