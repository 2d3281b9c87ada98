"""Optimizer of RAMSES: no weight decay on norms, biases and GRN, learning rates by part and by depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from ..errors import RamsesError
from .network_parts import backbone_depths, part_of


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    factors: Mapping[str, float],
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Trainable parameters grouped by learning rate and weight decay.

    Parameters with one dimension (biases, norms, GRN) do not decay. Layer ``i`` (from 0, the stem) of the ``n`` layers
    of the backbone learns at ``layer_decay ** (n - i)`` of the backbone's rate, as in BEiT and ConvNeXt.

    Args:
        model: the network.
        base_lr: learning rate of a part without a factor.
        weight_decay: of the parameters that decay.
        factors: part of the network (see :func:`~.network_parts.part_of`) -> learning rate relative to ``base_lr``.
        layer_decay: see above; 1 = all layers alike.

    Returns:
        groups for a torch optimizer, as few as there are rates and decays, none of them empty.

    Raises:
        RamsesError: a factor below 0, a ``layer_decay`` outside 0..1, or one for a backbone of unknown layers.
    """
    for part, factor in factors.items():
        if factor < 0:
            raise RamsesError(f"SOLVER.LR_FACTOR.{part.upper()} is {factor}, use 0 or more")
    if not 0 < layer_decay <= 1:
        raise RamsesError(f"SOLVER.LAYER_DECAY is {layer_decay}, use a number above 0 and up to 1")
    depths, count = backbone_depths(model) if layer_decay < 1 else ({}, 0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = base_lr * factors.get(part_of(name), 1.0)
            if name in depths:
                rate *= layer_decay ** (count - depths[name])
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Names of an optimizer's parameters, in the order in which its ``state_dict`` counts them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def state_with_own_settings(
    saved: Mapping[str, Any], saved_names: list[str], optimizer: torch.optim.Optimizer, names: list[str]
) -> dict[str, Any]:
    """A saved state of every parameter, with the groups, rates and weight decays that an optimizer was built with.

    Args:
        saved: ``state_dict`` of an earlier optimizer, whose groups may have been others.
        saved_names: its :func:`parameter_names`.
        optimizer: new, as the config is now.
        names: its :func:`parameter_names`.

    Returns:
        what ``optimizer`` can load.

    Raises:
        ValueError: another kind of optimizer, or one of other parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    before, now = saved["param_groups"][0].keys(), groups[0].keys()
    if not (before <= now or now <= before):  # releases of PyTorch add settings
        raise ValueError("another kind of optimizer")
    if sorted(saved_names) != sorted(names):
        raise ValueError(f"{len(saved_names)} tensors trained, now {len(names)}")
    state = {name: saved["state"][index] for index, name in enumerate(saved_names) if index in saved["state"]}
    return {
        "state": {index: state[name] for index, name in enumerate(names) if name in state},
        "param_groups": groups,
    }


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
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        factors={key.lower(): getattr(solver.LR_FACTOR, key) for key in solver.LR_FACTOR},
        layer_decay=solver.LAYER_DECAY,
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
