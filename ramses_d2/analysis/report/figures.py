"""The charts of a report, each readable in black and white: patterns, markers and labels say what colours say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from ramses_d2.analysis.calibration import Comparison
from ramses_d2.analysis.composition import Composition
from ramses_d2.analysis.grading import Grading
from ramses_d2.analysis.report.svg import GREY, INK, chart_style, new_figure, to_svg
from ramses_d2.analysis.sample import FLOATING

_ACCENT, _BAND, _NEAR = "#1f4e79", "#c6d5e3", "#eaeef2"
# constituent -> fill and pattern
_FILLS = {
    "Rc": ("#dbe2e8", "////"),
    "Ru": ("#efe6cf", "...."),
    "Rb": ("#edc9b5", "\\\\\\\\"),
    "Ra": ("#a9b0b7", "xxxx"),
    "Rg": ("#cfe5d3", "||||"),
    "X": ("#ddd2e6", "++++"),
}
_MARKERS = "osD^vP*X<>"
_DASHES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (1, 1)))
_SHADES = ("#1f4e79", "#a0522d", "#3b7a57", "#5b4a8a", "#7a6a00", "#8b1e3f")
_BINS = 24
_TICK_STEPS = ((1,), (1, 2, 5), (1, 2, 3, 4, 6, 8), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))


def composition_chart(composition: Composition) -> str:
    """Bars of mass fractions with their intervals, as SVG."""
    table = composition.constituents
    table = table[table["constituent"] != FLOATING].reset_index(drop=True)
    share, low, high = (100 * table[name].astype(float) for name in ("fraction", "low", "high"))
    with chart_style():
        figure = new_figure(0.33 * len(table) + 0.6)
        axes = figure.add_subplot()
        for row, name in enumerate(table["constituent"]):
            fill, pattern = _FILLS[name]
            axes.barh(row, share[row], height=0.62, color=fill, edgecolor=INK, linewidth=0.7, hatch=pattern)
        known = low.notna()
        if known.any():
            ends = np.abs([(share - low)[known], (high - share)[known]])
            axes.errorbar(share[known], np.flatnonzero(known), xerr=ends, fmt="none", ecolor=INK, capsize=4, lw=1.3)
        right = np.nanmax([share, high])
        for row in range(len(table)):
            end = np.nanmax([share[row], high[row]])
            axes.annotate(
                f"{share[row]:.1f} %", (end, row), xytext=(6, 0), textcoords="offset points", va="center", color=INK
            )
        axes.set_yticks(range(len(table)), [f"{name}" for name in table["constituent"]], fontweight="bold")
        axes.set_xlim(0, max(1.0, 1.12 * right))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("share of the mass, %")
        listed = ", ".join(f"{name} {value:.1f} %" for name, value in zip(table["constituent"], share, strict=True))
        return to_svg(figure, "composition-chart", f"Bars of the share of the mass: {listed}")


def grading_chart(grading: Grading, band: pd.DataFrame) -> str:
    """Cumulative passing over sieve size on a logarithmic axis, with its intervals, as SVG.

    Args:
        grading: of everything.
        band: sieve_mm, low, high of openings that are close enough to draw a band; may be empty.
    """
    curve = grading.curve
    sieves = _telling(grading.sieves, [grading])
    openings = sieves["sieve_mm"].to_numpy(float)
    with chart_style():
        figure = new_figure(3.5)
        axes = figure.add_subplot()
        _sieve_axis(axes, openings, [*curve["size_mm"]])
        if len(band):
            # Up to the sides of the chart: finer and coarser particles than those seen may be there
            left, right = axes.get_xlim()
            at = [left, *band["sieve_mm"], right]
            ends = [100 * np.pad(band[name].to_numpy(float), 1, mode="edge") for name in ("low", "high")]
            label = f"{100 * grading.resampling.confidence:g} % interval" if grading.resampling else "interval"
            axes.fill_between(at, *ends, color=_BAND, lw=0, label=label)
        # Steps, as passing is counted: the sieves lie on them
        axes.plot(
            curve["size_mm"], 100 * curve["passing"], color=_ACCENT, lw=1, drawstyle="steps-post", label="particles"
        )
        axes.plot(openings, 100 * sieves["passing"], "o", color=_ACCENT, mfc="white", mew=1.2, ms=5, label="sieves")
        _mark_sizes(axes, grading)
        axes.set_ylabel(f"passing, % of the {_measure(grading.weight)}")
        axes.legend(loc="upper left")
        d50 = grading.sizes.set_index("name").loc["D50", "value"]
        return to_svg(figure, "grading-chart", f"Grading curve, D50 = {d50:.3g} mm; the table holds its figures")


def group_chart(groups: dict[str, Grading]) -> str:
    """Gradings of several constituents, each as a share of itself, as SVG."""
    gradings = list(groups.values())
    openings = _telling(gradings[0].sieves, gradings)["sieve_mm"].to_numpy(float)
    with chart_style():
        figure = new_figure(2.9)
        axes = figure.add_subplot()
        _sieve_axis(axes, openings, [])
        for index, (name, grading) in enumerate(groups.items()):
            axes.plot(
                openings,
                100 * grading.sieves.set_index("sieve_mm")["passing"][openings],
                color=_SHADES[index % len(_SHADES)],
                ls=_DASHES[index % len(_DASHES)],
                marker=_MARKERS[index % len(_MARKERS)],
                mfc="white",
                ms=4.5,
                lw=1.2,
                label=name,
            )
        axes.set_ylabel("passing, % of itself")
        axes.legend(loc="upper left", ncols=2)
        return to_svg(figure, "group-chart", f"Grading curves of {', '.join(groups)}; the table holds their figures")


def histograms(values: dict[str, np.ndarray]) -> str:
    """Numbers of particles over one or two measures on logarithmic axes, side by side, as SVG.

    Args:
        values: name of the axis with its unit -> (n,) values above 0.
    """
    with chart_style():
        figure = new_figure(2.3)
        for index, (name, known) in enumerate(values.items()):
            axes = figure.add_subplot(1, len(values), index + 1)
            low, high = known.min(), known.max()
            edges = np.geomspace(low / 1.05, high * 1.05, _BINS + 1)
            axes.hist(known, bins=edges, color=_BAND, edgecolor=_ACCENT, linewidth=0.7)
            median = float(np.median(known))
            axes.axvline(median, color=INK, lw=1, ls="--")
            axes.set_title(f"median {median:.3g} {name.rpartition(', ')[2]} (dashed)", color=GREY)
            axes.set_xscale("log")
            _plain_log_ticks(axes, low / 1.05, high * 1.05)
            axes.set_xlabel(name)
            axes.set_ylabel("particles")
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.grid(axis="x", visible=False)
        return to_svg(figure, "histograms", f"Histograms of the particles' {' and '.join(values)}")


def comparison_chart(comparison: Comparison) -> str:
    """Predicted over weighed grams, one mark per batch and class, as SVG."""
    rows = comparison.per_batch[comparison.per_batch["predicted_g"] > 0]
    with chart_style():
        figure = new_figure(3.4)
        axes = figure.add_subplot()
        grams = rows[["weighed_g", "predicted_g"]].to_numpy(float)
        low, high = (grams.min() / 1.3, grams.max() * 1.3) if len(grams) else (0.1, 10)
        axes.plot([low, high], [low, high], color=INK, lw=0.8, label="equal")
        axes.fill_between(
            [low, high], [0.9 * low, 0.9 * high], [1.1 * low, 1.1 * high], color="#eaeef2", label="± 10 %"
        )
        for index, (name, part) in enumerate(rows.groupby("class", sort=True)):
            axes.plot(
                part["weighed_g"],
                part["predicted_g"],
                _MARKERS[index % len(_MARKERS)],
                color=_SHADES[index % len(_SHADES)],
                mfc="none",
                ms=5,
                label=name,
            )
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        _plain_log_ticks(axes, low, high)
        _plain_log_ticks(axes, low, high, "y")
        axes.set_xlabel("weighed, g")
        axes.set_ylabel("predicted, g")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        title = f"Predicted over weighed grams of {len(rows)} pairs of batch and class"
        return to_svg(figure, "comparison-chart", title)


def _telling(sieves: pd.DataFrame, gradings: Sequence[Grading]) -> pd.DataFrame:
    """Sieves between the largest that nothing passes and the smallest that everything passes."""
    passing = np.array([grading.sieves["passing"] for grading in gradings])
    nothing, everything = (passing <= 0).all(axis=0), (passing >= 1).all(axis=0)
    first = max(0, int(nothing.sum()) - 1)
    last = len(sieves) - max(0, int(everything.sum()) - 1)
    return sieves.iloc[first : max(last, first + 1)]


def _measure(weight: str) -> str:
    return {"count": "number"}.get(weight, weight)


def _sieve_axis(axes: Axes, openings: np.ndarray, sizes: Sequence[float]) -> None:
    """x: logarithmic with a tick at every sieve; y: 0 to 100."""
    low, high = (function([*openings, *sizes]) for function in (min, max))
    axes.set(xscale="log", xlim=(low / 1.15, high * 1.15), ylim=(0, 103))
    axes.xaxis.set_major_locator(FixedLocator(openings))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{opening:g}" for opening in openings]))
    axes.xaxis.set_minor_locator(NullLocator())
    # Neighbours such as 12.5 and 14 would run into each other
    crowded = len(openings) > 1 and np.diff(np.log(openings)).min() / np.log(high / low * 1.32) < 0.045
    axes.tick_params(axis="x", rotation=90 if crowded else 0)
    axes.yaxis.set_major_locator(FixedLocator(range(0, 101, 10)))
    axes.set_xlabel("sieve, mm")


def _mark_sizes(axes: Axes, grading: Grading) -> None:
    """Where D10, D50 and D90 are."""
    sizes: pd.Series = grading.sizes.set_index("name")["value"]
    for name, level in (("D10", 10), ("D50", 50), ("D90", 90)):
        size = sizes[name]
        if not np.isfinite(size):
            continue
        axes.plot([size, size], [0, level], color=GREY, lw=0.7, ls=(0, (3, 2)))
        axes.annotate(
            f"{name} {size:.3g}",
            (size, level),
            xytext=(-5, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=INK,
        )


def _plain_log_ticks(axes: Axes, low: float, high: float, which: str = "x") -> None:
    """At least four ticks where the range allows it, written as plain numbers."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in _TICK_STEPS:
        ticks = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axis.set_minor_locator(NullLocator())
