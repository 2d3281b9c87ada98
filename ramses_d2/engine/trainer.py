"""Detectron2's default trainer with the data, optimizer, evaluation and resuming of RAMSES."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader, get_detection_dataset_dicts
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint import load_initial_weights
from ..data import RamsesDatasetMapper
from ..data.loader import TrainLoader
from ..errors import RamsesError
from ..evaluation import PowerLaw, RamsesEvaluator, fit_power_law
from .hooks import BestCheckpoint
from .optimizer import build_optimizer

logger = logging.getLogger(__name__)


class RamsesTrainer(DefaultTrainer):
    """Trains RAMSES.

    With ``SEED`` >= 0 every step is a function of the seed and the step number alone: its pictures, their augmentation
    and the network's own random numbers. A resumed run therefore continues where the interrupted one stopped, bit for
    bit on the CPU. On every Detectron2 version a checkpoint holds the optimizer.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self._step_seed = None if cfg.SEED < 0 else cfg.SEED

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        records = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, check_consistency=False
        )
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        return TrainLoader(
            records,
            RamsesDatasetMapper(cfg, is_train=True),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            seed=seed,
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_detection_test_loader(cfg, dataset_name, mapper=RamsesDatasetMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> RamsesEvaluator:
        folder = Path(cfg.OUTPUT_DIR)
        if len(cfg.DATASETS.TEST) > 1:  # each has files of its own
            folder = folder / re.sub(r"\W+", "_", dataset_name)
        weighs = cfg.MODEL.RAMSES.MASS.ENABLED
        return RamsesEvaluator(
            dataset_name,
            output_dir=str(folder),
            max_dets=cfg.TEST.DETECTIONS_PER_IMAGE,
            report_thresh=cfg.MODEL.RAMSES.TEST.REPORT_THRESH,
            power_law=_power_law_of(tuple(cfg.DATASETS.TRAIN)) if weighs and comm.is_main_process() else None,
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, dict[str, float]]:
        """Evaluate with run lengths: bit masks of a crowded picture at full size would be gigabytes."""
        network = getattr(model, "module", model)  # DistributedDataParallel
        settings = network.settings
        network.settings = dataclasses.replace(settings, mask_format="rle")
        try:
            return super().test(cfg, model, evaluators)
        finally:
            network.settings = settings

    def build_hooks(self) -> list[HookBase]:
        all_hooks = super().build_hooks()
        if comm.is_main_process() and self.cfg.DATASETS.TEST:
            several = len(self.cfg.DATASETS.TEST) > 1
            metric = f"{self.cfg.DATASETS.TEST[0]}/segm/AP" if several else "segm/AP"
            best = BestCheckpoint(self.cfg.TEST.EVAL_PERIOD, self.model, self.cfg.OUTPUT_DIR, metric)
            all_hooks.insert(-1, best)  # after the evaluation, before the writers
        return all_hooks

    def run_step(self) -> None:
        if self._step_seed is not None:
            torch.manual_seed(self._step_seed + self.iter * comm.get_world_size() + comm.get_rank())
        super().run_step()

    def resume_or_load(self, resume: bool = True) -> None:
        if resume and self.checkpointer.has_checkpoint():
            super().resume_or_load(resume)
        elif self.cfg.MODEL.WEIGHTS:
            # Not by Detectron2's checkpointer: it unpickles whatever the file holds, and only warns of a lost backbone
            path = PathManager.get_local_path(self.cfg.MODEL.WEIGHTS)
            load_initial_weights(getattr(self.model, "module", self.model), path)
        self._trainer.data_loader.start_at(self.start_iter)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state.setdefault("_trainer", self._trainer.state_dict())  # Detectron2 0.6 leaves the optimizer out
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "_trainer" not in state_dict:
            raise RamsesError("this checkpoint holds no optimizer state: use it as MODEL.WEIGHTS, without --resume")
        if hasattr(self._trainer, "grad_scaler"):  # a run that began without mixed precision has no scaler
            state_dict["_trainer"].setdefault("grad_scaler", self._trainer.grad_scaler.state_dict())
        super().load_state_dict(state_dict)
        if "_trainer" not in super().state_dict():  # Detectron2 0.6, see above
            self._trainer.load_state_dict(state_dict["_trainer"])


@functools.cache
def _power_law_of(dataset_names: tuple[str, ...]) -> PowerLaw | None:
    """The area-only baseline of the training truth, or None where that is not at hand or not weighed."""
    try:
        records = [record for name in dataset_names for record in DatasetCatalog.get(name)]
        return fit_power_law(records)
    except (KeyError, RamsesError) as error:
        logger.info("No power-law baseline: %s", error)
        return None
