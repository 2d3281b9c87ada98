"""The charts of a report, as SVG: sharp on paper, the same bytes for the same numbers.

Each can be read in black and white: patterns, markers and labels say what colours say.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ramses_d2.analysis.calibration import Comparison
from ramses_d2.analysis.composition import Composition
from ramses_d2.analysis.grading import Grading
from ramses_d2.analysis.report.build import Report
from ramses_d2.analysis.sample import FLOATING

_WIDTH = 7.1  # inches: the text width of an A4 page
_INK, _GREY, _ACCENT, _BAND, _NEAR = "#1b1f24", "#57606a", "#1f4e79", "#c6d5e3", "#eaeef2"
_STYLE = Path(__file__).with_name("templates") / "charts.mplstyle"
# Fill and pattern of the constituents, in their order
_FILLS = ("#dbe2e8", "#efe6cf", "#edc9b5", "#a9b0b7", "#cfe5d3", "#ddd2e6")
_HATCHES = ("////", "....", "\\\\\\\\", "xxxx", "||||", "++++")
_MARKERS = "osD^vP*X<>"
_DASHES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (1, 1)))
_SHADES = ("#1f4e79", "#a0522d", "#3b7a57", "#5b4a8a", "#7a6a00", "#8b1e3f")
_MASS = ("mass of a particle, g", "mass")
_DIAMETERS = (("equivalent diameter, mm", "equivalent_diameter_mm"), ("minimum Feret diameter, mm", "feret_min_mm"))
_BINS = 24
_TICK_STEPS = ((1,), (1, 2, 5), (1, 2, 3, 4, 6, 8), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))


def report_charts(report: Report) -> dict[str, str]:
    """All charts that the report has values for, by name, as SVG."""
    charts, table = {}, report.table
    if report.composition.mass_g > 0:
        charts["composition"] = to_svg(2.58, composition_chart, report.composition)
    if report.grading:
        charts["grading"] = to_svg(3.5, grading_chart, report.grading, report.band)
    if len(report.gradings) > 1:
        charts["groups"] = to_svg(2.9, group_chart, report.gradings)
    diameter = _DIAMETERS["feret_min_mm" in table]
    measures = {name: table[key].to_numpy(float) for name, key in (_MASS, diameter) if key in table}
    known = {name: values[np.isfinite(values) & (values > 0)] for name, values in measures.items()}
    if known := {name: values for name, values in known.items() if len(values)}:
        charts["histograms"] = to_svg(2.3, histograms, known)
    if report.comparison is not None:
        charts["comparison"] = to_svg(3.4, comparison_chart, report.comparison)
    return charts


def to_svg(height: float, draw: Callable[..., str], *values: Any) -> str:
    """An ``<svg>`` element as wide as its container; ``draw(figure, *values)`` returns what it shows, in words."""
    name, stream = draw.__name__.replace("_", "-"), io.StringIO()
    with matplotlib.rc_context(fname=_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        title = draw(figure, *values)
        FigureCanvasSVG(figure).print_svg(stream, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = stream.getvalue()
    # The name keeps the ids apart from those of other charts
    svg = re.sub(r'\bid="', f'id="{name}-', svg[svg.index("<svg") :])
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    head, body = svg.split(">", 1)
    # The size of the figure would be in points: the page decides
    head = re.sub(r' (width|height)="[^"]*"', "", head) + f' role="img" aria-labelledby="{name}-title"'
    return f'{head}>\n<title id="{name}-title">{escape(title)}</title>{body}'.strip()


def composition_chart(figure: Figure, composition: Composition) -> str:
    """Bars of mass fractions with their intervals."""
    table = composition.constituents
    table = table[table["constituent"] != FLOATING].reset_index(drop=True)
    share, low, high = (100 * table[name].astype(float) for name in ("fraction", "low", "high"))
    axes = figure.add_subplot()
    for row, (fill, pattern) in enumerate(zip(_FILLS, _HATCHES, strict=True)):
        axes.barh(row, share[row], height=0.62, color=fill, edgecolor=_INK, linewidth=0.7, hatch=pattern)
    known = low.notna()
    if known.any():
        ends = np.abs([(share - low)[known], (high - share)[known]])
        axes.errorbar(share[known], np.flatnonzero(known), xerr=ends, fmt="none", ecolor=_INK, capsize=4, lw=1.3)
    offset = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "color": _INK}
    for row in range(len(table)):
        axes.annotate(f"{share[row]:.1f} %", (np.nanmax([share[row], high[row]]), row), **offset)
    axes.set_yticks(range(len(table)), list(table["constituent"]), fontweight="bold")
    axes.set(xlim=(0, max(1.0, 1.12 * np.nanmax([share, high]))), xlabel="share of the mass, %")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    listed = ", ".join(f"{name} {value:.1f} %" for name, value in zip(table["constituent"], share, strict=True))
    return f"Bars of the share of the mass: {listed}"


def grading_chart(figure: Figure, grading: Grading, band: pd.DataFrame) -> str:
    """Cumulative passing over sieve size on a logarithmic axis; the ``band`` is its interval, and may be empty."""
    curve, sieves = grading.curve, _telling(grading.sieves, [grading])
    openings = sieves["sieve_mm"].to_numpy(float)
    axes = figure.add_subplot()
    _sieve_axis(axes, openings, [*curve["size_mm"]])
    if len(band):
        # Up to the sides of the chart: finer and coarser particles than those seen may be there
        left, right = axes.get_xlim()
        ends = [100 * np.pad(band[name].to_numpy(float), 1, mode="edge") for name in ("low", "high")]
        label = f"{100 * grading.resampling.confidence:g} % interval" if grading.resampling else "interval"
        axes.fill_between([left, *band["sieve_mm"], right], *ends, color=_BAND, lw=0, label=label)
    # Steps, as passing is counted: the sieves lie on them
    axes.step(curve["size_mm"], 100 * curve["passing"], where="post", color=_ACCENT, lw=1, label="particles")
    axes.plot(openings, 100 * sieves["passing"], "o", color=_ACCENT, mfc="white", mew=1.2, ms=5, label="sieves")
    sizes = grading.sizes.set_index("name")["value"]
    offset = {"xytext": (-5, 2), "textcoords": "offset points", "ha": "right", "va": "bottom", "color": _INK}
    for name, level in (("D10", 10), ("D50", 50), ("D90", 90)):
        if np.isfinite(sizes[name]):
            axes.plot([sizes[name]] * 2, [0, level], color=_GREY, lw=0.7, ls=(0, (3, 2)))
            axes.annotate(f"{name} {sizes[name]:.3g}", (sizes[name], level), **offset)
    axes.set_ylabel(f"passing, % of the {'number' if grading.weight == 'count' else grading.weight}")
    axes.legend(loc="upper left")
    return f"Grading curve, D50 = {sizes['D50']:.3g} mm; the table holds its values"


def group_chart(figure: Figure, groups: dict[str, Grading]) -> str:
    """Gradings of several constituents, each as a share of itself."""
    openings = _telling(next(iter(groups.values())).sieves, list(groups.values()))["sieve_mm"].to_numpy(float)
    axes = figure.add_subplot()
    _sieve_axis(axes, openings, [])
    looks = zip(cycle(_SHADES), cycle(_DASHES), cycle(_MARKERS), strict=True)
    for (name, grading), (color, dashes, marker) in zip(groups.items(), looks, strict=False):
        passing = 100 * grading.sieves.set_index("sieve_mm")["passing"][openings]
        axes.plot(openings, passing, color=color, ls=dashes, marker=marker, mfc="white", ms=4.5, lw=1.2, label=name)
    axes.set_ylabel("passing, % of itself")
    axes.legend(loc="upper left", ncols=2)
    return f"Grading curves of {', '.join(groups)}; the table holds their values"


def histograms(figure: Figure, values: dict[str, np.ndarray]) -> str:
    """Numbers of particles over measures (name with unit -> values above 0) on logarithmic axes, side by side."""
    for index, (name, known) in enumerate(values.items(), start=1):
        axes = figure.add_subplot(1, len(values), index)
        low, high, median = known.min() / 1.05, known.max() * 1.05, float(np.median(known))
        axes.hist(known, bins=np.geomspace(low, high, _BINS + 1), color=_BAND, edgecolor=_ACCENT, linewidth=0.7)
        axes.axvline(median, color=_INK, lw=1, ls="--")
        axes.set_title(f"median {median:.3g} {name.rpartition(', ')[2]} (dashed)", color=_GREY)
        axes.set(xscale="log", xlabel=name, ylabel="particles")
        plain_log_ticks(axes.xaxis, low, high)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="x", visible=False)
    return f"Histograms of the particles' {' and '.join(values)}"


def comparison_chart(figure: Figure, comparison: Comparison) -> str:
    """Predicted over weighed grams, one mark per batch and class."""
    rows = comparison.per_batch[comparison.per_batch["predicted_g"] > 0]
    grams = rows[["weighed_g", "predicted_g"]].to_numpy(float)
    ends = np.array([grams.min() / 1.3, grams.max() * 1.3] if len(grams) else [0.1, 10])
    axes = figure.add_subplot()
    axes.plot(ends, ends, color=_INK, lw=0.8, label="equal")
    axes.fill_between(ends, 0.9 * ends, 1.1 * ends, color=_NEAR, label="± 10 %")
    looks = zip(cycle(_SHADES), cycle(_MARKERS), strict=True)
    for (name, part), (color, marker) in zip(rows.groupby("class", sort=True), looks, strict=False):
        axes.plot(part["weighed_g"], part["predicted_g"], marker, color=color, mfc="none", ms=5, label=name)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="weighed, g", ylabel="predicted, g")
    for axis in (axes.xaxis, axes.yaxis):
        plain_log_ticks(axis, *ends)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return f"Predicted over weighed grams of {len(rows)} pairs of batch and class"


def _telling(sieves: pd.DataFrame, gradings: Sequence[Grading]) -> pd.DataFrame:
    """Sieves between the largest that nothing passes and the smallest that everything passes."""
    passing = np.array([grading.sieves["passing"] for grading in gradings])
    nothing, everything = (passing <= 0).all(axis=0).sum(), (passing >= 1).all(axis=0).sum()
    first, last = max(0, nothing - 1), len(sieves) - max(0, everything - 1)
    return sieves.iloc[first : max(last, first + 1)]


def _sieve_axis(axes: Axes, openings: np.ndarray, sizes: Sequence[float]) -> None:
    """x: logarithmic with a tick at every sieve; y: 0 to 100."""
    low, high = min([*openings, *sizes]), max([*openings, *sizes])
    axes.set(xscale="log", xlim=(low / 1.15, high * 1.15), ylim=(0, 103), xlabel="sieve, mm")
    _fixed_ticks(axes.xaxis, openings)
    # Neighbours such as 12.5 and 14 would run into each other
    crowded = len(openings) > 1 and np.diff(np.log(openings)).min() / np.log(high / low * 1.32) < 0.045
    axes.tick_params(axis="x", rotation=90 if crowded else 0)
    axes.set_yticks(range(0, 101, 10))


def plain_log_ticks(axis: Axis, low: float, high: float) -> None:
    """At least four ticks where the range allows it, written as plain numbers."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in _TICK_STEPS:
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= 4:
            break
    _fixed_ticks(axis, ticks)


def _fixed_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)
