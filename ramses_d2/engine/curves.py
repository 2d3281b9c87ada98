"""What a training leaves to look at: train_stats.tsv, valid_stats.tsv, curves.png and metrics.json."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from detectron2.engine import HookBase
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ramses_d2.files import atomic_file, atomic_path

_RESULT = re.compile(r"(^|/)(segm|bbox|mass)/")  # in the name of every metric, and of no value of a training step
KEY = "iteration"  # steps done
_WINDOW = 20  # losses are medians of this many steps, as in the log
_TIMES = {"lr": "lr", "time": "seconds", "data_time": "data_seconds"}


def forget_steps(path: Path, start: int, *, longer: bool = False) -> None:
    """Take the lines of steps that run again, from ``start`` on, and one that a kill cut off out of metrics.json.

    ``longer``: the run had ended before this step, and is made longer now. Detectron2 counts the evaluation at the end
    of a training as one step later; its line, the only one without losses, is kept.
    """
    if not path.is_file():
        return

    def is_kept(line: bytes) -> bool:
        try:
            values = json.loads(line) if line.endswith(b"\n") else {}
            step = values[KEY]
        except (ValueError, TypeError, LookupError):
            return False
        last = longer and step == start and "total_loss" not in values and any(map(_RESULT.search, values))
        return step < start or last

    lines = path.read_bytes().splitlines(keepends=True)
    kept = [is_kept(line) for line in lines]
    if all(kept):
        return
    first = kept.index(False)
    # In place, since Detectron2's writer has the file open for appending
    os.truncate(path, sum(map(len, lines[:first])))
    # An evaluation is written after later steps where it ended later: few lines, if any
    with path.open("ab") as stream:
        stream.write(b"".join(line for line, keep in zip(lines[first:], kept[first:], strict=True) if keep))


class StatsTable:
    """Rows of numbers by steps done, as text in ``frame`` and in a TSV file that each row replaces whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.frame = pd.DataFrame({KEY: []}, dtype=str)

    def start(self, steps: int) -> None:
        """Keep the rows of an earlier run up to the steps done before this one, 0 = a new training, which has none."""
        self.frame = pd.DataFrame({KEY: []}, dtype=str)
        whole = self._path.read_text(encoding="utf-8").rpartition("\n")[0] if self._path.is_file() else ""
        if steps and KEY in whole.partition("\n")[0].split("\t"):
            # An older release appended rows: a kill may have left a part of one
            as_text = {"dtype": str, "keep_default_na": False, "on_bad_lines": "skip"}
            table = pd.read_csv(io.StringIO(whole), sep="\t", **as_text)
            self.frame = table[pd.to_numeric(table[KEY], errors="coerce") <= steps]
            self._write()
        else:
            self._path.unlink(missing_ok=True)

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row, with any columns; those of the same steps or later ones go."""
        cells = {column: str(value) if isinstance(value, int) else f"{value:.6g}" for column, value in row.items()}
        kept = self.frame[self.frame[KEY].astype(int) < row[KEY]]
        self.frame = pd.concat([kept, pd.DataFrame([cells])], ignore_index=True).fillna("")
        self._write()

    def _write(self) -> None:
        with atomic_file(self._path, newline="") as stream:
            self.frame.to_csv(stream, sep="\t", index=False, lineterminator="\n")

    def series(self, column: str) -> pd.Series:
        """The finite values of a column by steps done."""
        values = pd.to_numeric(self.frame[column], errors="coerce").set_axis(self.frame[KEY].astype(int))
        return values[np.isfinite(values)]


class LossRows(HookBase):
    """Writes a row of losses to train_stats.tsv every ``period`` steps; an epoch has ``epoch_steps`` steps.

    It belongs before the checkpointer, on the main process alone: a step whose checkpoint is written has its row,
    whatever becomes of the evaluation after it.
    """

    def __init__(self, output_dir: str, epoch_steps: float, period: int = 20) -> None:
        self._epoch_steps, self._period = epoch_steps, period
        self.table = StatsTable(Path(output_dir) / "train_stats.tsv")

    def before_train(self) -> None:
        self.table.start(self.trainer.start_iter)

    def after_step(self) -> None:
        steps = self.trainer.iter + 1
        if steps % self._period and steps != self.trainer.max_iter:
            return
        latest = self.trainer.storage.latest_with_smoothing_hint(_WINDOW)
        row: dict[str, float] = {KEY: steps, "epoch": steps / self._epoch_steps}
        row |= {name: value for name, (value, _) in latest.items() if name == "total_loss" or name.startswith("loss")}
        row |= {column: latest[name][0] for name, column in _TIMES.items() if name in latest}
        if torch.cuda.is_available():
            row["max_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
        self.table.append(row)


class MetricRows(HookBase):
    """Writes a row of metrics to valid_stats.tsv after each evaluation, and draws them and the losses.

    It belongs behind the evaluation, on the main process alone.
    """

    def __init__(self, losses: StatsTable, output_dir: str, epoch_steps: float) -> None:
        self._losses, self._folder, self._epoch_steps = losses, Path(output_dir), epoch_steps
        self.table = StatsTable(self._folder / "valid_stats.tsv")
        self._last_evaluation = -1

    def before_train(self) -> None:
        self.table.start(self.trainer.start_iter)

    def after_step(self) -> None:
        self._add_row(self.trainer.iter + 1)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # without a fault the last evaluation is of all steps
            self._add_row(self.trainer.iter)

    def _add_row(self, steps: int) -> None:
        """If there are metrics that came after the last row."""
        latest = self.trainer.storage.latest().items()
        new = {name: entry for name, entry in latest if _RESULT.search(name) and entry[1] > self._last_evaluation}
        if not new:
            return
        self._last_evaluation = max(step for _, step in new.values())
        row = {KEY: steps, "epoch": steps / self._epoch_steps}
        self.table.append(row | {name: float(value) for name, (value, _) in new.items()})
        with atomic_path(self._folder / "curves.png") as unfinished:
            draw_curves(self._losses, self.table).savefig(unfinished, format="png")


_AP = {"segm/AP": "mask AP", "segm/AP50": "mask AP50", "segm/AP75": "mask AP75", "bbox/AP": "box AP"}
_MASS = {
    "mass/MAPE": "mean error of a particle (MAPE)",
    "mass/power_law_MAPE": "MAPE by class and area alone",
    "mass/TotalError": "total of all predictions",
    "mass/TotalErrorMatched": "total of matched pairs",
}
_DASHES = ("-", "--", ":", "-.")  # told apart without colours, too
_LARGE_ERROR = 100.0  # errors beyond this are cut off, %: those of the first evaluations say nothing
_LONGEST_PREFIX = 22


def draw_curves(training: StatsTable, evaluations: StatsTable) -> Figure:
    """Losses, AP, mass errors and learning rate over the steps done; a panel without data says so."""
    figure = Figure(figsize=(13, 8.5), dpi=100)
    FigureCanvasAgg(figure)
    (losses, precision), (masses, rate) = figure.subplots(2, 2, sharex=True)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.96, bottom=0.065, wspace=0.15, hspace=0.13)
    names = sorted((name for name in training.frame if "loss" in name), key=lambda name: name != "total_loss")
    _draw(losses, training, {name: name.replace("_", " ") for name in names}, "losses (median of 20 steps)")
    if losses.lines:
        losses.set_yscale("log")
        losses.yaxis.set_major_formatter("{x:g}")
    _draw(precision, evaluations, _labels(evaluations, _AP), "average precision, %")
    precision.set_ylim(bottom=0)
    _draw(masses, evaluations, _labels(evaluations, _MASS), f"mass errors, % (up to {_LARGE_ERROR:g})")
    if masses.lines:
        masses.axhline(0, color="0.5", linewidth=0.8)
        masses.set_ylim(np.clip(masses.get_ylim(), -1.05 * _LARGE_ERROR, 1.05 * _LARGE_ERROR))
    _draw(rate, training, {name: name for name in training.frame if name == "lr"}, "learning rate")
    for axes in (masses, rate):
        axes.set_xlabel("steps done")
    return figure


def _draw(axes: Axes, table: StatsTable, labels: Mapping[str, str], title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.grid(color="0.9")
    for index, (column, label) in enumerate(labels.items()):
        values = table.series(column)
        style: dict[str, Any] = {"linestyle": _DASHES[index % len(_DASHES)], "color": f"C{index % 10}"}
        style |= {"linewidth": 1.3 if index else 2.2, "marker": "o" if len(values) <= 60 else None, "markersize": 3.5}
        if len(values):
            axes.plot(values.index, values, label=label, **style)
    if axes.lines:
        axes.legend(fontsize=8, handlelength=3)
    else:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color="0.4")


def _labels(table: StatsTable, names: Mapping[str, str]) -> dict[str, str]:
    """Columns of these metrics, and what they are called, after the test set and weights that they are of."""
    found = {}
    for name, label in names.items():
        for column in table.frame:
            if f"/{column}".endswith(f"/{name}"):
                prefix = column.removesuffix(name).strip("/")
                prefix = "…" + prefix[-_LONGEST_PREFIX:] if len(prefix) > _LONGEST_PREFIX else prefix
                found[column] = f"{prefix} {label}".strip()
    return found
