"""Backbones that give the feature pyramid."""

from .convnextv2 import ConvNeXtV2
from .fpn import FPN, build_convnextv2_fpn_backbone, build_timm_fpn_backbone
from .timm_backbone import TimmBackbone

__all__ = ["FPN", "ConvNeXtV2", "TimmBackbone", "build_convnextv2_fpn_backbone", "build_timm_fpn_backbone"]
