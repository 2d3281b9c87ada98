"""The networks: RAMSES, and Mask R-CNN as a baseline. Importing them registers them with Detectron2."""

from .backbone import FPN, ConvNeXtV2, build_convnextv2_fpn_backbone
from .heads import MaskHead, SharedHead
from .mask_rcnn import MaskRCNN
from .meta_arch import RAMSES

__all__ = ["FPN", "RAMSES", "ConvNeXtV2", "MaskHead", "MaskRCNN", "SharedHead", "build_convnextv2_fpn_backbone"]
