"""The best checkpoint, in a form that resuming can trust, and a writer that loses no evaluation."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import HookBase, hooks
from detectron2.utils.events import EventWriter
from torch import nn

from ..checkpoint.read import read_checkpoint
from ..errors import RamsesError
from .checkpointer import BEST, WeightsOnly
from .ema import EmaWeights
from .evaluation_hook import EMA, Evaluation

logger = logging.getLogger(__name__)


class FigureWriter(hooks.PeriodicWriter):
    """Detectron2's writer, which also writes after every evaluation: it would keep only the latest of a period.

    Args:
        writers: of Detectron2.
        evaluation: the hook that evaluates.
        period: steps between two writes otherwise.
    """

    def __init__(self, writers: Sequence[EventWriter], evaluation: Evaluation, period: int = 20) -> None:
        super().__init__(writers, period)
        self._evaluation = evaluation

    def after_step(self) -> None:
        if self._evaluation.is_new():
            for writer in self._writers:
                writer.write()
        else:
            super().after_step()


class BestCheckpoint(HookBase):
    """Keep the weights of the best evaluation so far in ``model_best.pth``, across resumes too.

    Detectron2's own hook forgets the best score on resume, its file becomes the last checkpoint, and a metric that
    nobody computes is only warned of. Here the score is in the file itself: a checkpoint of the training is written
    before the evaluation of its step and would not know it. Stands after the evaluation, on the main process.

    Args:
        evaluation: whose results.
        model: whose weights to keep.
        output_dir: where.
        metric: name of a result; of "ema/..." the averaged weights are kept.
        mode: "max" or "min" is better.
        ema: the averaged weights, None = there are none.

    Raises:
        RamsesError: another mode; at the first evaluation, a metric that is not among its results.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        model: nn.Module,
        output_dir: str,
        metric: str,
        mode: str = "max",
        ema: EmaWeights | None = None,
    ) -> None:
        if mode not in ("max", "min"):
            raise RamsesError(f'TEST.BEST_MODE is "{mode}", use max or min')
        self._evaluation = evaluation
        self._model = model
        self._checkpointer = WeightsOnly(model, output_dir)
        self._path = Path(output_dir) / BEST
        self._metric, self._mode, self._sign = metric, mode, 1.0 if mode == "max" else -1.0
        self._ema = ema
        self.best_metric: float | None = None
        self.best_steps: int | None = None
        self._judged = 0

    def before_train(self) -> None:
        if self.trainer.start_iter == 0 or not self._path.is_file():
            return
        try:
            best = read_checkpoint(self._path)
        except RamsesError as error:
            logger.warning("%s: the next evaluation replaces it", error)
            return
        # Scores of another metric do not compare
        if "value" in best and (best.get("metric"), best.get("mode")) == (self._metric, self._mode):
            self.best_metric, self.best_steps = best["value"], best["iteration"] + 1
            self._judged = self._evaluation.evaluated

    def after_step(self) -> None:
        if self._evaluation.is_new():
            self._judge(self.trainer.iter + 1)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._judge(self.trainer.max_iter)

    def _judge(self, steps: int) -> None:
        if steps == self._judged:
            return
        self._judged = steps
        value = self._evaluation.metric(self._metric, "TEST.BEST_METRIC")
        if not math.isfinite(value):  # nothing to measure
            return
        if (value, steps) == (self.best_metric, self.best_steps):  # done again by a resumed run
            return
        if self.best_metric is not None and self._sign * (value - self.best_metric) <= 0:
            best = (self.best_metric, self.best_steps)
            logger.info("%s is %.4g, not better than the %.4g after %d steps", self._metric, value, *best)
            return
        score = {"metric": self._metric, "mode": self._mode, "value": value}
        with self._weights():
            self._checkpointer.save(self._path.stem, iteration=steps - 1, **score)
        self.best_metric, self.best_steps = value, steps
        logger.info("%s is %.4g, the best so far: saved as model_best.pth", self._metric, value)

    def _weights(self) -> contextlib.AbstractContextManager:
        """Those that the metric is of, in the model."""
        if self._ema is not None and self._metric.startswith(EMA):
            return self._ema.applied_to(self._model)
        return contextlib.nullcontext()
