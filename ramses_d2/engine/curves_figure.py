"""The curves of a training in one image."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .stats_table import StatsTable

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
