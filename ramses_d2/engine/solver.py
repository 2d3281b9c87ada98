"""The optimizer of a training: parts and layers of a network, their learning rates, and the numbers SOLVER may have.

A part is "backbone", "fpn", "class", "kernel", "mask", "mass", of Mask R-CNN also "rpn" and "box"; anything else is
"other". The schedules are Detectron2's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.backbone import ResNet
from detectron2.utils import comm
from timm.models import group_parameters
from torch import nn

from ramses_d2.checkpoint.pretrained import whole_names
from ramses_d2.config import Range, check_ranges
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.backbones import whole_network

logger = logging.getLogger(__name__)

# What the names of a part's parameters begin with: the first part that fits counts
_PREFIXES = {
    "fpn": tuple(f"backbone.{name}" for name in ("lateral.", "output.", "extra.", "fpn_", "top_block.")),
    "backbone": ("backbone.",),
    "class": ("shared_head.class_",),
    "kernel": ("shared_head.kernel_",),
    "mass": ("shared_head.factor_branch.", "mask_head.geometry."),
    "mask": ("mask_head.", "roi_heads.mask_"),
    "rpn": ("proposal_generator.",),
    "box": ("roi_heads.box_",),
}
TRUNK = ("backbone", "fpn")  # all parts but the heads
_PARTS = (*TRUNK, *(part for part in _PREFIXES if part not in TRUNK), "other")  # in the order of the forward pass
# Layers of Detectron2's own residual networks, as timm describes layers
_DETECTRON2_RESNET = {"stem": r"^stem", "blocks": r"^res(\d+)\.(\d+)"}

# Checked before training and before evaluation
_RANGES: dict[str, Range | tuple[str, ...]] = {
    "SOLVER.IMS_PER_BATCH": Range(1),
    "SOLVER.CHECKPOINT_PERIOD": Range(1),
    "SOLVER.BASE_LR": Range(0),
    "SOLVER.WEIGHT_DECAY": Range(0),
    "SOLVER.MOMENTUM": Range(0),
    "SOLVER.WARMUP_ITERS": Range(0),
    "SOLVER.WARMUP_FACTOR": Range(0),
    "DATALOADER.NUM_WORKERS": Range(0),
}
# Checked before training
_TRAINING_RANGES: dict[str, Range | tuple[str, ...]] = {
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupCosineLR", "WarmupMultiStepLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.OPTIMIZER": ("AdamW", "SGD"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("full_model", "norm", "value"),
    "SOLVER.LAYER_DECAY": Range(0, 1, is_open="low"),
    **{f"SOLVER.LR_FACTOR.{part.upper()}": Range(0) for part in _PREFIXES},
    "SOLVER.EMA_DECAY": Range(0, 1, is_open="high"),
    "SOLVER.MAX_EPOCHS": Range(0),
    "SOLVER.EARLY_STOPPING.PATIENCE": Range(0),
    "SOLVER.EARLY_STOPPING.MIN_DELTA": Range(0),
    "TEST.BEST_MODE": ("max", "min"),
}


def check_settings(cfg: CfgNode) -> None:
    """Check the numbers that training and evaluation share."""
    # NumPy's largest seed; Detectron2 adds the number of the process. Below 0, every run draws its own
    check_ranges(cfg, {**_RANGES, "SEED": Range(high=2**32 - comm.get_world_size())})


def resolve_iterations(cfg: CfgNode, images: int) -> None:
    """Check the numbers of a training on so many images, and write its length into the config, which is not frozen.

    ``MAX_EPOCHS`` becomes ``MAX_ITER``, and a warm-up that does not fit in is shortened. Repeating it changes nothing.
    """
    check_settings(cfg)
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "ReduceOnPlateau":
        raise RamsesError('SOLVER.LR_SCHEDULER_NAME "ReduceOnPlateau" has gone (docs/changes.md): use WarmupCosineLR')
    check_ranges(cfg, _TRAINING_RANGES)
    if solver.EARLY_STOPPING.PATIENCE and not (cfg.TEST.EVAL_PERIOD > 0 and cfg.DATASETS.TEST):
        raise RamsesError("SOLVER.EARLY_STOPPING goes by evaluations: set TEST.EVAL_PERIOD and DATASETS.TEST")
    steps = math.ceil(solver.MAX_EPOCHS * images / solver.IMS_PER_BATCH)
    if solver.MAX_EPOCHS and steps != solver.MAX_ITER:
        solver.MAX_ITER = steps
        epochs = f"{solver.MAX_EPOCHS} epochs of {images} images in batches of {solver.IMS_PER_BATCH}"
        logger.info("%s: SOLVER.MAX_ITER is %d", epochs, steps)
    check_ranges(cfg, {"SOLVER.MAX_ITER": Range(1)})
    if solver.WARMUP_ITERS >= solver.MAX_ITER:  # Detectron2 would climb to the end of the cosine, which is 0
        asked, solver.WARMUP_ITERS = solver.WARMUP_ITERS, solver.MAX_ITER // 10
        lengths = (asked, solver.MAX_ITER, solver.WARMUP_ITERS)
        logger.warning("SOLVER.WARMUP_ITERS is %d, the training has %d steps: warm-up shortened to %d", *lengths)


def part_of(name: str) -> str:
    """The part of the network that a parameter or module belongs to; a leading ``module.`` changes nothing."""
    name = name.removeprefix("module.")
    return next((part for part, prefixes in _PREFIXES.items() if name.startswith(prefixes)), "other")


def parts_of(model: nn.Module) -> dict[str, list[str]]:
    """The names of the parameters of every part a network has, parts in the order of the forward pass."""
    parts: dict[str, list[str]] = {part: [] for part in _PARTS}
    for name, _ in model.named_parameters():
        parts[part_of(name)].append(name)
    return {part: names for part, names in parts.items() if names}


def layers_from_input(model: nn.Module) -> list[str]:
    """Names of the modules that own parameters: backbone, pyramid, heads, each in the order in which it was built."""
    rank = {part: index for index, part in enumerate(TRUNK)}
    layers = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    return sorted(layers, key=lambda name: rank.get(part_of(f"{name}."), len(TRUNK)))


def backbone_depths(model: nn.Module) -> tuple[dict[str, int], int]:
    """Parameter name -> depth in the backbone, and the number of depths, as the ConvNeXt and BEiT recipes count.

    The stem has depth 0, each block is one deeper; a reduction between stages belongs to the block after it.
    """
    network = getattr(model, "module", model)  # DistributedDataParallel
    prefix = "" if network is model else "module."
    bottom_up = getattr(getattr(network, "backbone", None), "bottom_up", None)
    if hasattr(bottom_up, "timm_name"):
        whole = whole_network(bottom_up.timm_name, bottom_up.timm_arguments)
        depth_of = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
        inner = {name: name.removeprefix("network.") for name, _ in bottom_up.named_parameters()}
        names = whole_names(inner.values(), set(depth_of))
        found = {name: depth_of[names[key]] for name, key in inner.items()}
    elif isinstance(bottom_up, ResNet):
        found = group_parameters(bottom_up, _DETECTRON2_RESNET, reverse=True)
    else:
        raise RamsesError(
            "SOLVER.LAYER_DECAY: the layers of this backbone are unknown; set it to 1, or use a backbone of timm"
        )
    # Only the stages that the pyramid takes are built: count without gaps
    compact = {depth: index for index, depth in enumerate(sorted(set(found.values())))}
    depths = {f"{prefix}backbone.bottom_up.{name}": compact[depth] for name, depth in found.items()}
    return depths, len(compact)


def parameter_groups(
    model: nn.Module, *, base_lr: float, weight_decay: float, factors: Mapping[str, float], layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Trainable parameters for a torch optimizer, in as few groups as there are learning rates and weight decays.

    A part learns at ``base_lr`` times its factor. Layer ``i`` (from 0, the stem) of the ``n`` layers of the backbone
    learns at ``layer_decay ** (n - i)`` of the backbone's rate, as in BEiT and ConvNeXt. Parameters with one dimension
    (biases, norms, GRN) do not decay.
    """
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
    names = {id(parameter): name.removeprefix("module.") for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def state_with_own_settings(
    saved: Mapping[str, Any], saved_names: list[str], optimizer: torch.optim.Optimizer, names: list[str]
) -> dict[str, Any]:
    """The saved state of every parameter, with the groups, rates and weight decays that an optimizer was built with.

    The names are the :func:`parameter_names` of the saved optimizer, whose groups may be others, and of the new one.
    Raises ValueError where the saved one is of another kind, or of other parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    before, now = saved["param_groups"][0].keys(), groups[0].keys()
    if not (before <= now or now <= before):  # releases of PyTorch add settings
        raise ValueError("another kind of optimizer")
    if sorted(saved_names) != sorted(names):
        raise ValueError(f"{len(saved_names)} tensors trained, now {len(names)}")
    state = {name: saved["state"][index] for index, name in enumerate(saved_names) if index in saved["state"]}
    return {"state": {index: state[name] for index, name in enumerate(names) if name in state}, "param_groups": groups}


def clip_before_step(optimizer: torch.optim.Optimizer, kind: str, limit: float, norm_type: float) -> None:
    """Clip gradients at every step: "full_model" by their common norm, "norm" each tensor's, "value" each element's."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def clip(*_: Any) -> None:
        if kind == "value":
            nn.utils.clip_grad_value_(parameters, limit)
        else:
            for together in [parameters] if kind == "full_model" else parameters:
                nn.utils.clip_grad_norm_(together, limit, norm_type=norm_type)

    optimizer.register_step_pre_hook(clip)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD as ``SOLVER`` says."""
    solver, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    groups = parameter_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        factors={key.lower(): getattr(solver.LR_FACTOR, key) for key in solver.LR_FACTOR},
        layer_decay=solver.LAYER_DECAY,
    )
    optimizer: torch.optim.Optimizer
    if solver.OPTIMIZER == "AdamW":
        optimizer = torch.optim.AdamW(groups, lr=solver.BASE_LR)
    else:
        optimizer = torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    if clip.ENABLED:
        clip_before_step(optimizer, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE)
    return optimizer
