"""Masses for networks that only see outlines: grams per square millimetre, one constant for each class.

It is what a mass branch has to beat, and it costs nothing. Shape letters: C classes, K instances.
"""

from __future__ import annotations

from collections.abc import Sequence

import pycocotools.mask as mask_utils
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn


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
