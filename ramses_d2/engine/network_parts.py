"""The parts of a network by the names of its parameters, and the order of its layers from the input on."""

from __future__ import annotations

from detectron2.modeling.backbone import ResNet
from timm.models import group_parameters
from torch import nn

from ..checkpoint.timm_names import whole_names
from ..errors import RamsesError
from ..modeling.backbone.timm_backbone import whole_network

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
