"""The networks: RAMSES, and Mask R-CNN as a baseline. Importing them registers them with Detectron2."""

from ramses_d2.modeling.backbones import FPN, ConvNeXtV2
from ramses_d2.modeling.heads import MaskHead, SharedHead
from ramses_d2.modeling.mask_rcnn import MaskRCNN
from ramses_d2.modeling.meta_arch import RAMSES

__all__ = ["FPN", "RAMSES", "ConvNeXtV2", "MaskHead", "MaskRCNN", "SharedHead"]
