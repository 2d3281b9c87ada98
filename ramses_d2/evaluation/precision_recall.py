"""Precision over recall of each class, and the score that belongs to each recall."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from .coco_ap import RECALLS, Curves

IOUS = (0.5, 0.75)
_DASHES = ("-", "--", "-.", ":")
_LONGEST_NAME = 24


def precision_recall_table(curves: Curves) -> pd.DataFrame:
    """One row per class, IoU and recall.

    Returns:
        class, iou, recall, precision (interpolated as COCO does; 0 where the recall is never reached) and score
        (from which on predictions reach the recall; NaN where none does). Classes without truth have no rows.
    """
    tables = []
    for iou in IOUS:
        precision, scores = curves.at(iou)
        for class_id, name in enumerate(curves.class_names):
            if precision[0, class_id] < 0:
                continue
            reached = precision[:, class_id] > 0
            columns = {"recall": RECALLS, "precision": precision[:, class_id]}
            columns["score"] = np.where(reached, scores[:, class_id], np.nan)
            tables.append(pd.DataFrame({"class": name, "iou": iou} | columns))
    columns = ["class", "iou", "recall", "precision", "score"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def draw_precision_recall(curves: Curves, report_thresh: float) -> Figure:
    """Precision at both IoUs, and at the lower one the score for each recall, for the choice of a threshold."""
    table = precision_recall_table(curves)
    names = [name for name in curves.class_names if (table["class"] == name).any()]
    rows = -(-(len(names) + 1) // 4)
    height = 4.55 + 0.2 * rows
    figure = Figure(figsize=(13, height), dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    below = 0.65 + 0.2 * rows  # inches for the names of the axes and the legend
    figure.subplots_adjust(left=0.05, right=0.985, top=1 - 0.35 / height, bottom=below / height, wspace=0.18)
    for axes, iou in zip(panels, IOUS, strict=False):
        _draw(axes, table[table["iou"] == iou], names, "precision")
        mean = table[table["iou"] == iou].groupby("recall")["precision"].mean()
        axes.plot(mean.index, mean, color="black", linewidth=2.6, label="mean of the classes")
        axes.set_title(f"Precision at mask IoU {iou:g}", fontsize=11)
    _draw(panels[2], table[table["iou"] == IOUS[0]], names, "score")
    panels[2].axhline(report_thresh, color="black", linewidth=1)
    panels[2].annotate(
        f"REPORT_THRESH {report_thresh:g}", (0, report_thresh), (3, 3), textcoords="offset points", fontsize=8
    )
    panels[2].set_title(f"Least score for a recall, mask IoU {IOUS[0]:g}", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, handlelength=3.5)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, names: list[str], column: str) -> None:
    for index, name in enumerate(names):
        rows = table[table["class"] == name]
        label = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
        axes.plot(
            rows["recall"],
            rows[column],
            color=_color(index, len(names)),
            linestyle=_DASHES[index % len(_DASHES)],  # told apart without colours, too
            linewidth=1.4,
            label=label,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel=column)
    axes.grid(color="0.9")


def _color(index: int, count: int) -> np.ndarray:
    """Hues spread over the classes, dark enough for a white page."""
    return hsv_to_rgb((index / max(count, 1), 0.9, 0.75 if index % 2 else 0.6))
