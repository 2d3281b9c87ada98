"""The evaluation that comes last: of data that training never looked at, with the best weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from ..checkpoint import load_weights
from .checkpointer import BEST
from .launch import share_buffers

logger = logging.getLogger(__name__)


def final_test(cfg: CfgNode, model: nn.Module, test: Callable[[CfgNode, nn.Module], dict[str, Any]]) -> dict[str, Any]:
    """Evaluate ``DATASETS.FINAL_TEST`` into ``OUTPUT_DIR/test``; all processes have to call it.

    The weights are those of ``model_best.pth``, if evaluations during the training have chosen any, else those the
    model has. It has them back in the end.

    Args:
        cfg: of the training.
        model: the network, or its DistributedDataParallel.
        test: evaluates ``DATASETS.TEST`` of a config.

    Returns:
        what ``test`` returns; empty without such data sets.
    """
    if not cfg.DATASETS.FINAL_TEST:
        return {}
    comm.synchronize()  # the main process may still be writing the best weights
    best = Path(cfg.OUTPUT_DIR) / BEST
    network = getattr(model, "module", model)
    last = None
    # Another machine need not see the folder: the main process decides, and has the weights
    if cfg.DATASETS.TEST and comm.all_gather(best.is_file())[0]:
        last = {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}
        if comm.is_main_process():
            load_weights(network, str(best))
        share_buffers(network.state_dict())
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "test")
    cfg.DATASETS.TEST = cfg.DATASETS.FINAL_TEST
    weights = "the last weights" if last is None else best
    logger.info("Final test of %s on %s, files in %s", weights, ", ".join(cfg.DATASETS.TEST), cfg.OUTPUT_DIR)
    try:
        return test(cfg, model)
    finally:
        if last is not None:
            network.load_state_dict(last)
