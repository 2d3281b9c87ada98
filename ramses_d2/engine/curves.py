"""The course of a training as tables and as an image: train_stats.tsv, valid_stats.tsv and curves.png."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.engine import HookBase

from ..atomic_file import atomic_path
from .curves_figure import draw_curves
from .evaluation_hook import RESULT
from .stats_table import KEY, StatsTable

# Losses are medians of this many steps, as in the log
_WINDOW = 20
_TIMES = {"lr": "lr", "time": "seconds", "data_time": "data_seconds"}


class LossRows(HookBase):
    """Writes a row of losses every few steps.

    The column "iteration" counts the steps done. A resumed training goes on where its checkpoint was written: rows of
    steps that are done again are replaced. It belongs before the checkpointer, on the main process alone: a step whose
    checkpoint is written has its row, whatever becomes of the evaluation after it.

    Args:
        output_dir: where the file goes.
        epoch_steps: steps that show every training image once, for the column "epoch".
        period: steps between rows.
    """

    def __init__(self, output_dir: str, epoch_steps: float, period: int = 20) -> None:
        self._epoch_steps, self._period = epoch_steps, period
        self.table = StatsTable(Path(output_dir) / "train_stats.tsv")

    def before_train(self) -> None:
        self.table.start(self.trainer.start_iter)

    def after_step(self) -> None:
        steps = self.trainer.iter + 1
        if steps % self._period == 0 or steps == self.trainer.max_iter:
            self.table.append(self._losses(steps))

    def _losses(self, steps: int) -> dict[str, float]:
        latest = self.trainer.storage.latest_with_smoothing_hint(_WINDOW)
        row: dict[str, float] = _position(steps, self._epoch_steps)
        for name, (value, _) in latest.items():
            if name == "total_loss" or name.startswith("loss"):
                row[name] = value
        row |= {column: latest[name][0] for name, column in _TIMES.items() if name in latest}
        if torch.cuda.is_available():
            row["max_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
        return row


class Curves(HookBase):
    """Writes a row of metrics after each evaluation, and draws them and the losses.

    It belongs behind the evaluation, on the main process alone.

    Args:
        losses: the other rows.
        output_dir: where the files go.
        epoch_steps: steps that show every training image once, for the column "epoch".
    """

    def __init__(self, losses: StatsTable, output_dir: str, epoch_steps: float) -> None:
        self._folder, self._epoch_steps = Path(output_dir), epoch_steps
        self._losses = losses
        self.table = StatsTable(self._folder / "valid_stats.tsv")
        self._last_evaluation = -1

    def before_train(self) -> None:
        self.table.start(self.trainer.start_iter)

    def after_step(self) -> None:
        self._follow_evaluation(self.trainer.iter + 1)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # no fault: the last evaluation is of all steps
            self._follow_evaluation(self.trainer.iter)

    def _follow_evaluation(self, steps: int) -> None:
        """A row of metrics and a new image, if there are metrics that came after the last row."""
        latest = self.trainer.storage.latest().items()
        metrics = {name: entry for name, entry in latest if RESULT.search(name)}
        new = {name: value for name, (value, step) in metrics.items() if step > self._last_evaluation}
        if not new:
            return
        self._last_evaluation = max(step for _, step in metrics.values())
        self.table.append(_position(steps, self._epoch_steps) | {name: float(value) for name, value in new.items()})
        with atomic_path(self._folder / "curves.png") as unfinished:
            draw_curves(self._losses, self.table).savefig(unfinished, format="png")


def _position(steps: int, epoch_steps: float) -> dict[str, float]:
    return {KEY: steps, "epoch": steps / epoch_steps}
