"""The hooks that a config wants around the evaluations of a training: averages, schedules and stopping."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks

from ..errors import RamsesError
from .evaluation_hook import Evaluation
from .schedule import PLATEAU, TRAINING_LOSS, LossMean, PlateauCheck
from .stopping import EarlyStopping


def follow_evaluations(
    cfg: CfgNode, all_hooks: Sequence[HookBase | None], evaluation: Evaluation, averages: Sequence[HookBase] = ()
) -> list[HookBase]:
    """Put our evaluation in the place of Detectron2's, and around it what depends on its results.

    Args:
        cfg: config.
        all_hooks: of Detectron2's default trainer.
        evaluation: replaces Detectron2's hook.
        averages: hooks that have to run before the checkpointer, which saves what they know.

    Returns:
        timer, schedule, averages, checkpointer, evaluation, plateau, early stopping, writers.

    Raises:
        RamsesError: something goes by evaluations, and there are none.
    """
    solver, before, after = cfg.SOLVER, list(averages), []
    if solver.LR_SCHEDULER_NAME == PLATEAU:
        metric = solver.PLATEAU.METRIC
        loss = LossMean() if metric == TRAINING_LOSS else None
        before += [loss] if loss else []
        after.append(PlateauCheck(evaluation, metric, loss))
        _need_evaluations(cfg, f'LR_SCHEDULER_NAME "{PLATEAU}"', needs_data=loss is None)
    stopping = solver.EARLY_STOPPING
    if stopping.PATIENCE:
        after.append(
            EarlyStopping(
                evaluation,
                metric=cfg.TEST.BEST_METRIC,
                mode=cfg.TEST.BEST_MODE,
                patience=stopping.PATIENCE,
                min_delta=stopping.MIN_DELTA,
            )
        )
        _need_evaluations(cfg, "EARLY_STOPPING", needs_data=True)
    ordered: list[HookBase] = []
    for hook in all_hooks:
        if isinstance(hook, hooks.EvalHook):
            ordered += [evaluation, *after]
        elif hook is not None:
            ordered.append(hook)
    schedule = next(index for index, hook in enumerate(ordered) if isinstance(hook, hooks.LRScheduler))
    ordered[schedule + 1 : schedule + 1] = before
    return ordered


def _need_evaluations(cfg: CfgNode, what: str, *, needs_data: bool) -> None:
    if cfg.TEST.EVAL_PERIOD <= 0 or (needs_data and not cfg.DATASETS.TEST):
        keys = "TEST.EVAL_PERIOD and DATASETS.TEST" if needs_data else "TEST.EVAL_PERIOD"
        raise RamsesError(f"SOLVER.{what} goes by evaluations: set {keys}")
