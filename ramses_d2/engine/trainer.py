"""Detectron2's default trainer with the data, optimizer, evaluation and resuming of RAMSES."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader, get_detection_dataset_dicts
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.engine.defaults import default_writers
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventStorage, EventWriter, JSONWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.utils.data import DataLoader

from ramses_d2.checkpoint.load import load_initial_weights
from ramses_d2.data.loader import TrainLoader
from ramses_d2.data.mapper import RamsesDatasetMapper
from ramses_d2.engine import hooks
from ramses_d2.engine.checkpointer import TrainingCheckpointer
from ramses_d2.engine.curves import LossRows, MetricRows, forget_steps
from ramses_d2.engine.freezing import freeze
from ramses_d2.engine.launch import distributed, share_buffers
from ramses_d2.engine.solver import build_optimizer, parameter_names, resolve_iterations, state_with_own_settings
from ramses_d2.errors import RamsesError, full_disk_is_one_line
from ramses_d2.evaluation.evaluator import RamsesEvaluator
from ramses_d2.evaluation.masses import PowerLaw, fit_power_law

logger = logging.getLogger(__name__)

_EVALUATION_IMAGES = 4  # annotated images of an evaluation for TensorBoard


class RamsesTrainer(DefaultTrainer):
    """Trains RAMSES.

    With ``SEED`` >= 0 every step is a function of the seed and the step number alone: its images, their augmentation
    and the network's own random numbers. A resumed run therefore continues where the interrupted one stopped, bit for
    bit on the CPU. On every Detectron2 version a checkpoint holds the optimizer.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._reason_to_end: str | None = None
        # Not DefaultTrainer's: its several processes need CUDA, and its checkpoints can be half written
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):  # a script without Detectron2's set-up
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        loader = self.build_train_loader(cfg)
        self.cfg = cfg = cfg.clone()
        cfg.defrost()
        resolve_iterations(cfg, len(loader.dataset))  # of a script; a command line has done it
        cfg.freeze()
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self._guard = hooks.NanGuard(model, optimizer)
        self._trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(distributed(model), loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = TrainingCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        freeze(model, cfg.SOLVER.FREEZE)  # not in build_model, which evaluation uses too
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        dataset_dicts = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, check_consistency=False
        )
        return TrainLoader(
            dataset_dicts,
            RamsesDatasetMapper(cfg, is_train=True),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_detection_test_loader(cfg, dataset_name, mapper=RamsesDatasetMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> RamsesEvaluator:
        folder = Path(cfg.OUTPUT_DIR)
        if len(cfg.DATASETS.TEST) > 1:  # each has files of its own
            folder = folder / re.sub(r"\W+", "_", dataset_name)
        has_mass = cfg.MODEL.RAMSES.MASS.ENABLED or cfg.MODEL.RAMSES.MASS.DENSITY
        return RamsesEvaluator(
            dataset_name,
            output_dir=str(folder),
            max_dets=cfg.TEST.DETECTIONS_PER_IMAGE,
            report_thresh=cfg.MODEL.RAMSES.TEST.REPORT_THRESH,
            power_law=_power_law_of(tuple(cfg.DATASETS.TRAIN)) if has_mass and comm.is_main_process() else None,
            worst_images=cfg.TEST.WORST_PICTURES,
            stored_images=_EVALUATION_IMAGES if hooks.has_tensorboard() else 0,
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, dict[str, float]]:
        """Evaluate with RLE masks: bit masks of a crowded image at full size would be gigabytes."""
        network = hooks.unwrapped(model)
        settings = network.settings
        network.settings = dataclasses.replace(settings, mask_format="rle")
        try:
            return super().test(cfg, model, evaluators)
        finally:
            network.settings = settings

    def build_hooks(self) -> list[HookBase]:
        """All hooks, in the order in which each step calls them."""
        cfg, folder, solver, test = self.cfg, self.cfg.OUTPUT_DIR, self.cfg.SOLVER, self.cfg.TEST
        test_sets, by = cfg.DATASETS.TEST, {"metric": test.BEST_METRIC, "mode": test.BEST_MODE}
        # Detectron2's; on the main process the rest is a checkpointer, its evaluation and a writer
        timer, schedule, precise_bn, *rest = super().build_hooks()
        first_set = test_sets[0] if len(test_sets) > 1 else ""
        self._evaluation = hooks.Evaluation(test.EVAL_PERIOD, self._evaluate, first_set)
        self.ema = hooks.EmaWeights(self.model, solver.EMA_DECAY) if solver.EMA_DECAY else None
        density = getattr(hooks.unwrapped(self.model), "areal_density", None)

        before: list[HookBase | None] = [timer, schedule, precise_bn]
        if density is not None:
            before.insert(0, hooks.FitArealDensity(density, cfg.DATASETS.TRAIN))
        if self.ema is not None:
            self.checkpointer.add_checkpointable("ema", self.ema)
            before.append(hooks.EmaUpdate(self.ema, self.model, folder))
        after: list[HookBase] = []
        if solver.EARLY_STOPPING.PATIENCE:
            limits = {"patience": solver.EARLY_STOPPING.PATIENCE, "min_delta": solver.EARLY_STOPPING.MIN_DELTA}
            after.append(hooks.EarlyStopping(self._evaluation, **by, **limits))
        if comm.is_main_process():
            checkpointer, _, writer = rest
            epoch_steps = len(self._trainer.data_loader.dataset) / solver.IMS_PER_BATCH
            losses = LossRows(folder, epoch_steps)
            before += [losses, checkpointer]
            if test_sets:
                after.insert(0, hooks.BestCheckpoint(self._evaluation, self.model, folder, **by, ema=self.ema))
            after.append(MetricRows(losses.table, folder, epoch_steps))
            if cfg.VIS_PERIOD > 0 and hooks.has_tensorboard():
                names = cfg.MODEL.RAMSES.CLASS_NAMES
                after.append(hooks.TrainingImages(self.model, cfg.VIS_PERIOD, names, cfg.INPUT.FORMAT))
            after.append(hooks.MetricsWriter(writer._writers, self._evaluation))
        return [*before, self._evaluation, *after]

    def build_writers(self) -> list[EventWriter]:
        """Those of Detectron2; without that for TensorBoard where it is not installed."""
        if hooks.has_tensorboard():
            return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)
        return [CommonMetricPrinter(self.max_iter), JSONWriter(str(Path(self.cfg.OUTPUT_DIR) / "metrics.json"))]

    def _evaluate(self) -> dict[str, Any]:
        """Results of the network, and under "ema" those of its averaged weights."""
        share_buffers(dict(self.model.named_buffers()))
        results = self._last_eval_results = self.test(self.cfg, self.model)
        if self.ema is not None and self.cfg.DATASETS.TEST:
            cfg = hooks.config_below(self.cfg, "ema")
            logger.info("Evaluation of the averaged weights:")
            share_buffers(dict(self.ema.module.named_buffers()))
            with EventStorage(self.iter):  # its own: images of this evaluation would take the names of the other's
                results = {**results, "ema": self.test(cfg, self.ema.module)}
        return results

    def request_end(self, reason: str) -> None:
        """End the training after this step, as if it were the last one; every process must ask for it."""
        self._reason_to_end = reason

    def before_train(self) -> None:
        super().before_train()
        if self._evaluation.is_due() and self._reason_to_end is None:
            logger.info("First the evaluation after step %d: its checkpoint was written before it", self.start_iter)
            self.iter = self.storage.iter = self.start_iter - 1
            for hook in self._hooks[self._hooks.index(self._evaluation) :]:
                hook.after_step()
            self.iter = self.storage.iter = self.start_iter
        self._end_if_asked(self.start_iter)

    def after_step(self) -> None:
        super().after_step()
        self._end_if_asked(self.iter + 1)

    def _end_if_asked(self, steps: int) -> None:
        if self._reason_to_end is None:
            return
        logger.info("The training ends after %d of %d steps: %s", steps, self.max_iter, self._reason_to_end)
        self.iter = steps - 1
        if comm.is_main_process():
            self.checkpointer.save("model_final", iteration=self.iter)
        self.iter = self.max_iter = steps  # for hooks, this is what a finished training looks like
        raise hooks.EndOfTraining

    def train(self) -> Any:
        last = self.checkpointer.resumed_from
        if self.start_iter >= self.max_iter and last is not None and last.name != "model_final.pth":
            self.checkpointer.save("model_final", iteration=self.iter)  # it ended between its last step and this
        hint = f"the checkpoints in {self.cfg.OUTPUT_DIR} are intact, make room and continue with --resume"
        with full_disk_is_one_line(hint):
            try:
                results = super().train()
            except hooks.EndOfTraining:
                results = None
            return hooks.final_test(self.cfg, self.model, self.test) or results

    def run_step(self) -> None:
        if self.cfg.SEED >= 0:
            torch.manual_seed(self.cfg.SEED + self.iter * comm.get_world_size() + comm.get_rank())
        try:
            super().run_step()
        except FloatingPointError as error:  # of a part of Detectron2 that looks for itself
            raise self._guard.error(" ".join(str(error).split())) from error

    def after_train(self) -> None:
        if self.iter >= self.max_iter:
            self.iter = self.max_iter  # Detectron2 counts one more where no step was left to do
        else:  # a fault in the last step is not the end of the training: hooks must not evaluate
            self.iter = min(self.iter, self.max_iter - 2)
        super().after_train()

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint that can be read, or start with ``MODEL.WEIGHTS``."""
        if resume and self.checkpointer.resume():
            self.start_iter = self.iter + 1
            if comm.is_main_process():
                longer = self.start_iter < self.max_iter
                forget_steps(Path(self.cfg.OUTPUT_DIR) / "metrics.json", self.start_iter, longer=longer)
        elif self.cfg.MODEL.WEIGHTS:
            # Not by Detectron2's checkpointer: it unpickles whatever the file holds, and only warns of a lost backbone
            load_initial_weights(hooks.unwrapped(self.model), PathManager.get_local_path(self.cfg.MODEL.WEIGHTS))
        self._trainer.data_loader.start_at(self.start_iter)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state.setdefault("_trainer", self._trainer.state_dict())  # Detectron2 0.6 leaves the optimizer out
        state["parameters"] = parameter_names(self.optimizer, self.model)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "_trainer" not in state_dict:
            raise RamsesError("this checkpoint holds no optimizer state: use it as MODEL.WEIGHTS, without --resume")
        if hasattr(self._trainer, "grad_scaler"):  # a run that began without mixed precision has no scaler
            state_dict["_trainer"].setdefault("grad_scaler", self._trainer.grad_scaler.state_dict())
        names, base_lrs = parameter_names(self.optimizer, self.model), self.scheduler.base_lrs
        # Only those that this process has: some are the main process's alone
        known = {type(hook).__qualname__ for hook in self._hooks if hasattr(hook, "load_state_dict")}
        hook_states = {name: state for name, state in state_dict.get("hooks", {}).items() if name in known}
        try:
            saved = state_dict["_trainer"]["optimizer"]
            fitted = state_with_own_settings(saved, state_dict.get("parameters", names), self.optimizer, names)
            trainer_state = {**state_dict["_trainer"], "optimizer": fitted}
            super().load_state_dict({**state_dict, "_trainer": trainer_state, "hooks": hook_states})
            if "_trainer" not in super().state_dict():  # Detectron2 0.6, see above
                self._trainer.load_state_dict(trainer_state)
        except ValueError as error:  # of the optimizer
            fault = "this checkpoint's optimizer does not fit SOLVER (another OPTIMIZER or FREEZE?)"
            raise RamsesError(f"{fault}: use it as MODEL.WEIGHTS, without --resume ({error})") from error
        # The rates of SOLVER as it is now, which the schedule's state would replace by those of the run so far
        self.scheduler.base_lrs = base_lrs
        for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = rate


@functools.cache
def _power_law_of(dataset_names: tuple[str, ...]) -> PowerLaw | None:
    """The area-only baseline of the training data, or None where that is not at hand or has no masses."""
    try:
        dataset_dicts = [dataset_dict for name in dataset_names for dataset_dict in DatasetCatalog.get(name)]
        return fit_power_law(dataset_dicts)
    except (KeyError, RamsesError) as error:
        logger.info("No power-law baseline: %s", error)
        return None
