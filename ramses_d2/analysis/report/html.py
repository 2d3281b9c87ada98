"""The page of a report: one HTML file that holds its charts and images and asks nothing of any network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jinja2 import Environment, StrictUndefined

from ramses_d2.analysis.report.build import Report
from ramses_d2.analysis.report.figures import (
    comparison_chart,
    composition_chart,
    grading_chart,
    group_chart,
    histograms,
)
from ramses_d2.analysis.report.gallery import GalleryPart
from ramses_d2.analysis.report.style import CSS
from ramses_d2.analysis.report.table import ReportTable
from ramses_d2.analysis.report.template import TEMPLATE
from ramses_d2.analysis.report.text import (
    CODE_FACTS,
    comparison_notes,
    comparison_text,
    composition_notes,
    factors_text,
    grading_caption,
    head_facts,
    image_facts,
    interval_note,
    key_figures,
    method_notes,
    provenance,
)
from ramses_d2.analysis.report.words import sentence

_CONTENTS = [
    ("composition", "Composition"),
    ("categories", "Categories"),
    ("grading", "Grading"),
    ("particles", "Particles"),
    ("comparison", "Comparison with the balance"),
    ("scale", "Resolution and corrections"),
    ("pictures", "Pictures"),
    ("made", "How this report was made"),
]


def report_page(
    report: Report, tables: Mapping[str, ReportTable], gallery: Sequence[GalleryPart], file_names: Mapping[str, str]
) -> str:
    """The page.

    Args:
        report: all figures.
        tables: of :func:`~.report_tables.report_tables`.
        gallery: of :func:`~.gallery.make_gallery`.
        file_names: name of the CSV file of each table.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE).render(
        css=CSS,
        title=report.options.title,
        head=head_facts(report),
        key=key_figures(report),
        warnings=report.warnings,
        has_particles=len(report.run.table) > 0,
        contents=_CONTENTS,
        tables=tables,
        file_names=file_names,
        charts=_charts(report),
        gallery=gallery,
        interval_note=interval_note(report),
        composition_notes=[sentence(note) for note in composition_notes(report)],
        no_grading=report.no_grading,
        grading_caption=grading_caption(report),
        grading_notes=[sentence(note) for note in report.grading.notes] if report.grading else [],
        no_comparison=report.no_comparison,
        comparison_text=comparison_text(report),
        comparison_notes=comparison_notes(report),
        no_coins=report.no_coins,
        factors_text=factors_text(report),
        image_facts=image_facts(report),
        method=method_notes(report),
        provenance=provenance(report),
        code_facts=CODE_FACTS,
    )
    return page.strip() + "\n"


def _charts(report: Report) -> dict[str, str]:
    charts = {}
    table = report.table
    if report.composition.mass_g > 0:
        charts["composition"] = composition_chart(report.composition)
    if report.grading:
        charts["grading"] = grading_chart(report.grading, report.band)
        if len(report.groups) > 1:
            charts["groups"] = group_chart(report.groups)
    measures = {"mass of a particle, g": table["mass"].to_numpy(float)}
    if "feret_min_mm" in table:
        measures["minimum Feret diameter, mm"] = table["feret_min_mm"].to_numpy(float)
    elif "equivalent_diameter_mm" in table:
        measures["equivalent diameter, mm"] = table["equivalent_diameter_mm"].to_numpy(float)
    known = {name: values[np.isfinite(values) & (values > 0)] for name, values in measures.items()}
    known = {name: values for name, values in known.items() if len(values)}
    if known:
        charts["histograms"] = histograms(known)
    if report.comparison is not None:
        charts["comparison"] = comparison_chart(report.comparison)
    return charts
