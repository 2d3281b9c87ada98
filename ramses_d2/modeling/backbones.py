"""Backbones: ConvNeXt V2 and any other timm network, and the feature pyramid on top of them.

Feature maps are named by log2 of their stride: ``res2`` (stride 4) ... ``res5`` (stride 32); pyramid levels ``p2`` ...
Shape letters: N images, H W network input, C channels.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import fpn as detectron2_fpn
from timm.layers import BatchNormAct2d, convert_sync_batchnorm, freeze_batch_norm_2d
from torch import nn

from ramses_d2.errors import RamsesError


class ConvNeXtV2(Backbone):
    """The raw outputs of the stages of a ConvNeXt of timm; stages behind ``out_features`` are not built.

    See ``MODEL.CONVNEXTV2`` in config.py for the other arguments.
    """

    def __init__(
        self,
        *,
        name: str,
        out_features: Sequence[str],
        depths: Sequence[int] = (),
        dims: Sequence[int] = (),
        stem: str = "patch",
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not timm.is_model(name) or not name.startswith("convnext"):
            raise RamsesError(f'MODEL.CONVNEXTV2.NAME: "{name}" is not a ConvNeXt of timm, try convnextv2_femto')
        unknown = set(out_features) - {"res2", "res3", "res4", "res5"}
        if unknown:
            raise RamsesError(
                f"MODEL.FPN.IN_FEATURES: no feature {sorted(unknown)}, ConvNeXt has res2, res3, res4, res5"
            )
        overrides = {key: tuple(value) for key, value in (("depths", depths), ("dims", dims)) if value}
        # What rebuilds the whole timm network: checkpoint/pretrained.py reads its parameter names and shapes there
        self.timm_name = name
        self.timm_arguments = {"stem_type": stem, **overrides}
        self.network = timm.create_model(
            name,
            features_only=True,
            out_indices=[int(feature[-1]) - 2 for feature in sorted(out_features)],
            drop_path_rate=drop_path,
            **self.timm_arguments,
        )
        self.network.set_grad_checkpointing(checkpointing)
        info = self.network.feature_info
        self._out_features = sorted(out_features)
        self._out_feature_channels = dict(zip(self._out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(self._out_features, info.reduction(), strict=True))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) -> feature name to (N, C, H / stride, W / stride)."""
        return dict(zip(self._out_features, self.network(x), strict=True))


NORMS = ("", "FrozenBN", "SyncBN")
# The trial image is not square, so that rows, columns and channels cannot be taken for one another
_TRIAL_SIZE = (128, 192)


class TimmBackbone(Backbone):
    """Feature maps of a timm network, which is named without a weights tag, such as ``resnet50``."""

    def __init__(
        self,
        *,
        name: str,
        out_indices: Sequence[int] = (),  # timm's feature maps, negative from the end; empty = all of stride 4 or more
        norm: str = "",
        out_features: Sequence[str] = (),  # those wanted among them; empty = all. Later stages are not built
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise RamsesError(f'MODEL.TIMM.NORM: "{norm}" is unknown, use "", "FrozenBN" or "SyncBN"')
        _check_name(name)
        self.timm_name = name
        self.timm_arguments = _size_arguments(name)
        maps = _feature_maps(name, self.timm_arguments)
        indices = _choose(name, maps, out_indices, out_features)
        self._out_features = [_feature_name(maps[index]) for index in indices]
        self._out_feature_channels = {_feature_name(maps[index]): maps[index]["num_chs"] for index in indices}
        self._out_feature_strides = {_feature_name(maps[index]): maps[index]["reduction"] for index in indices}
        network = timm.create_model(name, features_only=True, out_indices=tuple(indices), **self.timm_arguments)
        self.network = _with_norm(network, norm, name)
        self._channels_last = self._try_out()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) -> feature name to (N, C, H / stride, W / stride)."""
        maps = self.network(x)
        if self._channels_last:
            maps = [feature_map.permute(0, 3, 1, 2).contiguous() for feature_map in maps]
        return dict(zip(self._out_features, maps, strict=True))

    def _try_out(self) -> bool:
        """Whether the network gives (N, H, W, C) instead of (N, C, H, W), found by running a small blank image.

        Some networks take one size only, or give other maps than they state.
        """
        height, width = _TRIAL_SIZE
        training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                maps = self.network(torch.zeros(1, 3, height, width))
        except Exception as error:  # third-party code, which can fail in any way on a size it was not made for
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RamsesError(
                f"MODEL.TIMM.NAME: {self.timm_name} cannot take images of any size ({reason}), use another network"
            ) from error
        self.network.train(training)
        found = [tuple(feature_map.shape[1:]) for feature_map in maps]
        stated = [
            (shape.channels, height // shape.stride, width // shape.stride) for shape in self.output_shape().values()
        ]
        if found == stated:
            return False
        if found == [(h, w, channels) for channels, h, w in stated]:
            return True
        raise RamsesError(
            f"MODEL.TIMM.NAME: {self.timm_name} does not give the feature maps that timm states: {found} instead of "
            f'{stated} from {height}x{width} px (MODEL.TIMM.NORM "" or other MODEL.TIMM.OUT_INDICES may help)'
        )


def whole_network(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The timm network a backbone is a part of, classifier and all, to look up names and shapes; it has no values."""
    try:
        with torch.device("meta"):
            return timm.create_model(name, **arguments)
    except (NotImplementedError, RuntimeError):  # an __init__ that computes with tensors needs real ones
        return timm.create_model(name, **arguments).to("meta")


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists all"
        raise RamsesError(f'MODEL.TIMM.NAME: timm has no network "{name}", {hint}')
    architecture, dot, _ = name.partition(".")
    if dot:
        raise RamsesError(
            f"MODEL.TIMM.NAME: {name} names weights too; set NAME to {architecture} and MODEL.TIMM.WEIGHTS to timm://{name}"
        )


def _size_arguments(name: str) -> dict[str, Any]:
    """What makes networks of a fixed image size (Swin) take any."""
    parameters = inspect.signature(type(whole_network(name, {})).__init__).parameters
    return {"strict_img_size": False} if "strict_img_size" in parameters else {}


def _feature_maps(name: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """timm's description of all feature maps of a network: num_chs, reduction, index."""
    try:
        return whole_network(name, {**arguments, "features_only": True}).feature_info.info
    except (AttributeError, RuntimeError, TypeError, AssertionError) as error:
        raise RamsesError(f"MODEL.TIMM.NAME: {name} gives no feature maps, use another network") from error


def _feature_name(feature_map: Mapping[str, Any]) -> str:
    return f"res{round(math.log2(feature_map['reduction']))}"


def _choose(
    name: str, maps: Sequence[Mapping[str, Any]], out_indices: Sequence[int], out_features: Sequence[str]
) -> list[int]:
    """Indices of the feature maps to take, fine to coarse; see :class:`TimmBackbone`."""
    if not all(-len(maps) <= index < len(maps) for index in out_indices):
        raise RamsesError(
            f"MODEL.TIMM.OUT_INDICES {list(out_indices)}: {name} has the feature maps 0 to {len(maps) - 1}, "
            f"with strides {[feature_map['reduction'] for feature_map in maps]}"
        )
    indices = sorted(index % len(maps) for index in out_indices)
    indices = indices or [index for index, feature_map in enumerate(maps) if feature_map["reduction"] >= 4]
    strides = [maps[index]["reduction"] for index in indices]
    if any(stride < 1 or 2 ** round(math.log2(stride)) != stride for stride in strides):
        raise RamsesError(
            f"MODEL.TIMM.NAME: {name} has feature maps of strides {strides}, a pyramid needs powers of two; choose "
            f"others with MODEL.TIMM.OUT_INDICES, or another network"
        )
    if len(set(strides)) < len(strides):
        only = len({feature_map["reduction"] for feature_map in maps}) == 1
        advice = "use another network" if only else "choose them with MODEL.TIMM.OUT_INDICES"
        raise RamsesError(
            f"MODEL.TIMM.NAME: {name} has {len(strides)} feature maps with {len(set(strides))} different strides "
            f"{sorted(set(strides))}, a pyramid needs each once: {advice}"
        )
    names = [_feature_name(maps[index]) for index in indices]
    unknown = sorted(set(out_features) - set(names))
    if unknown:
        raise RamsesError(f"MODEL.FPN.IN_FEATURES: {name} has no feature {', '.join(unknown)}, only {', '.join(names)}")
    return [index for index, feature in zip(indices, names, strict=True) if not out_features or feature in out_features]


def _with_norm(network: nn.Module, norm: str, name: str) -> nn.Module:
    """The network with its batch norms frozen or synchronised. Parameters and buffers keep their names."""
    if not norm:
        return network
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        raise RamsesError(f'MODEL.TIMM.NORM is {norm}, but {name} has no batch norms: set it to ""')
    # torch's own conversion would lose the activations that timm's BatchNormAct2d holds
    return convert_sync_batchnorm(network) if norm == "SyncBN" else _freeze(network)


def _freeze(module: nn.Module) -> nn.Module:
    if isinstance(module, BatchNormAct2d):  # Detectron2's conversion would lose the activation in it
        return freeze_batch_norm_2d(module)
    if isinstance(module, nn.BatchNorm2d):
        return FrozenBatchNorm2d.convert_frozen_batchnorm(module)
    for child_name, child in module.named_children():
        frozen = _freeze(child)
        if frozen is not child:
            module.add_module(child_name, frozen)
    return module


class FPN(Backbone):
    """The feature pyramid of RAMSES. Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.

    Unlike Detectron2's it enlarges bilinearly, has neither biases nor norms, and makes the extra levels, of stride 2,
    from the last *output* without an activation in between.
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


def pyramid(cfg: CfgNode, bottom_up: Backbone) -> Backbone:
    """The pyramid of ``MODEL.FPN`` on a backbone."""
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
