"""The feature pyramid of RAMSES (reference section 2.4) and the registered builders.

Unlike Detectron2's FPN it enlarges bilinearly, has neither biases nor norms, and makes the extra levels from the last
*output* without an activation in between. Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import fpn as detectron2_fpn
from torch import nn

from ...checkpoint.backbone import load_backbone
from ...errors import RamsesError
from .convnextv2 import ConvNeXtV2
from .timm_backbone import TimmBackbone


class FPN(Backbone):
    """Feature pyramid with levels ``p2`` ... named by log2 of their stride.

    Args:
        bottom_up: backbone that gives the features.
        in_features: its features to use.
        out_channels: channels of every level.
        extra_levels: stride-2 levels on top of the coarsest one.
    """

    def __init__(
        self, *, bottom_up: Backbone, in_features: Sequence[str], out_channels: int, extra_levels: int = 1
    ) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        shapes = bottom_up.output_shape()
        self._in_features = sorted(in_features, key=lambda name: shapes[name].stride)
        self.lateral = nn.ModuleList(Conv2d(shapes[f].channels, out_channels, 1, bias=False) for f in self._in_features)
        self.output = nn.ModuleList(
            Conv2d(out_channels, out_channels, 3, padding=1, bias=False) for _ in self._in_features
        )
        self.extra = nn.ModuleList(
            Conv2d(out_channels, out_channels, 3, stride=2, padding=1, bias=False) for _ in range(extra_levels)
        )
        strides = [shapes[f].stride for f in self._in_features]
        strides += [strides[-1] * 2 ** (i + 1) for i in range(extra_levels)]
        self._out_feature_strides = {f"p{int(math.log2(stride))}": stride for stride in strides}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W), sides a multiple of the coarsest stride -> level name to (N, out_channels, h, w)."""
        features = self.bottom_up(x)
        laterals = [conv(features[name]) for name, conv in zip(self._in_features, self.lateral, strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            merged.insert(
                0, lateral + F.interpolate(merged[0], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            )
        levels = [conv(level) for conv, level in zip(self.output, merged, strict=True)]
        for conv in self.extra:
            levels.append(conv(levels[-1]))
        return dict(zip(self._out_features, levels, strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every level."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def _pyramid(cfg: CfgNode, bottom_up: Backbone) -> Backbone:
    """The pyramid of ``MODEL.FPN`` on a backbone.

    Raises:
        RamsesError: features the backbone does not have, an unknown style, or extra levels that it cannot make.
    """
    fpn = cfg.MODEL.FPN
    missing = sorted(set(fpn.IN_FEATURES) - set(bottom_up.output_shape()))
    if missing:
        raise RamsesError(f"MODEL.FPN.IN_FEATURES: no feature {missing}, it has {sorted(bottom_up.output_shape())}")
    if fpn.STYLE == "ramses":
        return FPN(
            bottom_up=bottom_up,
            in_features=fpn.IN_FEATURES,
            out_channels=fpn.OUT_CHANNELS,
            extra_levels=fpn.EXTRA_LEVELS,
        )
    if fpn.STYLE != "detectron2":
        raise RamsesError(f'MODEL.FPN.STYLE is "{fpn.STYLE}", use ramses or detectron2')
    if fpn.EXTRA_LEVELS not in (0, 1):
        raise RamsesError(f"MODEL.FPN.EXTRA_LEVELS is {fpn.EXTRA_LEVELS}: the detectron2 style has 0 or 1")
    return detectron2_fpn.FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=_MaxPoolLevel(fpn.IN_FEATURES[-1]) if fpn.EXTRA_LEVELS else None,
        fuse_type=fpn.FUSE_TYPE,
    )


class _MaxPoolLevel(detectron2_fpn.LastLevelMaxPool):
    """Detectron2's level by max-pooling, on whichever level is the last one."""

    def __init__(self, last_feature: str) -> None:
        super().__init__()
        self.in_feature = last_feature.replace("res", "p")


def _load(bottom_up: Backbone, cfg: CfgNode, source: str, key: str) -> None:
    """Pretrained weights, unless ``MODEL.WEIGHTS`` brings those of the whole network anyway."""
    if source and not cfg.MODEL.WEIGHTS:
        load_backbone(bottom_up, source, key=key)


@BACKBONE_REGISTRY.register()
def build_convnextv2_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ConvNeXt V2 with a pyramid, from ``MODEL.CONVNEXTV2`` and ``MODEL.FPN``."""
    del input_shape  # ConvNeXt always reads three channels
    options = cfg.MODEL.CONVNEXTV2
    bottom_up = ConvNeXtV2(
        name=options.NAME,
        out_features=cfg.MODEL.FPN.IN_FEATURES,
        depths=options.DEPTHS,
        dims=options.DIMS,
        stem=options.STEM,
        drop_path=options.DROP_PATH,
        checkpointing=options.CHECKPOINTING,
    )
    _load(bottom_up, cfg, options.WEIGHTS, "MODEL.CONVNEXTV2.WEIGHTS")
    return _pyramid(cfg, bottom_up)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Any timm network that gives feature maps, with a pyramid, from ``MODEL.TIMM`` and ``MODEL.FPN``."""
    del input_shape
    options = cfg.MODEL.TIMM

    bottom_up = TimmBackbone(
        name=options.NAME,
        out_features=cfg.MODEL.FPN.IN_FEATURES,
        out_indices=options.OUT_INDICES,
        norm=options.NORM,
    )
    _load(bottom_up, cfg, options.WEIGHTS, "MODEL.TIMM.WEIGHTS")
    return _pyramid(cfg, bottom_up)
