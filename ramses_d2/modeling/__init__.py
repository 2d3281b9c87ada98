"""The network of RAMSES. Importing it registers the meta-architecture and the backbone with Detectron2."""

from .backbone import FPN, ConvNeXtV2, build_convnextv2_fpn_backbone
from .heads import MaskHead, SharedHead
from .meta_arch import RAMSES

__all__ = ["FPN", "RAMSES", "ConvNeXtV2", "MaskHead", "SharedHead", "build_convnextv2_fpn_backbone"]
