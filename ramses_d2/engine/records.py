"""What a training leaves behind to look at: log, metrics.json, TensorBoard, tables and curves."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.defaults import default_writers
from detectron2.engine.hooks import PeriodicCheckpointer, PeriodicWriter
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter
from torch import nn

from .curves import Curves, LossRows
from .tensorboard import TrainingImages, has_tensorboard


def event_writers(cfg: CfgNode, max_iter: int) -> list[EventWriter]:
    """Those of Detectron2; without that for TensorBoard where it is not installed."""
    if has_tensorboard():
        return default_writers(cfg.OUTPUT_DIR, max_iter)
    return [CommonMetricPrinter(max_iter), JSONWriter(str(Path(cfg.OUTPUT_DIR) / "metrics.json"))]


def add_records(all_hooks: list[HookBase], cfg: CfgNode, model: nn.Module, images: int) -> list[HookBase]:
    """Hooks of the main process that write tables and curves and store images, where each of them belongs.

    Args:
        all_hooks: of the training; on the main process there are writers among them.
        cfg: of the training.
        model: the network, or its DistributedDataParallel.
        images: training images, for the number of epochs.

    Returns:
        all of them; just ``all_hooks`` where there are no writers.
    """
    writers = next((index for index, hook in enumerate(all_hooks) if isinstance(hook, PeriodicWriter)), None)
    if writers is None:
        return all_hooks
    epoch_steps = images / cfg.SOLVER.IMS_PER_BATCH
    losses = LossRows(cfg.OUTPUT_DIR, epoch_steps)
    records: list[HookBase] = [Curves(losses.table, cfg.OUTPUT_DIR, epoch_steps)]
    if cfg.VIS_PERIOD > 0 and has_tensorboard():
        records.append(TrainingImages(model, cfg.VIS_PERIOD, cfg.MODEL.RAMSES.CLASS_NAMES, cfg.INPUT.FORMAT))
    saving = next(index for index, hook in enumerate(all_hooks) if isinstance(hook, PeriodicCheckpointer))
    return [*all_hooks[:saving], losses, *all_hooks[saving:writers], *records, *all_hooks[writers:]]
