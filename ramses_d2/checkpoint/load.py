"""Weights to start a training from: what fits is taken, what does not is said, and a backbone must fit."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ramses_d2.errors import RamsesError

# What torch.load raises for files that are truncated, no checkpoint at all, or hold more than tensors
_UNREADABLE = (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, TypeError, ValueError, OSError)


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """Read a file written by ``torch.save``, on the CPU."""
    if not Path(path).is_file():
        raise RamsesError(f"{path}: no such weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise RamsesError(
                f"{path}: holds other objects than tensors, which could run code, and is not loaded; save its state "
                f"dict alone, with torch.save(model.state_dict(), ...), where it was made"
            ) from error
        raise RamsesError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    except _UNREADABLE as error:
        raise RamsesError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(content, Mapping):
        raise RamsesError(f"{path}: holds no state dict but a {type(content).__name__}")
    return content


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a network: a bare state dict, or the one under "model" or "state_dict".

    Args:
        path: of Detectron2, Lightning, timm, torchvision, ConvNeXt V2 or RAMSES2.
    """
    content = read_checkpoint(path)
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise RamsesError(f"{path}: holds no state dict")
    return state


logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, path: str) -> None:
    """Load a Detectron2 checkpoint, or a bare state dict, into a model; every key must fit."""
    if not path:
        raise RamsesError("MODEL.WEIGHTS is empty: name the weights to load, for example output/model_final.pth")
    state = read_state_dict(path)
    check_keys(model, state, path)
    model.load_state_dict(state)
    logger.info("Loaded all %d tensors of %s", len(state), path)


def check_keys(model: nn.Module, state: Mapping[str, torch.Tensor], path: str) -> None:
    """Compare names and shapes of a state dict with a model's."""
    expected = model.state_dict()
    problems = [f"missing {key}" for key in expected if key not in state]
    problems += [f"unknown {key}" for key in state if key not in expected]
    problems += [
        f"{key} is {tuple(state[key].shape)}, the config's network wants {tuple(expected[key].shape)}"
        for key in expected
        if key in state and tuple(state[key].shape) != tuple(expected[key].shape)
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise RamsesError(f"{path} does not fit this config: {'; '.join(problems[:3])}{more}")


BACKBONE_PREFIX = "backbone.bottom_up."


def load_initial_weights(model: nn.Module, path: str) -> None:
    """Load the tensors of a checkpoint that fit a model, by name and shape; the others keep their random start.

    Args:
        model: the network.
        path: of a Detectron2 checkpoint or state dict, such as one of another number of classes or a backbone alone.
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
