"""Backbones that give the feature pyramid."""

from .convnextv2 import ConvNeXtV2
from .fpn import FPN, build_convnextv2_fpn_backbone

__all__ = ["FPN", "ConvNeXtV2", "build_convnextv2_fpn_backbone"]
