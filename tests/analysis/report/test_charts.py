"""The charts of a report: what is drawn is what the tables say, and patterns and markers tell it without colour."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ramses_d2.analysis.report import charts
from ramses_d2.analysis.report.build import Report


@pytest.fixture
def report(made: tuple[Path, Report]) -> Report:
    return made[1]


def draw(chart: Callable[..., str], *values: Any) -> Axes:
    """The axes of a chart before they become SVG."""
    figure = Figure()
    chart(figure, *values)
    return figure.axes[0] if len(figure.axes) == 1 else figure.axes


def test_bars_and_their_intervals(report: Report) -> None:
    axes, table = draw(charts.composition_chart, report.composition), report.composition.constituents.iloc[:6]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(list(100 * table["fraction"]))
    ends = [segment[:, 0] for segment in axes.collections[0].get_segments()]
    np.testing.assert_allclose(ends, 100 * table[["low", "high"]].to_numpy(float), atol=1e-9)
    assert len({bar.get_hatch() for bar in axes.patches}) == 6
    assert [label.get_text() for label in axes.get_yticklabels()] == list(table["constituent"])


def test_curve_passes_through_the_sieves(report: Report) -> None:
    axes = draw(charts.grading_chart, report.grading, report.band)
    lines = {line.get_label(): line for line in axes.lines}
    sizes, passing = lines["particles"].get_data()
    openings, at_sieves = lines["sieves"].get_data()
    np.testing.assert_allclose(at_sieves, 100 * report.grading.sieves.set_index("sieve_mm")["passing"][openings])
    assert passing[-1] == pytest.approx(100) and lines["particles"].get_drawstyle() == "steps-post"
    steps = [passing[sizes <= opening * (1 + 1e-9)].max(initial=0) for opening in openings]
    np.testing.assert_allclose(steps, at_sieves)
    assert axes.get_xscale() == "log"
    assert [line.get_data()[0][0] for line in axes.lines[2:]] == list(report.grading.sizes["value"][[0, 2, 4]])
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() >= 0 and band[:, 1].max() <= 100 + 1e-9
    # The band goes on beyond the sizes that were seen, as wide as the table says of the sieves there
    assert (band[:, 0].min(), band[:, 0].max()) == pytest.approx(axes.get_xlim())
    for row, side in ((0, band[:, 0].min()), (-1, band[:, 0].max())):
        at_side = band[np.isclose(band[:, 0], side), 1]
        expected = 100 * report.grading.sieves[["low", "high"]].iloc[row]
        assert (at_side.min(), at_side.max()) == pytest.approx(tuple(expected)) and np.ptp(at_side) > 1


def test_constituents_differ_without_colour(report: Report) -> None:
    axes = draw(charts.group_chart, report.gradings)
    assert [line.get_label() for line in axes.lines] == list(report.gradings)
    assert len({line.get_marker() for line in axes.lines}) == len({line.get_linestyle() for line in axes.lines}) == 4
    for line, grading in zip(axes.lines, report.gradings.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata()[-1], 100 * grading.sieves["passing"].iloc[-1])


def test_histograms_count_every_particle(report: Report) -> None:
    masses = report.run.table["mass"].dropna().to_numpy()
    both = draw(charts.histograms, {"mass, g": masses, "size, mm": np.array([5.0])})
    assert [sum(bar.get_height() for bar in axes.patches) for axes in both] == [len(masses), 1]


def test_comparison_points(report: Report) -> None:
    axes = draw(charts.comparison_chart, report.comparison)
    points = {line.get_label(): line.get_data() for line in axes.lines if line.get_label() != "equal"}
    for row in report.comparison.per_batch.itertuples():
        weighed, predicted = points[row[2]]
        assert (weighed, predicted) == ([row.weighed_g], [row.predicted_g])
    assert len({line.get_marker() for line in axes.lines}) == 3


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.04, 3, ["0.1", "1"]), (5.5, 13, ["6", "7", "8", "9", "10", "12"]), (0.9, 110, ["1", "10", "100"])],
)
def test_ticks_are_plain_numbers(low: float, high: float, ticks: list[str]) -> None:
    axes = Figure().add_subplot()
    axes.set(xscale="log", xlim=(low, high))
    charts.plain_log_ticks(axes.xaxis, low, high)
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert set(ticks) <= set(shown) and 4 <= len(shown) <= 12


def test_patterns_and_text_reach_the_page(report: Report) -> None:
    """Labels are text, which can be searched and read aloud, and a dollar in a class is a dollar."""
    svg = charts.to_svg(3, charts.composition_chart, report.composition)
    patterns = re.findall(r"<pattern.*?</pattern>", svg, re.DOTALL)
    assert len({re.sub(r'(?:id|fill|style)="[^"]*"', "", pattern) for pattern in patterns}) == 6
    assert all(f">{name}</text>" in svg for name in ("Rc", "Ru", "Rb", "Ra", "Rg", "X"))
    assert f">{100 * report.composition.constituents['fraction'][0]:.1f} %</text>" in svg
    rows = report.comparison.per_batch.replace({"class": {"Rc": "R$c$"}})
    assert ">R$c$</text>" in charts.to_svg(3, charts.comparison_chart, replace(report.comparison, per_batch=rows))
