"""RAMSES2's network, written plainly from how the original behaves.

Slow and explicit on purpose, and independent of ramses_d2: the converter's tests compare the two. Attribute names are
those of the original's state dict.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

SIZES = {
    "convnextv2_atto": ([2, 2, 6, 2], [40, 80, 160, 320]),
    "convnextv2_femto": ([2, 2, 6, 2], [48, 96, 192, 384]),
    "convnextv2_pico": ([2, 2, 6, 2], [64, 128, 256, 512]),
    "convnextv2_tiny": ([3, 3, 9, 3], [96, 192, 384, 768]),
}


def bilinear(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def with_coordinates(x: torch.Tensor) -> torch.Tensor:
    """Append x (along the columns), then y (along the rows), each from -1 to 1."""
    images, _, rows, columns = x.shape
    horizontal = torch.empty(images, 1, rows, columns, dtype=x.dtype)
    vertical = torch.empty(images, 1, rows, columns, dtype=x.dtype)
    for column, value in enumerate(torch.linspace(-1, 1, columns, dtype=x.dtype)):
        horizontal[..., column] = value
    for row, value in enumerate(torch.linspace(-1, 1, rows, dtype=x.dtype)):
        vertical[:, :, row] = value
    return torch.cat([x, horizontal, vertical], dim=1)


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels of each pixel of (N, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
        normal = (x - mean) / torch.sqrt(variance + self.eps)
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


class ChannelRMSNorm(nn.Module):
    def __init__(self, channels: int, eps: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = torch.finfo(torch.float32).eps if eps is None else eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt((x**2).mean(dim=1, keepdim=True) + self.eps) * self.weight[:, None, None]


class ConvLayer(nn.Module):
    """Padding, convolution, norm, activation, numbered in ``ops``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int = 3,
        stride: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        before, after = (side - 1) // 2, side - 1 - (side - 1) // 2
        ops = [nn.ZeroPad2d((before, after, before, after)), nn.Conv2d(inputs, outputs, side, stride, bias=bias)]
        self.ops = nn.ModuleList(ops + [op for op in (norm, activation) if op is not None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for op in self.ops:
            x = op(x)
        return x


class GRN(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (N, H, W, C)
        strength = torch.sqrt((x**2).sum(dim=(1, 2), keepdim=True))
        return self.gamma * (x * strength / (strength.mean(dim=3, keepdim=True) + 1e-6)) + self.beta + x


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.grn = GRN(4 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        inner = self.pwconv2(self.grn(nn.functional.gelu(self.pwconv1(inner))))
        return x + inner.permute(0, 3, 1, 2)


class Backbone(nn.Module):
    """Stages up to the last feature node: the original's feature extraction cuts the others off."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        params = config["backbone_params"]
        depths, dims = SIZES.get(config["backbone"], (params.get("depths"), params.get("dims")))
        self.names = {int(node.split(".")[1]): name for node, name in config["backbone_feature_nodes"].items()}
        self.downsample_layers, self.stages = nn.ModuleList(), nn.ModuleList()
        for stage in range(max(self.names) + 1):
            if stage == 0:
                step = [nn.Conv2d(3, dims[0], 4, stride=4), ChannelLayerNorm(dims[0], 1e-6)]
            else:
                step = [
                    ChannelLayerNorm(dims[stage - 1], 1e-6),
                    nn.Conv2d(dims[stage - 1], dims[stage], 2, stride=2),
                ]
            self.downsample_layers.append(nn.Sequential(*step))
            self.stages.append(nn.Sequential(*(Block(dims[stage]) for _ in range(depths[stage]))))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = {}
        for stage, (step, blocks) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = blocks(step(x))
            if stage in self.names:
                features[self.names[stage]] = x
        return features


class Pyramid(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        layers, width = config["connection_layers"], config["FPN_filters"]
        self.inputs = sorted(layers, reverse=True)  # C5, C4, C3
        self.lateral_convs = nn.ModuleList(ConvLayer(layers[name], width, 1) for name in self.inputs)
        self.output_convs = nn.ModuleList(ConvLayer(width, width) for _ in self.inputs)
        self.extra_convs = nn.ModuleList(ConvLayer(width, width, stride=2) for _ in range(config["extra_FPN_layers"]))

    def forward(self, features: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        merged: list[torch.Tensor] = []
        for name, conv in zip(self.inputs, self.lateral_convs, strict=True):
            level = conv(features[name])
            if merged:
                level = level + bilinear(merged[-1], level.shape[-2:])
            merged.append(level)
        merged.reverse()
        levels = [conv(level) for conv, level in zip(self.output_convs, merged, strict=True)]
        for conv in self.extra_convs:
            levels.append(conv(levels[-1]))
        return levels


class Style:
    """Makes norms and activations of a config."""

    def __init__(self, config: dict[str, Any]) -> None:
        kinds = {
            "LayerNorm2d": ChannelLayerNorm,
            "RMSNorm2d": ChannelRMSNorm,
            "BatchNorm2d": nn.BatchNorm2d,
            "Identity": nn.Identity,
        }
        self.norm_class, self.norm_options = kinds[config["normalization"]], config["normalization_kw"]
        self.activation_class = getattr(nn, config["activation"])

    def conv(self, inputs: int, outputs: int, side: int = 3, stride: int = 1, bias: bool = False) -> ConvLayer:
        norm = self.norm_class(outputs, **self.norm_options)
        return ConvLayer(inputs, outputs, side, stride, bias, norm, self.activation_class())


class SharedHeads(nn.Module):
    def __init__(self, config: dict[str, Any], style: Style) -> None:
        super().__init__()
        inputs, width = config["FPN_filters"], config["head_filters"]

        def branch(first: int, convs: int) -> nn.Sequential:
            return nn.Sequential(*(style.conv(first if i == 0 else width, width) for i in range(convs)))

        self.class_head = branch(inputs, config["head_layers"])
        self.class_logits = ConvLayer(width, config["ncls"], bias=True, activation=nn.Sigmoid())
        self.class_factor_head = branch(inputs, config["cls_factor_layers"])
        self.class_factor_out = ConvLayer(width, 1, bias=True, activation=nn.ReLU())
        self.kernel_head = branch(inputs + 2, config["head_layers"])
        self.kernel_out = ConvLayer(width, config["mask_output_filters"] * config["kernel_size"] ** 2, bias=True)

    def forward(self, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return (
            self.class_logits(self.class_head(cells)).flatten(2),
            self.class_factor_out(self.class_factor_head(cells)).flatten(2),
            self.kernel_out(self.kernel_head(with_coordinates(cells))).flatten(2),
        )


class MaskHead(nn.Module):
    def __init__(self, config: dict[str, Any], style: Style) -> None:
        super().__init__()
        inputs, width, target = config["FPN_filters"] + 2, config["mask_mid_filters"], config["mask_output_level"]
        self.upscale = config["FPN_output_upscaling"]
        self.level_pipelines = nn.ModuleList()
        for level in range(len(config["connection_layers"])):
            steps: list[nn.Module] = []
            for i in range(abs(level - target)):
                first = inputs if i == 0 else width
                if level > target:
                    enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
                    steps.append(nn.Sequential(enlarge, style.conv(first, width)))
                else:
                    steps.append(style.conv(first, width, stride=2))
            if level == target:
                steps.append(style.conv(inputs, width, side=1))
            self.level_pipelines.append(nn.Sequential(*steps))
        geometry = config["geom_feats_filters"]
        self.geom_convs = nn.ModuleList(
            style.conv(width if i == 0 else geometry, geometry) for i in range(config["geom_feat_convs"])
        )
        self.geom_final = ConvLayer(geometry, 1, 1, bias=True, activation=nn.ReLU())
        self.mask_out = style.conv(width, config["mask_output_filters"], side=1, bias=True)

    def forward(self, levels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        fused = sum(run(with_coordinates(level)) for run, level in zip(self.level_pipelines, levels, strict=True))
        if self.upscale:
            fused = bilinear(fused, (2 * fused.shape[2], 2 * fused.shape[3]))
        geometry = fused
        for conv in self.geom_convs:
            geometry = conv(geometry)
        return self.mask_out(fused), self.geom_final(geometry)


class RawOutputs(NamedTuple):
    """classes (N, ncls, cells), factors (N, 1, cells), kernels (N, E k k, cells), features (N, E, Hm, Wm), geometry."""

    classes: torch.Tensor
    factors: torch.Tensor
    kernels: torch.Tensor
    features: torch.Tensor
    geometry: torch.Tensor


class Ramses2Reference(nn.Module):
    """The network of a RAMSES2 config with every attribute given."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        style = Style(config)
        self.backbone = Backbone(config)
        self.FPN = Pyramid(config)
        self.shared_heads = SharedHeads(config, style)
        self.mask_head = MaskHead(config, style)

    def forward(self, images: torch.Tensor) -> RawOutputs:
        """(N, 3, H, W) RGB from 0 to 1."""
        levels = self.FPN(self.backbone(images))
        cells = []
        for level, grid in zip(levels, self.config["grid_sizes"], strict=True):
            height, width = level.shape[-2:]
            longest = max(height, width)
            size = (round(grid * height / longest), round(grid * width / longest))
            cells.append(self.shared_heads(bilinear(level, size)))
        classes, factors, kernels = (torch.cat(parts, dim=2) for parts in zip(*cells, strict=True))
        features, geometry = self.mask_head(levels[: len(self.config["connection_layers"])])
        return RawOutputs(classes, factors, kernels, features, geometry)
