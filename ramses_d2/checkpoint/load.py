"""Strict loading of weights for evaluation and prediction.

Detectron2's checkpointer loads what fits and warns of the rest, which suits a pretrained backbone under new heads. A
network that is to predict must have every weight from the file: a random head gives plausible nonsense.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import nn

from ..errors import RamsesError
from .read import read_state_dict

logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, path: str) -> None:
    """Load a Detectron2 checkpoint, or a bare state dict, into a model; every key must fit.

    Raises:
        RamsesError: no file, not a checkpoint, or keys or shapes that do not fit the model.
    """
    if not path:
        raise RamsesError("MODEL.WEIGHTS is empty: name the weights to load, for example output/model_final.pth")
    state = read_state_dict(path)
    check_keys(model, state, path)
    model.load_state_dict(state)
    logger.info("Loaded all %d tensors of %s", len(state), path)


def check_keys(model: nn.Module, state: Mapping[str, torch.Tensor], path: str) -> None:
    """Compare names and shapes of a state dict with a model's.

    Raises:
        RamsesError: they differ; the message names the first few differences.
    """
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
