"""Weights from files of ``torch.save``: what does not fit is said, and code in them never runs."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ramses_d2.errors import RamsesError

logger = logging.getLogger(__name__)

BACKBONE_PREFIX = "backbone.bottom_up."
# What torch.load raises for files that are truncated, no checkpoint at all, or hold more than tensors
_UNREADABLE = (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, TypeError, ValueError, OSError)


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """Read a file of ``torch.save`` on the CPU."""
    if not Path(path).is_file():
        raise RamsesError(f"{path}: no such weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise RamsesError(
                f"{path}: holds other objects than tensors, which could run code, and is not loaded; save its state "
                f"dict alone, with torch.save(model.state_dict(), ...), where it was made"
            ) from error
        raise RamsesError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(content, Mapping):
        raise RamsesError(f"{path}: holds no state dict but a {type(content).__name__}")
    return content


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a network: a bare state dict, or the one under "model" or "state_dict".

    So do Detectron2, Lightning, timm, torchvision, ConvNeXt V2 and RAMSES2 write them.
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
    problems = mismatches(state, {key: tensor.shape for key, tensor in model.state_dict().items()})
    if problems:
        raise RamsesError(f"{path} does not fit this config: {shortened(problems)}")


def mismatches(state: Mapping[str, torch.Tensor], wanted: Mapping[str, Sequence[int]]) -> list[str]:
    """Where the tensors of a file differ from the shapes that a network wants."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return [
        *(f"{key} is missing" for key in wanted if key not in state),
        *(f"{key} is unknown" for key in state if key not in wanted),
        *(
            f"{key} is {shapes[key]} instead of {tuple(shape)}"
            for key, shape in wanted.items()
            if shapes.get(key, tuple(shape)) != tuple(shape)
        ),
    ]


def shortened(items: Sequence[str], shown: int = 3) -> str:
    """The first few items, and how many more there are."""
    return ", ".join(items[:shown]) + (f", and {len(items) - shown} more" if len(items) > shown else "")


def load_initial_weights(model: nn.Module, path: str) -> None:
    """Load the tensors of a checkpoint that fit a model by name and shape; the others, none of a backbone, stay random.

    It may be of another number of classes, or of a backbone alone.
    """
    state, expected = read_state_dict(path), model.state_dict()
    fitting = {key: state[key] for key in expected if key in state and state[key].shape == expected[key].shape}
    backbone = {key: tensor.shape for key, tensor in expected.items() if key.startswith(BACKBONE_PREFIX)}
    lost = mismatches({key: tensor for key, tensor in state.items() if key in backbone}, backbone)
    if lost:
        raise RamsesError(
            f"MODEL.WEIGHTS: {path} does not fill the backbone: {shortened(lost, 1)}; another network's file? "
            f"Pretrained backbones alone go into MODEL.CONVNEXTV2.WEIGHTS or MODEL.TIMM.WEIGHTS"
        )
    model.load_state_dict(fitting, strict=False)
    logger.info("Loaded %d of %d tensors of the network from %s", len(fitting), len(expected), path)
    for what, keys in (
        ("start at random", [key for key in expected if key not in fitting]),
        ("of the file are not used", [key for key in state if key not in expected]),
    ):
        if keys:
            logger.warning("%d tensors %s: %s", len(keys), what, shortened(keys))
