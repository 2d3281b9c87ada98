"""From a matplotlib figure to SVG inside an HTML page: sharp on paper, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Inches: the text width of an A4 page
WIDTH = 7.1
INK, GREY, RULE = "#1b1f24", "#57606a", "#d0d7de"
_STYLE = {
    "font.family": "DejaVu Sans",  # what text is measured with; the page shows its own font
    "font.size": 8.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a class name is a $
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "ramses",
}
# No date, no program, and so no block of metadata
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@contextmanager
def chart_style() -> Iterator[None]:
    """Inside, figures get the look of the report; draw and save them there."""
    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(height: float) -> Figure:
    """A figure as wide as the page, ``height`` inches high."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def to_svg(figure: Figure, name: str, title: str) -> str:
    """An ``<svg>`` element that scales with its container.

    Args:
        figure: drawn within :func:`chart_style`.
        name: of the chart, unique on the page: it keeps its ids apart from those of other charts.
        title: what it shows, for those who cannot see it.
    """
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata=_NO_METADATA)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    head, body = svg.split(">", 1)
    # The size of the figure would be in points: the page decides
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    label = f'role="img" aria-labelledby="{name}-title"'
    return f'{head} {label}>\n<title id="{name}-title">{escape(title)}</title>{body}'.strip()
