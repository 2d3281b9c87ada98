"""Learning-rate schedules: Detectron2's own, and one that waits for a metric to stand still; how long a training is."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.solver import LRMultiplier
from detectron2.solver import build_lr_scheduler as build_detectron2_scheduler
from detectron2.solver.lr_scheduler import WarmupParamScheduler
from fvcore.common.param_scheduler import ParamScheduler, PolynomialDecayParamScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import RamsesError
from .evaluation_hook import Evaluation
from .settings_check import check_settings

PLATEAU = "ReduceOnPlateau"
SCHEDULES = ("WarmupCosineLR", "WarmupMultiStepLR", PLATEAU)
TRAINING_LOSS = "total_loss"

logger = logging.getLogger(__name__)


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


class LossMean(HookBase):
    """Mean training loss since the last look at it; stands before the checkpointer, which saves it with every step."""

    def __init__(self) -> None:
        self._sum, self._steps = 0.0, 0

    def after_step(self) -> None:
        latest = self.trainer.storage.latest().get(TRAINING_LOSS)
        if latest is not None:  # the main process has it
            self._sum += latest[0]
            self._steps += 1

    def take(self) -> float:
        """The mean, and begin anew."""
        mean = self._sum / self._steps if self._steps else float("nan")
        self._sum, self._steps = 0.0, 0
        return mean

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self._sum, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sum, self._steps = state_dict["sum"], state_dict["steps"]


class PlateauCheck(HookBase):
    """Shows every evaluation to a :class:`PlateauScheduler`.

    Args:
        evaluation: whose results.
        metric: name of one of them, or "total_loss".
        loss: for "total_loss".
    """

    def __init__(self, evaluation: Evaluation, metric: str, loss: LossMean | None) -> None:
        self._evaluation = evaluation
        self._metric = metric
        self._loss = loss

    def after_step(self) -> None:
        if not self._evaluation.is_new():
            return
        scheduler: PlateauScheduler = self.trainer.scheduler
        before = scheduler.multiplier
        if self._loss is not None:
            scheduler.judge(self._evaluation.of_main_process(self._loss.take()))
        else:
            scheduler.judge(self._evaluation.metric(self._metric, "SOLVER.PLATEAU.METRIC"))
        if scheduler.multiplier < before:
            logger.info("%s stands still: learning rate times %.3g from now on", self._metric, scheduler.multiplier)


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
