"""Weights to start a training from: what fits is taken, what does not is said, and a backbone must fit."""

from __future__ import annotations

import logging

from torch import nn

from ..errors import RamsesError
from .read import read_state_dict

logger = logging.getLogger(__name__)

BACKBONE_PREFIX = "backbone.bottom_up."


def load_initial_weights(model: nn.Module, path: str) -> None:
    """Load the tensors of a checkpoint that fit a model, by name and shape; the others keep their random start.

    Args:
        model: the network.
        path: of a Detectron2 checkpoint or state dict, such as one of another number of classes or a backbone alone.

    Raises:
        RamsesError: the file cannot be read, or a tensor of the backbone is not in it.
    """
    state = read_state_dict(path)
    expected = model.state_dict()
    fitting = {key for key in expected if key in state and state[key].shape == expected[key].shape}
    lost = [key for key in expected if key.startswith(BACKBONE_PREFIX) and key not in fitting]
    if lost:
        key = lost[0]
        reason = (
            f"is {tuple(state[key].shape)} there, the config's network wants {tuple(expected[key].shape)}"
            if key in state
            else "is not in it"
        )
        raise RamsesError(
            f"MODEL.WEIGHTS: {path} does not fill the backbone: {key} {reason}"
            f"{f', and {len(lost) - 1} more' if len(lost) > 1 else ''}; another network's file? Pretrained backbones "
            f"alone go into MODEL.CONVNEXTV2.WEIGHTS or MODEL.TIMM.WEIGHTS"
        )
    model.load_state_dict({key: state[key] for key in fitting}, strict=False)
    logger.info("Loaded %d of %d tensors of the network from %s", len(fitting), len(expected), path)
    for what, keys in (
        ("start at random", [key for key in expected if key not in fitting]),
        ("of the file are not used", [key for key in state if key not in expected]),
    ):
        if keys:
            logger.warning("%d tensors %s: %s%s", len(keys), what, ", ".join(keys[:3]), ", ..." * (len(keys) > 3))
