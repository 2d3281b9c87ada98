"""The tensors of a RAMSES2 network and of ours: names and shapes, both ways (reference section 2.9).

Both networks compute the same; they only call their layers differently. The one trap is the order of the pyramid: the
original counts its lateral convolutions from the coarsest level, and everything else from the finest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from detectron2.config import CfgNode

from ..errors import RamsesError
from .ramses2_export import stage_sizes

logger = logging.getLogger(__name__)

State = Mapping[str, torch.Tensor]

# Lightning puts the network under "model.", DataParallel under "module."
_WRAPPERS = ("model.", "module.")
_SHOWN = 3


def _backbone_modules(cfg: CfgNode, last_stage: int) -> dict[str, str]:
    network, theirs = "backbone.bottom_up.network", "backbone"
    names = {f"{network}.stem_{i}": f"{theirs}.downsample_layers.0.{i}" for i in range(2)}
    depths, _ = stage_sizes(cfg)
    for stage in range(last_stage + 1):
        if stage:
            for i in range(2):
                names[f"{network}.stages_{stage}.downsample.{i}"] = f"{theirs}.downsample_layers.{stage}.{i}"
        for block in range(depths[stage]):
            for ours, original in (
                ("conv_dw", "dwconv"),
                ("norm", "norm"),
                ("mlp.fc1", "pwconv1"),
                ("mlp.grn", "grn"),
                ("mlp.fc2", "pwconv2"),
            ):
                names[f"{network}.stages_{stage}.blocks.{block}.{ours}"] = f"{theirs}.stages.{stage}.{block}.{original}"
    return names


def _conv_modules(cfg: CfgNode, num_levels: int) -> dict[str, str]:
    """Convolutions of the pyramid and the heads: ours -> the original's ConvLayer."""
    head, mask_head = cfg.MODEL.RAMSES.HEAD, cfg.MODEL.RAMSES.MASK_HEAD
    names = {f"backbone.lateral.{i}": f"FPN.lateral_convs.{num_levels - 1 - i}" for i in range(num_levels)}
    names |= {f"backbone.output.{i}": f"FPN.output_convs.{i}" for i in range(num_levels)}
    names |= {f"backbone.extra.{i}": f"FPN.extra_convs.{i}" for i in range(cfg.MODEL.FPN.EXTRA_LEVELS)}
    for ours, original, convs in (
        ("shared_head.class_branch", "shared_heads.class_head", head.CONVS),
        ("shared_head.kernel_branch", "shared_heads.kernel_head", head.CONVS),
        ("shared_head.factor_branch", "shared_heads.class_factor_head", head.FACTOR_CONVS),
        ("mask_head.geometry", "mask_head.geom_convs", mask_head.GEOMETRY_CONVS),
    ):
        names |= {f"{ours}.{i}": f"{original}.{i}" for i in range(convs)}
    names |= {
        "shared_head.class_logits": "shared_heads.class_logits",
        "shared_head.kernel_out": "shared_heads.kernel_out",
        f"shared_head.factor_branch.{head.FACTOR_CONVS}": "shared_heads.class_factor_out",
        f"mask_head.geometry.{mask_head.GEOMETRY_CONVS}": "mask_head.geom_final",
        "mask_head.mask_out": "mask_head.mask_out",
    }
    for level in range(num_levels):
        steps = level - mask_head.OUTPUT_LEVEL
        ours, original = f"mask_head.pipelines.{level}", f"mask_head.level_pipelines.{level}"
        if steps > 0:  # an enlargement before each convolution: beside it here, in a Sequential with it there
            names |= {f"{ours}.{2 * i + 1}": f"{original}.{i}.1" for i in range(steps)}
        else:
            names |= {f"{ours}.{i}": f"{original}.{i}" for i in range(max(-steps, 1))}
    return names


def tensor_names(cfg: CfgNode, state: State) -> dict[str, str]:
    """What RAMSES2 calls the tensors of one of our networks.

    Args:
        cfg: of a network that RAMSES2 can express.
        state: state dict of that network.

    Returns:
        our name -> the original's.
    """
    stages = sorted(int(name[-1]) - 2 for name in cfg.MODEL.FPN.IN_FEATURES)
    modules = _backbone_modules(cfg, stages[-1])
    for ours, original in _conv_modules(cfg, len(stages)).items():
        # Item 0 of a ConvLayer is its padding
        modules |= {ours: f"{original}.ops.1", f"{ours}.norm": f"{original}.ops.2"}
    names = {}
    for key in state:
        module, _, leaf = key.rpartition(".")
        if module.endswith(".grn"):
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        names[key] = f"{modules[module]}.{leaf}"
    return names


def _original_shape(name: str, tensor: torch.Tensor) -> tuple[int, ...]:
    """Shape in RAMSES2 of one of our tensors: there a 1x1 convolution is a Linear, and a GRN holds [1, 1, 1, C]."""
    if ".grn." in name:
        return (1, 1, 1, tensor.numel())
    return tuple(tensor.shape[:2]) if ".pwconv" in name else tuple(tensor.shape)


def _unwrapped(state: State) -> dict[str, torch.Tensor]:
    result = {}
    for key, tensor in state.items():
        name = key
        while name.startswith(_WRAPPERS):
            name = name.partition(".")[2]
        if name in result:
            raise RamsesError(f"{name} twice, with and without the prefix of a wrapper")
        result[name] = tensor
    return result


def _is_unused(name: str, last_stage: int) -> bool:
    """Whether a tensor belongs to a part of the original's backbone behind the last stage that the pyramid takes."""
    parts = name.split(".")
    if parts[0] != "backbone" or len(parts) < 3:
        return False
    if parts[1] in ("stages", "downsample_layers"):
        return parts[2].isdigit() and last_stage < int(parts[2]) < 4
    return parts[1] in ("norm", "head")


def from_ramses2(state: State, cfg: CfgNode, ours: State) -> dict[str, torch.Tensor]:
    """Rename and reshape the tensors of a RAMSES2 network.

    Args:
        state: of RAMSES2, Lightning or DataParallel; every tensor must be of this network.
        cfg: of our network.
        ours: state dict of our network, for names and shapes.

    Returns:
        state dict of our network.

    Raises:
        RamsesError: tensors that are missing, unknown or of another shape; the message names the first ones.
    """
    found = _unwrapped(state)
    last_stage = max(int(name[-1]) - 2 for name in cfg.MODEL.FPN.IN_FEATURES)
    unused = [name for name in found if _is_unused(name, last_stage)]
    if unused:
        logger.warning("Left out %d tensors of the backbone that the network does not use: %s", *_some(unused))
    names = tensor_names(cfg, ours)
    shapes = {original: _original_shape(original, ours[key]) for key, original in names.items()}
    unknown = [name for name in found if name not in shapes and name not in set(unused)]
    missing = [name for name in shapes if name not in found]
    misshapen = [
        f"{name} {tuple(found[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    problems = [
        f"{len(keys)} {what}: {_some(keys)[1]}"
        for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        raise RamsesError(f"not the weights of this config's network ({len(shapes)} tensors): {'; '.join(problems)}")
    return {key: found[original].reshape(ours[key].shape).clone() for key, original in names.items()}


def to_ramses2(state: State, cfg: CfgNode) -> dict[str, torch.Tensor]:
    """Rename and reshape the tensors of one of our networks to those of RAMSES2, the inverse of :func:`from_ramses2`.

    Args:
        state: state dict of our network.
        cfg: its config, one that RAMSES2 can express.
    """
    names = tensor_names(cfg, state)
    return {names[key]: tensor.reshape(_original_shape(names[key], tensor)).clone() for key, tensor in state.items()}


def _some(names: list[str]) -> tuple[int, str]:
    return len(names), ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
