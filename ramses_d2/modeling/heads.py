"""The heads of RAMSES: what every grid cell predicts, and the mask features and geometry map that all cells share.

Shape letters: N images, C classes, E mask channels, G cells of all levels, P of them, k kernel side, Hm Wm mask grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.layers import get_norm as get_detectron2_norm
from timm.layers import LayerNorm2d, RmsNorm2d
from torch import nn

from ramses_d2.errors import RamsesError

ACTIVATIONS = {
    activation.__name__: activation
    for activation in (nn.GELU, nn.SiLU, nn.ReLU, nn.Softplus, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Hardswish)
}
CHANNEL_NORMS = {"LN": LayerNorm2d, "RMS": RmsNorm2d}
UPSCALE_MODES = ("", "fused", "output")
COORDINATE_MODES = ("all", "coarsest")


class Norm(NamedTuple):
    """A kind of normalisation: "LN", "RMS" (over the channels of a pixel), "GN", "BN", "SyncBN", "FrozenBN" or ""."""

    name: str = "LN"
    eps: float = 1e-6
    groups: int = 32  # of "GN"


DEFAULT_NORM = Norm()


def get_norm(norm: Norm, channels: int) -> nn.Module | None:
    """Normalisation layer over ``channels`` maps, or None for ""."""
    if norm.name in CHANNEL_NORMS:
        return CHANNEL_NORMS[norm.name](channels, eps=norm.eps)
    if norm.name == "GN":
        if channels % norm.groups:
            raise RamsesError(f"MODEL.RAMSES.NORM_GROUPS is {norm.groups}, which does not divide {channels} channels")
        return nn.GroupNorm(norm.groups, channels, eps=norm.eps)
    try:
        layer = get_detectron2_norm(norm.name, channels)
    except KeyError:
        raise RamsesError(
            f'MODEL.RAMSES.NORM: unknown normalisation "{norm.name}", use LN, RMS, GN, BN, SyncBN, FrozenBN or ""'
        ) from None
    if layer is not None:
        layer.eps = norm.eps
    return layer


def get_activation(name: str) -> nn.Module:
    """Activation layer by its ``torch.nn`` name."""
    if name not in ACTIVATIONS:
        raise RamsesError(f'unknown activation "{name}": use one of {", ".join(ACTIVATIONS)}')
    return ACTIVATIONS[name]()


def conv_block(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    norm: Norm,
    activation: str,
    stride: int = 1,
    bias: bool = False,
) -> Conv2d:
    """Convolution that keeps the size (or divides it by ``stride``), then normalisation, then activation."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=bias,
        norm=get_norm(norm, out_channels),
        activation=get_activation(activation),
    )


def _branch(in_channels: int, channels: int, convs: int, *, norm: Norm, activation: str) -> nn.Sequential:
    widths = [in_channels] + [channels] * convs
    return nn.Sequential(
        *(conv_block(a, b, 3, norm=norm, activation=activation) for a, b in zip(widths[:-1], widths[1:], strict=True))
    )


def enlarge(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N, C, 2 H, 2 W), bilinearly."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def coordinates(like: torch.Tensor) -> torch.Tensor:
    """Coordinate channels (N, 2, H, W) for maps (N, C, H, W): x, then y, each from -1 to 1 with both ends included."""
    num, _, height, width = like.shape
    x = torch.linspace(-1, 1, width, dtype=like.dtype, device=like.device)
    y = torch.linspace(-1, 1, height, dtype=like.dtype, device=like.device)
    grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)))
    return grid.expand(num, 2, height, width)


def append_coordinates(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N, C + 2, H, W), see :func:`coordinates`."""
    return torch.cat((x, coordinates(x)), dim=1)


def mask_logits(kernels: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Convolve mask features (E, Hm, Wm) with predicted kernels (P, E * k * k), E-major: logits (P, Hm, Wm)."""
    channels = len(features)
    side = math.isqrt(kernels.shape[1] // channels)
    if side * side * channels != kernels.shape[1] or side % 2 == 0:
        raise ValueError(f"kernels of {kernels.shape[1]} values do not fit {channels} mask channels")
    if side == 1:
        return (kernels @ features.flatten(1)).view(-1, *features.shape[1:])
    if not len(kernels):  # torch refuses a convolution without kernels
        return features.new_zeros(0, *features.shape[1:])
    weight = kernels.view(-1, channels, side, side)
    return F.conv2d(features[None], weight, padding=side // 2)[0]


class CellPredictions(NamedTuple):
    """What the shared head says of every cell, levels one after another, row-major in each."""

    class_logits: torch.Tensor  # (N, G, C)
    kernels: torch.Tensor  # (N, G, E * k * k)
    factors: torch.Tensor | None  # (N, G) class factors >= 0; None without a mass branch


class SharedHead(nn.Module):
    """Class, kernel and class-factor branches, the same weights on every level.

    Only the kernel branch sees the coordinates: what a thing is does not depend on where it is.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        kernel_channels: int,  # E * k * k
        channels: int = 256,
        convs: int = 4,
        factor_convs: int = 2,
        with_mass: bool = True,
        prior_prob: float = 0.01,  # class probability of an untrained network
        norm: Norm = DEFAULT_NORM,
        activation: str = "GELU",
        mass_activation: str = "ReLU",
    ) -> None:
        super().__init__()
        style = {"norm": norm, "activation": activation}
        self.class_branch = _branch(in_channels, channels, convs, **style)
        self.class_logits = Conv2d(channels if convs else in_channels, num_classes, 3, padding=1)
        self.kernel_branch = _branch(in_channels + 2, channels, convs, **style)
        self.kernel_out = Conv2d(channels if convs else in_channels + 2, kernel_channels, 3, padding=1)
        nn.init.constant_(self.class_logits.bias, -math.log((1 - prior_prob) / prior_prob))
        self.factor_branch = None
        if with_mass:
            self.factor_branch = nn.Sequential(
                *_branch(in_channels, channels, factor_convs, **style),
                Conv2d(channels if factor_convs else in_channels, 1, 3, padding=1),
                get_activation(mass_activation),
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ramses = cfg.MODEL.RAMSES
        mask_channels = ramses.MASK_HEAD.OUT_CHANNELS + (4 if ramses.MASK_HEAD.DISC_FEATURES else 0)
        return {
            "in_channels": input_shape[ramses.IN_FEATURES[0]].channels,
            "num_classes": ramses.NUM_CLASSES,
            "kernel_channels": mask_channels * ramses.HEAD.KERNEL_SIZE**2,
            "channels": ramses.HEAD.CHANNELS,
            "convs": ramses.HEAD.CONVS,
            "factor_convs": ramses.HEAD.FACTOR_CONVS,
            "with_mass": ramses.MASS.ENABLED,
            "prior_prob": ramses.HEAD.PRIOR_PROB,
            "norm": Norm(ramses.NORM, ramses.NORM_EPS, ramses.NORM_GROUPS),
            "activation": ramses.ACTIVATION,
            "mass_activation": ramses.MASS.ACTIVATION,
        }

    def forward(self, levels: Sequence[torch.Tensor], grid_shapes: Sequence[tuple[int, int]]) -> CellPredictions:
        """Predict from pyramid levels (N, in_channels, h, w), each resampled to its grid first."""
        classes, kernels, factors = [], [], []
        for level, shape in zip(levels, grid_shapes, strict=True):
            cells = F.interpolate(level, size=shape, mode="bilinear", align_corners=False)
            classes.append(self.class_logits(self.class_branch(cells)).flatten(2))
            kernels.append(self.kernel_out(self.kernel_branch(append_coordinates(cells))).flatten(2))
            if self.factor_branch is not None:
                factors.append(self.factor_branch(cells).flatten(1))
        return CellPredictions(
            class_logits=torch.cat(classes, 2).transpose(1, 2),
            kernels=torch.cat(kernels, 2).transpose(1, 2),
            factors=torch.cat(factors, 1) if factors else None,
        )


class MaskHead(nn.Module):
    """Unified mask features and geometry map from pyramid levels, each twice as coarse as the one before.

    All levels are brought to ``output_level`` and summed. See ``MODEL.RAMSES.MASK_HEAD`` for the other arguments.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int,
        output_level: int = 0,
        mid_channels: int = 128,
        out_channels: int = 256,
        geometry_convs: int = 4,
        geometry_channels: int = 128,
        with_mass: bool = True,
        upscale: str = "",
        coordinate_levels: str = "all",
        disc_features: bool = False,
        norm: Norm = DEFAULT_NORM,
        activation: str = "GELU",
        mass_activation: str = "ReLU",
    ) -> None:
        super().__init__()
        if upscale not in UPSCALE_MODES:
            raise RamsesError(f'MODEL.RAMSES.MASK_HEAD.UPSCALE: "{upscale}" is none of {UPSCALE_MODES}')
        if coordinate_levels not in COORDINATE_MODES:
            raise RamsesError(f'MODEL.RAMSES.MASK_HEAD.COORDINATES: "{coordinate_levels}", use all or coarsest')
        if not 0 <= output_level < num_levels:
            raise RamsesError(f"MODEL.RAMSES.MASK_HEAD.OUTPUT_LEVEL is {output_level}, of {num_levels} IN_FEATURES")
        self.upscale = upscale
        self.with_coordinates = [coordinate_levels == "all" or level == num_levels - 1 for level in range(num_levels)]
        self.output_level = output_level
        self.disc_features = disc_features
        style = {"norm": norm, "activation": activation}
        self.pipelines = nn.ModuleList(
            self._pipeline(level - output_level, in_channels + 2 * with_xy, mid_channels, **style)
            for level, with_xy in enumerate(self.with_coordinates)
        )
        self.mask_out = conv_block(mid_channels, out_channels, 1, bias=True, **style)
        self.geometry = None
        if with_mass:
            self.geometry = nn.Sequential(
                *_branch(mid_channels, geometry_channels, geometry_convs, **style),
                Conv2d(geometry_channels if geometry_convs else mid_channels, 1, 1),
                get_activation(mass_activation),
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        ramses, head = cfg.MODEL.RAMSES, cfg.MODEL.RAMSES.MASK_HEAD
        return {
            "in_channels": input_shape[head.IN_FEATURES[0]].channels,
            "num_levels": len(head.IN_FEATURES),
            "output_level": head.OUTPUT_LEVEL,
            "mid_channels": head.MID_CHANNELS,
            "out_channels": head.OUT_CHANNELS,
            "geometry_convs": head.GEOMETRY_CONVS,
            "geometry_channels": head.GEOMETRY_CHANNELS,
            "with_mass": ramses.MASS.ENABLED,
            "upscale": head.UPSCALE,
            "coordinate_levels": head.COORDINATES,
            "disc_features": head.DISC_FEATURES,
            "norm": Norm(ramses.NORM, ramses.NORM_EPS, ramses.NORM_GROUPS),
            "activation": ramses.ACTIVATION,
            "mass_activation": ramses.MASS.ACTIVATION,
        }

    @staticmethod
    def _pipeline(steps: int, in_channels: int, channels: int, *, norm: Norm, activation: str) -> nn.Sequential:
        """Bring a level ``steps`` coarser (negative: finer) than the output level to its size."""
        style = {"norm": norm, "activation": activation}
        if steps == 0:
            return nn.Sequential(conv_block(in_channels, channels, 1, **style))
        widths = [in_channels] + [channels] * (abs(steps) - 1)
        if steps < 0:
            return nn.Sequential(*(conv_block(width, channels, 3, stride=2, **style) for width in widths))
        upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        layers = [layer for width in widths for layer in (upsample, conv_block(width, channels, 3, **style))]
        return nn.Sequential(*layers)

    def forward(self, levels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pyramid levels (N, in_channels, h, w), fine to coarse -> mask features (N, E, Hm, Wm), and the geometry map
        (N, Hm, Wm) >= 0, or None without a mass branch.
        """
        fused = sum(
            pipeline(append_coordinates(level) if with_xy else level)
            for pipeline, level, with_xy in zip(self.pipelines, levels, self.with_coordinates, strict=True)
        )
        if self.upscale == "fused":
            fused = enlarge(fused)
        features = self.mask_out(fused)
        geometry = None if self.geometry is None else self.geometry(fused)
        if self.upscale == "output":
            features, geometry = enlarge(features), None if geometry is None else enlarge(geometry)
        if self.disc_features:
            xy = coordinates(features)
            features = torch.cat((features, xy, xy.square().sum(1, keepdim=True), torch.ones_like(xy[:, :1])), dim=1)
        return features, None if geometry is None else geometry[:, 0]
