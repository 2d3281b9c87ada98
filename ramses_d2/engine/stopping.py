"""Early stopping: a training ends when its metric has stopped improving."""

from __future__ import annotations

import logging
import math
from typing import Any

from detectron2.engine import HookBase

from ..errors import RamsesError
from .evaluation_hook import Evaluation

logger = logging.getLogger(__name__)


class EndOfTraining(BaseException):
    """Leaves the training loop. No ``Exception``, which Detectron2 would log as a failure."""


class EarlyStopping(HookBase):
    """Ends the training when a metric has not improved for some evaluations; the same step on every process.

    Args:
        evaluation: whose results.
        metric: name of one of them.
        mode: "max" or "min" is better.
        patience: evaluations without improvement, 1 or more.
        min_delta: an improvement must be larger than this, in units of the metric.

    Raises:
        RamsesError: a setting out of range.
    """

    def __init__(self, evaluation: Evaluation, *, metric: str, mode: str, patience: int, min_delta: float) -> None:
        if mode not in ("max", "min"):
            raise RamsesError(f'TEST.BEST_MODE is "{mode}", use max or min')
        if patience < 1 or min_delta < 0:
            raise RamsesError(
                f"SOLVER.EARLY_STOPPING: PATIENCE is {patience} and MIN_DELTA {min_delta}, use 0 or more for both"
            )
        self._evaluation = evaluation
        self._metric, self._mode, self._sign = metric, mode, 1.0 if mode == "max" else -1.0
        self._patience, self._min_delta = patience, min_delta
        self._best, self._best_step, self._waited = math.nan, 0, 0

    def before_train(self) -> None:
        if self._waited >= self._patience:  # resumed after it had stopped
            self._stop()

    def after_step(self) -> None:
        if not self._evaluation.is_new():
            return
        value = self._evaluation.metric(self._metric, "TEST.BEST_METRIC")
        # The first number is better than none; NaN (nothing to measure) never is
        if self._sign * (value - self._best) > self._min_delta or (math.isnan(self._best) and not math.isnan(value)):
            self._best, self._best_step, self._waited = value, self.trainer.iter + 1, 0
        else:
            self._waited += 1
        if self._waited >= self._patience:
            self._stop()

    def _stop(self) -> None:
        # What only improved by less than MIN_DELTA does not count, so this need not be the best there was
        by = f" by more than {self._min_delta:g}" if self._min_delta else ""
        which = "compared with" if self._min_delta else "the best was"
        best = "" if math.isnan(self._best) else f"; {which} {self._best:.4g} after {self._best_step} steps"
        self.trainer.request_end(
            f"{self._metric} has not improved{by} for {self._waited} evaluations (SOLVER.EARLY_STOPPING){best}"
        )

    def state_dict(self) -> dict[str, Any]:
        judged = {"metric": self._metric, "mode": self._mode}
        return judged | {"best": self._best, "best_step": self._best_step, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        judged_by = (state_dict.get("metric", self._metric), state_dict.get("mode", self._mode))
        if judged_by != (self._metric, self._mode):  # numbers that do not compare
            return
        self._best, self._best_step = state_dict["best"], state_dict["best_step"]
        self._waited = state_dict["waited"]
