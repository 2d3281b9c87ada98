"""Which class is taken for which: particles matched by mask IoU 0.5 whatever the class, missed ones and extras.

Shape letter: C classes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .outcome import Outcome

MISSED, BACKGROUND = "(missed)", "(background)"
# Inches: side of a cell, least side of all cells, a letter of a class name, margins for the rest
_CELL, _LEAST, _LETTER = 0.58, 3.4, 0.078
_LEFT, _RIGHT, _ABOVE, _BELOW = 0.5, 0.2, 0.55, 0.55
_LONGEST_NAME = 24


def confusion_matrix(outcome: Outcome) -> np.ndarray:
    """Counts of particles from the score on that counts.

    Returns:
        int64 (C + 1, C + 1): true class x predicted class. The last column counts missed particles, the last row
        predictions where there is no particle; the last cell is 0.
    """
    classes = len(outcome.class_names)
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    np.add.at(matrix, (outcome.pairs["true_class"], outcome.pairs["predicted_class"]), 1)
    extras = outcome.reported[outcome.reported["match50"] < 0]
    np.add.at(matrix[classes], extras["class_id"].to_numpy(), 1)
    objects = np.bincount(outcome.particles["class_id"], minlength=classes)
    matrix[:classes, classes] = objects - matrix[:classes, :classes].sum(axis=1)
    return matrix


def confusion_table(matrix: np.ndarray, class_names: tuple[str, ...]) -> pd.DataFrame:
    """The counts with names: a row per true class and "(background)", a column per predicted class and "(missed)"."""
    return pd.DataFrame(
        matrix,
        index=pd.Index([*class_names, BACKGROUND], name="true class"),
        columns=[*class_names, MISSED],
    )


def draw_confusion(matrix: np.ndarray, class_names: tuple[str, ...], report_thresh: float) -> Figure:
    """Counts, and shares of each true class in percent, as numbers on shades of grey."""
    total = matrix.sum(axis=1, keepdims=True)
    total[-1] = 0  # extras are counts alone, there is no true number of them
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    names = [_short(name) for name in class_names]
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(matrix) > 4 else {}
    letters = _LETTER * max(map(len, [*names, BACKGROUND]))
    side = max(_CELL * len(matrix), _LEAST)
    left, below = _LEFT + letters, _BELOW + (0.75 * letters if slanted else 0)
    width, height = left + side + _RIGHT, below + side + _ABOVE
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((left / width, below / height, side / width, side / height))
    axes.imshow(share, cmap="Greys", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        percent = f"\n{100 * share[row, column]:.0f} %" if total[row] else ""
        color = "white" if share[row, column] > 0.6 else "black"
        axes.text(column, row, f"{matrix[row, column]}{percent}", ha="center", va="center", fontsize=8, color=color)
    ticks = range(len(matrix))
    axes.set_xticks(ticks, [*names, MISSED], **slanted)
    axes.set_yticks(ticks, [*names, BACKGROUND])
    # The last row and column are no classes
    for line in (axes.axhline, axes.axvline):
        line(len(matrix) - 1.5, color="black", linewidth=1.2)
    axes.set_xticks(np.arange(len(matrix) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(matrix) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(
        f"Particles at mask IoU 0.5, score {report_thresh:g} or more\n(count, % of the true class)", fontsize=10
    )
    return figure


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
