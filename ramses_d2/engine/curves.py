"""What a training leaves behind to look at: log, metrics.json, TensorBoard, tables and curves."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.defaults import default_writers
from detectron2.engine.hooks import PeriodicCheckpointer, PeriodicWriter
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from ramses_d2.engine.hooks import RESULT, TrainingImages, has_tensorboard
from ramses_d2.files import atomic_file, atomic_path


def forget_steps(path: Path, start: int, *, longer: bool = False) -> None:
    """Take out the lines of steps that a resumed run does again, and a line that a kill cut off.

    The file is shortened in place, since Detectron2's writer has it open for appending.

    Args:
        path: of Detectron2's JSONWriter, one JSON object per line; need not exist.
        start: the first step that runs again.
        longer: the run had ended before this step, and is made longer now. Detectron2 counts the evaluation at the end
            of a training as one step later; its line is kept.
    """
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    figures = [_figures(line) for line in lines]
    kept = [of["iteration"] < start or (longer and of["iteration"] == start and _is_last(of)) for of in figures]
    if all(kept):
        return
    first = kept.index(False)
    os.truncate(path, sum(map(len, lines[:first])))
    # An evaluation is written after later steps where it ended later: few lines, if any
    with path.open("ab") as stream:
        stream.write(b"".join(line for line, keep in zip(lines[first:], kept[first:], strict=True) if keep))


def _is_last(figures: Mapping[str, float]) -> bool:
    """Whether they are of an evaluation at the end of a training: all others are in one line with losses."""
    return "total_loss" not in figures and any(RESULT.search(name) for name in figures)


def _figures(line: bytes) -> dict[str, float]:
    """Those of a line; its iteration is infinite where it is not whole."""
    try:
        figures = json.loads(line) if line.endswith(b"\n") else {}
        return {"iteration": float("inf"), **figures}
    except (ValueError, TypeError):
        return {"iteration": float("inf")}


KEY = "iteration"


class StatsTable:
    """Rows by increasing number of steps done, in memory and in a file.

    A row is appended to the file; only where earlier rows change, or a column is new, is the file written anew, whole
    or not at all.

    Args:
        path: of the file; an old one is kept or forgotten by :meth:`start`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.columns: list[str] = [KEY]
        self.rows: list[dict[str, str]] = []

    def start(self, steps: int) -> None:
        """Keep the rows of an earlier run up to these steps; what came after, and a line that a kill cut off, goes.

        Args:
            steps: done before this run; 0 = a new training, which forgets all.
        """
        self.columns, self.rows = [KEY], []
        if not steps or not self._path.is_file():
            self._path.unlink(missing_ok=True)
            return
        text = self._path.read_text(encoding="utf-8")
        whole, _, _ = text.rpartition("\n")
        reader = csv.DictReader(io.StringIO(whole), dialect="excel-tab")
        columns = list(reader.fieldnames or [])
        if KEY not in columns:  # no table of ours
            self._path.unlink()
            return
        self.columns = columns
        self.rows = [row for row in reader if _is_whole(row) and int(row[KEY]) <= steps]
        self._rewrite()

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; one of the same steps, or later ones, are replaced by it.

        Args:
            row: column -> number, KEY among them; columns may differ from row to row.
        """
        cells = {column: _text(value) for column, value in row.items()}
        kept = [old for old in self.rows if int(old[KEY]) < int(cells[KEY])]
        new_columns = [column for column in cells if column not in self.columns]
        changed = len(kept) < len(self.rows) or new_columns
        self.rows, self.columns = [*kept, cells], self.columns + new_columns
        if changed or not self._path.is_file():
            self._rewrite()
        else:
            with self._path.open("a", encoding="utf-8", newline="") as stream:
                self._writer(stream).writerow(cells)

    def series(self, column: str) -> tuple[list[int], list[float]]:
        """Steps and values of a column where it has any, unknown ones left out."""
        known = [(int(row[KEY]), float(row[column])) for row in self.rows if row.get(column)]
        known = [(steps, value) for steps, value in known if math.isfinite(value)]
        return [steps for steps, _ in known], [value for _, value in known]

    def _rewrite(self) -> None:
        with atomic_file(self._path, newline="") as stream:
            writer = self._writer(stream)
            writer.writeheader()
            writer.writerows(self.rows)

    def _writer(self, stream: io.TextIOBase) -> csv.DictWriter[str]:
        return csv.DictWriter(stream, self.columns, restval="", dialect="excel-tab", lineterminator="\n")


def _is_whole(row: Mapping[str | None, str | None]) -> bool:
    """Neither too few cells nor too many, and a number of steps."""
    return None not in row and None not in row.values() and str(row[KEY]).isdigit()


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


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


_AP = {"segm/AP": "mask AP", "segm/AP50": "mask AP50", "segm/AP75": "mask AP75", "bbox/AP": "box AP"}
_MASS = {
    "mass/MAPE": "mean error of a particle (MAPE)",
    "mass/power_law_MAPE": "MAPE by class and area alone",
    "mass/TotalError": "total of all predictions",
    "mass/TotalErrorMatched": "total of matched pairs",
}
_DASHES = ("-", "--", ":", "-.")  # told apart without colours, too
# Errors beyond this are cut off, %: those of the first evaluations say nothing
_LARGE_ERROR = 100.0
_LONGEST_PREFIX = 22


def draw_curves(training: StatsTable, evaluations: StatsTable) -> Figure:
    """Losses, AP, mass errors and learning rate over the steps done; a panel without data says so.

    Args:
        training: rows of losses and "lr".
        evaluations: rows of metrics by their names in the storage; those of several test sets and of averaged weights
            have a prefix.
    """
    figure = Figure(figsize=(13, 8.5), dpi=100)
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.96, bottom=0.065, wspace=0.15, hspace=0.13)
    losses = [column for column in training.columns if "loss" in column]
    losses.sort(key=lambda name: name != "total_loss")
    _draw(panels[0, 0], training, losses, lambda name: name.replace("_", " "), "losses (median of 20 steps)")
    if panels[0, 0].lines:
        panels[0, 0].set_yscale("log")
        panels[0, 0].yaxis.set_major_formatter("{x:g}")
    _draw(panels[0, 1], evaluations, _named(evaluations, _AP), lambda name: _label(name, _AP), "average precision, %")
    panels[0, 1].set_ylim(bottom=0)
    _draw(
        panels[1, 0],
        evaluations,
        _named(evaluations, _MASS),
        lambda name: _label(name, _MASS),
        f"mass errors, % (up to {_LARGE_ERROR:g})",
    )
    if panels[1, 0].lines:
        panels[1, 0].axhline(0, color="0.5", linewidth=0.8)
        low, high = panels[1, 0].get_ylim()
        panels[1, 0].set_ylim(max(low, -1.05 * _LARGE_ERROR), min(high, 1.05 * _LARGE_ERROR))
    _draw(panels[1, 1], training, [c for c in training.columns if c == "lr"], lambda name: name, "learning rate")
    for axes in panels[1]:
        axes.set_xlabel("steps done")
    return figure


def _draw(axes: Axes, table: StatsTable, columns: list[str], label: Callable[[str], str], title: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.grid(color="0.9")
    for index, column in enumerate(columns):
        steps, values = table.series(column)
        if not steps:
            continue
        axes.plot(
            steps,
            values,
            linestyle=_DASHES[index % len(_DASHES)],
            color=f"C{index % 10}",
            linewidth=2.2 if index == 0 else 1.3,
            marker="o" if len(steps) <= 60 else None,
            markersize=3.5,
            label=label(column),
        )
    if axes.lines:
        axes.legend(fontsize=8, handlelength=3)
    else:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color="0.4")


def _named(table: StatsTable, names: dict[str, str]) -> list[str]:
    """Columns that are one of these metrics, of any test set and any weights."""
    return [column for name in names for column in table.columns if column == name or column.endswith(f"/{name}")]


def _label(column: str, names: dict[str, str]) -> str:
    """What a metric is called, before it the data set and weights it belongs to."""
    name = max((name for name in names if column.endswith(name)), key=len)
    prefix = column.removesuffix(name).strip("/")
    if len(prefix) > _LONGEST_PREFIX:
        prefix = "…" + prefix[-_LONGEST_PREFIX:]
    return f"{prefix} {names[name]}".strip()


def event_writers(cfg: CfgNode, max_iter: int) -> list[EventWriter]:
    """Those of Detectron2; without that for TensorBoard where it is not installed."""
    if has_tensorboard():
        return default_writers(cfg.OUTPUT_DIR, max_iter)
    return [CommonMetricPrinter(max_iter), JSONWriter(str(Path(cfg.OUTPUT_DIR) / "metrics.json"))]


def add_records(all_hooks: list[HookBase], cfg: CfgNode, model: nn.Module, images: int) -> list[HookBase]:
    """Hooks of the main process that write tables and curves and store images, where each of them belongs.

    Args:
        all_hooks: of the training; on the main process there are writers among them.
        cfg: of the training.
        model: the network, or its DistributedDataParallel.
        images: training images, for the number of epochs.

    Returns:
        all of them; just ``all_hooks`` where there are no writers.
    """
    writers = next((index for index, hook in enumerate(all_hooks) if isinstance(hook, PeriodicWriter)), None)
    if writers is None:
        return all_hooks
    epoch_steps = images / cfg.SOLVER.IMS_PER_BATCH
    losses = LossRows(cfg.OUTPUT_DIR, epoch_steps)
    records: list[HookBase] = [Curves(losses.table, cfg.OUTPUT_DIR, epoch_steps)]
    if cfg.VIS_PERIOD > 0 and has_tensorboard():
        records.append(TrainingImages(model, cfg.VIS_PERIOD, cfg.MODEL.RAMSES.CLASS_NAMES, cfg.INPUT.FORMAT))
    saving = next(index for index, hook in enumerate(all_hooks) if isinstance(hook, PeriodicCheckpointer))
    return [*all_hooks[:saving], losses, *all_hooks[saving:writers], *records, *all_hooks[writers:]]
