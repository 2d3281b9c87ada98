"""Parts of a network that do not train: their weights, their running statistics and their noise stand still."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Sequence

from timm.layers import DropPath
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ramses_d2.engine.solver import TRUNK, layers_from_input, parts_of
from ramses_d2.errors import RamsesError

ALL_BUT_HEADS = "all but heads"
# What behaves otherwise in training than at inference. Whole parts cannot go into evaluation mode instead: heads of
# Mask R-CNN give no losses there
_NOISY = (_BatchNorm, _DropoutNd, DropPath)
# Of the blank image that finds unused levels, px: small, and a multiple of all strides
_TRIAL_SIDE = 128

logger = logging.getLogger(__name__)


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Take parts of a network out of training, in place, and log what is left.

    Frozen parameters need no gradient, so that no optimizer, weight decay or gradient exchange between processes
    touches them. Batch norms of frozen layers use, and keep, their running statistics, and dropout and stochastic depth
    inside frozen modules are off, also after ``model.train()``.

    A branch whose loss has weight 0 (``loss_weights`` of the network) is frozen as well: its gradients would be zero,
    and weight decay would shrink it. So is what only pyramid levels are made of that no head takes (``used_levels``):
    several processes would wait for its gradients.

    The names are parts of the network, "all but heads" (backbone and pyramid), or a share such as "0.9" of the layers,
    counted from the input on, rounded down; they add up. The model is not yet wrapped for several processes.
    """
    parts = parts_of(model)
    frozen = set(_without_loss(model, parts)) | set(_of_unused_levels(model))
    for name in map(str, names):
        frozen.update(_named(name, model, parts))
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    of_part = {part: [model.get_parameter(name) for name in of] for part, of in parts.items()}
    counts = {part: sum(each.numel() for each in of) for part, of in of_part.items()}
    training = {part: sum(each.numel() for each in of if each.requires_grad) for part, of in of_part.items()}
    if not any(training.values()):
        raise RamsesError(
            f"SOLVER.FREEZE {list(names)} leaves nothing to train (parts whose loss has weight 0 do not train either)"
        )
    for module in _frozen_modules(model):
        if isinstance(module, _NOISY):
            module.eval()
            module.train = functools.partial(_stay, module)
    logger.info(
        "Parameters that train: %s of %s (%s)",
        f"{sum(training.values()):,}",
        f"{sum(counts.values()):,}",
        ", ".join(f"{part} {training[part]:,} of {count:,}" for part, count in counts.items()),
    )


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """What ``train`` does to a frozen module: nothing."""
    del mode
    return module


def _named(name: str, model: nn.Module, parts: dict[str, list[str]]) -> list[str]:
    """Parameters that an entry of ``SOLVER.FREEZE`` means."""
    if name in parts:
        return parts[name]
    if name == ALL_BUT_HEADS:
        return [parameter for part in TRUNK for parameter in parts.get(part, [])]
    try:
        share = float(name)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise RamsesError(
            f'SOLVER.FREEZE: "{name}" is not a part of this network; use {", ".join(parts)}, "{ALL_BUT_HEADS}", '
            f'or a share of its layers from 0 to 1 such as "0.9"'
        )
    layers = layers_from_input(model)
    count = int(share * len(layers) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    return [
        f"{layer}.{parameter}".lstrip(".")
        for layer in layers[:count]
        for parameter, _ in model.get_submodule(layer).named_parameters(recurse=False)
    ]


def _without_loss(model: nn.Module, parts: dict[str, list[str]]) -> list[str]:
    """Parameters of RAMSES that only losses of weight 0 reach."""
    weights = getattr(model, "loss_weights", {})
    off = {name for name, weight in weights.items() if weight == 0}
    reached = {"loss_cls": "class", "loss_mass": "mass", "loss_mask": "kernel"}
    found = [name for loss, part in reached.items() if loss in off for name in parts.get(part, [])]
    if "loss_mask" in off:
        # The geometry map of the masses is made from the same fused levels as the mask features
        shared = ("mask_head.pipelines.",) if "mass" in parts and "loss_mass" not in off else ()
        found += [name for name in parts.get("mask", []) if not name.startswith(shared)]
    return found


def _of_unused_levels(model: nn.Module) -> list[str]:
    """Parameters of the backbone that no level reaches which a head takes; found by trial, as pyramids differ."""
    taken = getattr(model, "used_levels", None)
    if taken is None or not set(model.backbone.output_shape()) - taken:
        return []
    backbone = copy.deepcopy(model.backbone).eval()
    levels = backbone(model.pixel_mean.new_zeros(1, 3, _TRIAL_SIDE, _TRIAL_SIDE))
    total = sum(levels[name].sum() for name in taken)
    if not total.requires_grad:
        return []
    total.backward()
    found = [name for name, each in backbone.named_parameters() if each.requires_grad and each.grad is None]
    if found:
        logger.warning(
            "No head takes %s, so %s parameters of the backbone stay as they are: MODEL.FPN.EXTRA_LEVELS and "
            "MODEL.FPN.IN_FEATURES say which levels there are",
            ", ".join(sorted(set(levels) - taken)),
            f"{sum(backbone.get_parameter(name).numel() for name in found):,}",
        )
    return [f"backbone.{name}" for name in found]


def _frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Every module that stands in a subtree with parameters, none of which trains."""
    found: dict[nn.Module, None] = {}
    for module in model.modules():
        flags = [parameter.requires_grad for parameter in module.parameters()]
        if flags and not any(flags):
            found.update(dict.fromkeys(module.modules()))
    return list(found)
