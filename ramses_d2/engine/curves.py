"""The course of a training as tables and as a picture: train_stats.tsv, valid_stats.tsv and curves.png."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage

from .curves_figure import draw_curves
from .stats_table import KEY, StatsTable

# Losses are medians of this many steps, as in the log
_WINDOW = 20
_EVALUATED = re.compile(r"(^|/)(segm|bbox|mass)/")
_TIMES = {"lr": "lr", "time": "seconds", "data_time": "data_seconds"}


class Curves(HookBase):
    """Writes a row of losses every few steps, and after each evaluation a row of its metrics and the picture.

    The column "iteration" counts the steps done. A resumed training goes on where its checkpoint was written: rows of
    steps that are done again are replaced. It belongs behind the evaluation, on the main process alone.

    Args:
        output_dir: where the files go.
        epoch_steps: steps that show every training picture once, for the column "epoch".
        period: steps between rows of losses.
    """

    def __init__(self, output_dir: str, epoch_steps: float, period: int = 20) -> None:
        self._folder = Path(output_dir)
        self._epoch_steps, self._period = epoch_steps, period
        self.training = StatsTable(self._folder / "train_stats.tsv")
        self.evaluations = StatsTable(self._folder / "valid_stats.tsv")
        self._last_evaluation = -1

    def before_train(self) -> None:
        for table in (self.training, self.evaluations):
            table.start(self.trainer.start_iter)

    def after_step(self) -> None:
        storage: EventStorage = self.trainer.storage
        steps = self.trainer.iter + 1
        if steps % self._period == 0 or steps == self.trainer.max_iter:
            # A resumed training first makes up for a missed evaluation: then there is no loss of this step
            if storage.latest().get("total_loss", (0, -1))[1] == self.trainer.iter:
                self.training.append(self._losses(steps))
        self._follow_evaluation(steps)

    def after_train(self) -> None:
        self._follow_evaluation(self.trainer.iter)  # which counts all steps by now

    def _losses(self, steps: int) -> dict[str, float]:
        latest = self.trainer.storage.latest_with_smoothing_hint(_WINDOW)
        row: dict[str, float] = self._position(steps)
        for name, (value, _) in latest.items():
            if name == "total_loss" or name.startswith("loss"):
                row[name] = value
        row |= {column: latest[name][0] for name, column in _TIMES.items() if name in latest}
        if torch.cuda.is_available():
            row["max_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
        return row

    def _follow_evaluation(self, steps: int) -> None:
        """A row of metrics and a new picture, if there are metrics that came after the last row."""
        latest = self.trainer.storage.latest().items()
        metrics = {name: entry for name, entry in latest if _EVALUATED.search(name)}
        new = {name: value for name, (value, step) in metrics.items() if step > self._last_evaluation}
        if not new:
            return
        self._last_evaluation = max(step for _, step in metrics.values())
        self.evaluations.append(self._position(steps) | {name: float(value) for name, value in new.items()})
        unfinished = self._folder / "curves.unfinished.png"
        draw_curves(self.training, self.evaluations).savefig(unfinished)
        os.replace(unfinished, self._folder / "curves.png")

    def _position(self, steps: int) -> dict[str, float]:
        return {KEY: steps, "epoch": steps / self._epoch_steps}
