"""The evaluation during training, and what other hooks need to know of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from detectron2.engine import hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ..errors import RamsesError

T = TypeVar("T")
# What the names of the averaged weights' results begin with
EMA = "ema/"
# What is in the name of every result, and of no figure of a training step
RESULT = re.compile(r"(^|/)(segm|bbox|mass)/")


class Evaluation(hooks.EvalHook):
    """Detectron2's hook, which gives the results to the hooks after it, on every process, and evaluates no step twice.

    Checkpoints are written before the evaluation of their step, so that a failing evaluation costs no training. What
    follows from an evaluation (best checkpoint, learning rate, stopping) is therefore not in the checkpoint of that
    step: a resumed run makes up for it before its first step, see :meth:`is_due`.

    Args:
        period: steps between evaluations, 0 = only after training.
        evaluate: returns nested metrics on the main process.
        first_test_set: its metrics are meant when a name fits none and there are several test sets.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict[str, Any] | None], first_test_set: str = "") -> None:
        super().__init__(period, lambda: self._evaluate(evaluate))
        self._first_test_set = first_test_set
        self._evaluated = 0
        self.results: dict[str, float] = {}

    def _evaluate(self, evaluate: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        results = evaluate()
        self.results = self.of_main_process(flatten_results_dict(results or {}))
        return results

    def _do_eval(self) -> None:
        if self._steps_done() != self._evaluated:
            super()._do_eval()
            self._evaluated = self._steps_done()

    def _steps_done(self) -> int:
        # In after_train the trainer has counted the last step already
        return min(self.trainer.iter + 1, self.trainer.max_iter)

    def is_due(self) -> bool:
        """Whether a resumed training, before its first step, has the evaluation of its last one still to do."""
        start = self.trainer.start_iter
        due = self._period > 0 and start > 0 and start % self._period == 0 and start < self.trainer.max_iter
        return due and self._evaluated != start

    def is_new(self) -> bool:
        """In ``after_step`` of a later hook: whether this step has been evaluated."""
        return self._evaluated == self._steps_done()

    @property
    def evaluated(self) -> int:
        """Steps done at the latest evaluation, 0 = none yet."""
        return self._evaluated

    @staticmethod
    def of_main_process(value: T) -> T:
        """The main process's value, on every process; all of them must call it."""
        return comm.all_gather(value)[0]

    def metric(self, name: str, key: str) -> float:
        """A result of the latest evaluation, the same on every process.

        Args:
            name: such as "segm/AP" or "ema/segm/AP".
            key: the config key that names it, for the error.

        Raises:
            RamsesError: no such result.
        """
        results = self.results
        prefix = EMA if name.startswith(EMA) else ""
        first = f"{prefix}{self._first_test_set}/{name.removeprefix(prefix)}"
        for candidate in (name, first):
            if candidate in results:
                return float(results[candidate])
        raise RamsesError(f'{key} is "{name}", but an evaluation gives {", ".join(sorted(results)) or "nothing"}')

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self._evaluated, "results": self.results}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._evaluated, self.results = state_dict["evaluated"], state_dict["results"]
