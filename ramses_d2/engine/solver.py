"""The ranges of the numbers that a training reads, ours and Detectron2's."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.backbone import ResNet
from detectron2.solver import LRMultiplier
from detectron2.solver import build_lr_scheduler as build_detectron2_scheduler
from detectron2.solver.lr_scheduler import WarmupParamScheduler
from detectron2.utils import comm
from fvcore.common.param_scheduler import ParamScheduler, PolynomialDecayParamScheduler
from timm.models import group_parameters
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ramses_d2.checkpoint.pretrained import whole_names
from ramses_d2.config import Range, check_ranges
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.backbones import whole_network

# Prefixes of parameter names -> part: the first that fits counts. Parts stand in the order of the forward pass
_PREFIXES = (
    ("backbone.bottom_up.", "backbone"),
    ("backbone.lateral.", "fpn"),  # ours
    ("backbone.output.", "fpn"),
    ("backbone.extra.", "fpn"),
    ("backbone.fpn_", "fpn"),  # Detectron2's
    ("backbone.top_block.", "fpn"),
    ("backbone.", "backbone"),  # one without a pyramid
    ("shared_head.class_", "class"),
    ("shared_head.kernel_", "kernel"),
    ("shared_head.factor_branch.", "mass"),
    ("mask_head.geometry.", "mass"),
    ("mask_head.", "mask"),
    ("proposal_generator.", "rpn"),  # Mask R-CNN
    ("roi_heads.box_", "box"),
    ("roi_heads.mask_", "mask"),
)
OTHER = "other"
# What is no head
TRUNK = ("backbone", "fpn")
# Layers of Detectron2's own residual networks, in timm's way of saying
_DETECTRON2_RESNET = {"stem": r"^stem", "blocks": r"^res(\d+)\.(\d+)"}


def part_of(name: str) -> str:
    """The part of the network that a parameter belongs to.

    Args:
        name: of a parameter or module of RAMSES or of Detectron2's Mask R-CNN, with or without a leading ``module.``.

    Returns:
        "backbone", "fpn", "class", "kernel", "mask", "mass", "rpn", "box" or "other".
    """
    name = name.removeprefix("module.")
    return next((part for prefix, part in _PREFIXES if name.startswith(prefix)), OTHER)


def parts_of(model: nn.Module) -> dict[str, list[str]]:
    """The names of the parameters of every part a network has, parts in the order of the forward pass."""
    parts: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        parts.setdefault(part_of(name), []).append(name)
    order = [*dict.fromkeys(part for _, part in _PREFIXES), OTHER]
    return {part: parts[part] for part in order if part in parts}


def layers_from_input(model: nn.Module) -> list[str]:
    """Names of the layers, the modules that own parameters, in the order of the forward pass.

    Backbone first, then the pyramid, then the heads, each in the order in which it was built: that of the forward pass
    for the networks of this project.
    """
    rank = {"backbone": 0, "fpn": 1}
    layers = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    return sorted(layers, key=lambda name: rank.get(part_of(f"{name}."), 2))


def backbone_depths(model: nn.Module) -> tuple[dict[str, int], int]:
    """How deep in the backbone each of its parameters stands, as timm and the ConvNeXt and BEiT recipes count.

    The stem has depth 0, each block is one deeper; a reduction between stages belongs to the block after it.

    Args:
        model: with a backbone of timm or a ResNet of Detectron2 in ``backbone.bottom_up``.

    Returns:
        parameter name -> depth, and the number of depths.

    Raises:
        RamsesError: a backbone whose layers nobody has named.
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


PLATEAU = "ReduceOnPlateau"
SCHEDULES = ("WarmupCosineLR", "WarmupMultiStepLR", PLATEAU)
TRAINING_LOSS = "total_loss"

logger = logging.getLogger(__name__)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """The schedule ``SOLVER.LR_SCHEDULER_NAME``, to be stepped after every training step.

    Raises:
        RamsesError: an unknown name, or settings out of range.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME not in SCHEDULES:
        raise RamsesError(f'SOLVER.LR_SCHEDULER_NAME is "{solver.LR_SCHEDULER_NAME}", use {", ".join(SCHEDULES)}')
    if solver.WARMUP_METHOD not in ("linear", "constant"):
        raise RamsesError(f'SOLVER.WARMUP_METHOD is "{solver.WARMUP_METHOD}", use linear or constant')
    if solver.LR_SCHEDULER_NAME != PLATEAU:
        return build_detectron2_scheduler(cfg, optimizer)
    plateau = solver.PLATEAU
    if plateau.MODE not in ("max", "min"):
        raise RamsesError(f'SOLVER.PLATEAU.MODE is "{plateau.MODE}", use max or min')
    if not (0 < plateau.FACTOR < 1 and 0 <= plateau.MIN_FACTOR < 1 and plateau.PATIENCE >= 0):
        raise RamsesError("SOLVER.PLATEAU: FACTOR must be above 0 and below 1, MIN_FACTOR below 1, PATIENCE 0 or more")
    warmup = WarmupParamScheduler(
        PolynomialDecayParamScheduler(1.0, power=0),  # constant; fvcore's ConstantParamScheduler fails at the last step
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
    )
    return PlateauScheduler(
        optimizer,
        warmup,
        solver.MAX_ITER,
        metric=plateau.METRIC,
        mode=plateau.MODE,
        factor=plateau.FACTOR,
        patience=plateau.PATIENCE,
        min_factor=plateau.MIN_FACTOR,
    )


def settle_iterations(cfg: CfgNode, images: int) -> None:
    """Write the length of the training into the config: ``MAX_EPOCHS`` as ``MAX_ITER``, and a warm-up that fits in.

    Doing it again changes nothing.

    Args:
        cfg: config, not frozen.
        images: in the training data.

    Raises:
        RamsesError: a negative number of epochs, no step at all, or another number of a training out of its range.
    """
    check_settings(cfg)
    solver = cfg.SOLVER
    if solver.MAX_EPOCHS < 0:
        raise RamsesError(f"SOLVER.MAX_EPOCHS is {solver.MAX_EPOCHS}, use 0 (SOLVER.MAX_ITER counts) or more")
    steps = math.ceil(solver.MAX_EPOCHS * images / solver.IMS_PER_BATCH)
    if solver.MAX_EPOCHS and steps != solver.MAX_ITER:
        solver.MAX_ITER = steps
        logger.info(
            "%s epochs of %d images in batches of %d: SOLVER.MAX_ITER is %d",
            solver.MAX_EPOCHS,
            images,
            solver.IMS_PER_BATCH,
            solver.MAX_ITER,
        )
    if solver.MAX_ITER < 1:
        raise RamsesError(f"SOLVER.MAX_ITER is {solver.MAX_ITER}: a training has 1 step or more")
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        shorter = solver.MAX_ITER // 10
        logger.warning(
            "SOLVER.WARMUP_ITERS is %d, the training has %d steps: warm-up shortened to %d",
            solver.WARMUP_ITERS,
            solver.MAX_ITER,
            shorter,
        )
        solver.WARMUP_ITERS = shorter


_RANGES = {
    "SOLVER.IMS_PER_BATCH": Range(1),
    "SOLVER.CHECKPOINT_PERIOD": Range(1),
    "SOLVER.BASE_LR": Range(0),
    "SOLVER.WEIGHT_DECAY": Range(0),
    "SOLVER.MOMENTUM": Range(0),
    "SOLVER.WARMUP_ITERS": Range(0),
    "SOLVER.WARMUP_FACTOR": Range(0),
    "DATALOADER.NUM_WORKERS": Range(0),
}
# NumPy's; below 0 means that every run draws its own
_LARGEST_SEED = 2**32 - 1


def check_settings(cfg: CfgNode) -> None:
    """Check the numbers of ``SOLVER``, ``DATALOADER`` and ``SEED``.

    Raises:
        RamsesError: one is out of its range.
    """
    # Detectron2 adds the number of the process to the seed
    check_ranges(cfg, {**_RANGES, "SEED": Range(high=_LARGEST_SEED - comm.get_world_size() + 1)})


class PlateauScheduler(LRMultiplier):
    """Warm-up by steps, then a rate that falls whenever a metric has stopped improving.

    PyTorch's ``ReduceLROnPlateau`` decides; it works on a number, 1 at first, by which all rates are multiplied, so
    that the warm-up and the rates of the parts of the network stay what they are.

    Args:
        optimizer: whose rates to change.
        warmup: factor over the course of the training.
        max_iter: steps of the training.
        metric: name of what is judged: the state of another one does not compare.
        mode, factor, patience: see ``ReduceLROnPlateau``; every improvement counts, however small.
        min_factor: the multiplier does not fall below it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup: ParamScheduler,
        max_iter: int,
        *,
        metric: str,
        mode: str,
        factor: float,
        patience: int,
        min_factor: float,
    ) -> None:
        self._judged = {"metric": metric, "mode": mode}
        self._rate = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._plateau = ReduceLROnPlateau(
            self._rate, mode=mode, factor=factor, patience=patience, threshold=0.0, min_lr=min_factor
        )
        super().__init__(optimizer, warmup, max_iter)

    @property
    def multiplier(self) -> float:
        """1, times the factor for every plateau so far."""
        return self._rate.param_groups[0]["lr"]

    def get_lr(self) -> list[float]:
        """The rates of the parameter groups at this step."""
        return [rate * self.multiplier for rate in super().get_lr()]

    def judge(self, value: float) -> None:
        """Take in a new value of the metric; the next step already has the rate that follows from it."""
        before = self.multiplier
        self._plateau.step(value)
        if self.multiplier < before:
            for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        kept = ("best", "num_bad_epochs", "last_epoch")
        plateau = {key: value for key, value in self._plateau.state_dict().items() if key in kept}
        return super().state_dict() | {"multiplier": self.multiplier, "plateau": plateau | self._judged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        # A run that began with another schedule has neither
        self._rate.param_groups[0]["lr"] = state.pop("multiplier", 1.0)
        plateau = dict(state.pop("plateau", {}))
        # The rate stays where it has fallen to, also where it goes by another metric from now on
        if {key: plateau.pop(key, value) for key, value in self._judged.items()} == self._judged:
            self._plateau.load_state_dict(plateau)
        super().load_state_dict(state)
