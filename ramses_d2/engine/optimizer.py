"""Optimizer of RAMSES: no weight decay on norms, biases and GRN, a learning rate of its own for the backbone."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from ..errors import RamsesError


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    backbone_lr_factor: float,
    backbone_prefix: str = "backbone.bottom_up.",
) -> list[dict[str, Any]]:
    """Trainable parameters grouped by learning rate and weight decay.

    Parameters with one dimension (biases, norms, GRN) do not decay.

    Args:
        model: the network.
        base_lr: learning rate of everything but the backbone.
        weight_decay: of the parameters that decay.
        backbone_lr_factor: learning rate of the backbone relative to ``base_lr``.
        backbone_prefix: of the names of the backbone's parameters.

    Returns:
        groups for a torch optimizer, none of them empty.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (name.removeprefix("module.").startswith(backbone_prefix), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": base_lr * (backbone_lr_factor if in_backbone else 1.0),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in groups.items()
    ]


def clip_before_step(optimizer: torch.optim.Optimizer, kind: str, limit: float, norm_type: float) -> None:
    """Clip gradients at every step: "full_model" by their common norm, "norm" each tensor's, "value" each element's."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def clip(*_: Any) -> None:
        if kind == "full_model":
            nn.utils.clip_grad_norm_(parameters, limit, norm_type=norm_type)
        elif kind == "norm":
            for parameter in parameters:
                nn.utils.clip_grad_norm_(parameter, limit, norm_type=norm_type)
        else:
            nn.utils.clip_grad_value_(parameters, limit)

    if kind not in ("full_model", "norm", "value"):
        raise RamsesError(f'SOLVER.CLIP_GRADIENTS.CLIP_TYPE is "{kind}", use full_model, norm or value')
    optimizer.register_step_pre_hook(clip)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD as ``SOLVER`` says."""
    solver = cfg.SOLVER
    groups = parameter_groups(
        model, base_lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, backbone_lr_factor=solver.BACKBONE_LR_FACTOR
    )
    if solver.OPTIMIZER == "AdamW":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=solver.BASE_LR)
    elif solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    else:
        raise RamsesError(f'SOLVER.OPTIMIZER is "{solver.OPTIMIZER}", use AdamW or SGD')
    if solver.CLIP_GRADIENTS.ENABLED:
        clip = solver.CLIP_GRADIENTS
        clip_before_step(optimizer, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE)
    return optimizer
