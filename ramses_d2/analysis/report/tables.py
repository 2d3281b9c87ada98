"""The tables of a report: each is a CSV file and, where it is short enough, part of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ramses_d2.analysis.grading import Grading
from ramses_d2.analysis.report.build import Report
from ramses_d2.analysis.report.table import ReportTable, count, items, number, percent, plain, span, text
from ramses_d2.analysis.sample import cut_by_edge

# Every table that a report may have
TABLE_NAMES = (
    *("composition", "sums", "classes", "left_out", "categories", "category_limits", "grading", "tails", "sizes"),
    *("passing_by_constituent", "grading_by_class", "sizes_by_class", "comparison", "batches", "batch_classes"),
    *("coins", "factors", "pictures"),
)
# Longer tables are for the CSV file only
_LONGEST_ON_PAGE = 20
_SHARES = {"fraction": "percent", "low": "low_percent", "high": "high_percent"}


def report_tables(report: Report) -> dict[str, ReportTable]:
    """All tables that the report has figures for, by name."""
    makers = (_composition, _categories, _grading, _comparison, _scale, _sample)
    return {table.name: table for maker in makers for table in maker(report)}


def _interval_heading(report: Report) -> str:
    resampling = report.options.resampling
    return f"{100 * resampling.confidence:g}\u00a0% interval, %" if resampling else "interval, %"


def _composition(report: Report) -> Iterator[ReportTable]:
    composition, heading = report.composition, _interval_heading(report)
    figures = [
        number("mass_g", "mass, g"),
        number("percent", "share, %", 1),
        span("low_percent", "high_percent", heading, 1),
        count("particles", "particles"),
        text("remark", "remark"),
    ]
    total = {"mass_g": composition.mass_g, "particles": composition.particles}
    total |= {"percent": 100.0} if composition.mass_g > 0 else {}
    yield ReportTable(
        "composition",
        "Constituents after EN 933-11",
        percent(composition.constituents, **_SHARES),
        [text("constituent", "constituent"), text("description", "material"), *figures],
        {"constituent": "Total", **total},
    )
    yield ReportTable(
        "sums",
        "Sums that product standards limit",
        percent(composition.sums, **_SHARES),
        [text("constituent", "sum"), text("description", "constituents"), *figures],
    )
    if len(composition.classes):
        yield ReportTable(
            "classes",
            "Detailed classes",
            percent(composition.classes, **_SHARES),
            [text("class", "class"), text("constituent", "counts as"), *figures],
            {"class": "Total", **total},
        )
    if len(composition.left_out):
        shares = {"particle_share": "particle_percent", "area_share": "area_percent"}
        yield ReportTable(
            "left_out",
            "Particles in no share of the mass",
            percent(composition.left_out, **shares),
            [
                text("reason", "reason"),
                text("class", "class"),
                count("particles", "particles"),
                number("particle_percent", "share of the number, %", 1),
                number("area_percent", "share of the area, %", 1),
                number("mass_g", "mass, g"),
            ],
        )


def _categories(report: Report) -> Iterator[ReportTable]:
    categories = report.categories
    limits = percent(categories.table, certainty="certainty_percent")
    sure = {
        group: "; ".join(
            f"{category} {certainty:.{0 if certainty in (0, 100) else 1}f} %"
            for category, certainty in zip(rows["category"], rows["certainty_percent"], strict=True)
            if not category.endswith(("NR", "Declared"))
        )
        for group, rows in limits[limits["certainty_percent"].notna()].groupby("group")
    }
    summary = percent(categories.summary, fraction="percent", certainty="certainty_percent")
    summary["certainties"] = [sure.get(group, "") for group in summary["group"]]
    yield ReportTable(
        "categories",
        f"Categories of {categories.standard}",
        summary,
        [
            text("group", "group"),
            number("percent", "share, %", 1),
            text("category", "by the estimate"),
            number("certainty_percent", "certainty, %", 1),
            text("certain_category", f"{100 * categories.certain:g}\u00a0% certain"),
            items("certainties", "certainty of each category"),
            text("remark", "remark"),
        ],
    )
    yield ReportTable("category_limits", "All categories with their limits", limits, [], on_page=False)


def _grading(report: Report) -> Iterator[ReportTable]:
    grading = report.grading
    if grading is None:
        return
    sieves = percent(
        grading.sieves, passing="passing_percent", low="low_percent", high="high_percent", retained="retained_percent"
    )
    yield ReportTable(
        "grading",
        "Sieves",
        sieves,
        [
            plain("sieve_mm", "sieve, mm"),
            number("passing_percent", "passing, %", 1),
            span("low_percent", "high_percent", _interval_heading(report), 1),
            number("retained_percent", "retained, %", 1),
            number("retained_amount", f"retained {_amount_heading(grading)}"),
            count("retained_particles", "retained, particles"),
        ],
    )
    yield ReportTable(
        "tails",
        "Ends of the curve",
        percent(grading.tails, fraction="percent", low="low_percent", high="high_percent"),
        [
            text("name", "part"),
            plain("limit_mm", "limit, mm"),
            number("percent", "share, %", 1),
            span("low_percent", "high_percent", _interval_heading(report), 1),
            number("amount", _amount_heading(grading)),
            count("particles", "particles"),
            text("remark", "remark"),
        ],
    )
    sizes = grading.sizes[["name", "unit", "value", "low", "high"]].copy()
    passing = pd.DataFrame({"sieve_mm": grading.sieves["sieve_mm"]})
    for name, group in report.groups.items():
        sizes[name] = group.sizes["value"]
        passing[name] = 100 * group.sieves["passing"]
    yield ReportTable(
        "sizes",
        "D values, in mm, and coefficients of uniformity and curvature",
        sizes,
        [
            text("name", "figure"),
            number("value", "all", 2),
            span("low", "high", _interval_heading(report).removesuffix(", %"), 2),
            *(number(name, name, 2) for name in report.groups),
        ],
    )
    yield ReportTable(
        "passing_by_constituent",
        "Passing by constituent, each as a share of itself",
        passing,
        [
            plain("sieve_mm", "sieve, mm"),
            *(number(name, f"{name}, %", 1) for name in report.groups),
        ],
    )
    per_class = [group.sieves.assign(**{"class": name}) for name, group in report.class_groups.items()]
    columns = ["class", "sieve_mm", "passing", "retained", "retained_amount", "retained_particles"]
    yield ReportTable(
        "grading_by_class",
        "Sieves by detailed class, each as a share of itself",
        percent(pd.concat(per_class)[columns], passing="passing_percent", retained="retained_percent"),
        [],
        on_page=False,
    )
    sizes_of = [
        {"class": name, "particles": group.particles, "amount": group.amount}
        | dict(zip(group.sizes["name"], group.sizes["value"], strict=True))
        for name, group in report.class_groups.items()
    ]
    yield ReportTable(
        "sizes_by_class",
        "D values by detailed class, in mm, and coefficients of uniformity and curvature",
        pd.DataFrame(sizes_of),
        [],
        on_page=False,
    )


def _amount_heading(grading: Grading) -> str:
    return {"g": "mass, g", "mm2": "area, mm²"}.get(grading.unit, "number")


def _comparison(report: Report) -> Iterator[ReportTable]:
    comparison = report.comparison
    if comparison is None:
        return
    grams = [
        number("weighed_g", "weighed, g"),
        number("predicted_g", "predicted, g"),
        number("error_g", "error, g", sign=True),
        number("error_percent", "error, %", 1, sign=True),
        count("particles", "particles"),
    ]
    classes = percent(comparison.classes, error="error_percent")
    totals = percent(comparison.totals, error="error_percent")
    total = {
        "weighed_g": comparison.weighed_g,
        "predicted_g": comparison.predicted_g,
        "error_g": comparison.predicted_g - comparison.weighed_g,
        "error_percent": 100 * comparison.error,
        "particles": int(comparison.classes["particles"].sum()),
    }
    as_predicted = []
    if report.uncorrected is not None:
        before = report.uncorrected.classes.set_index("class")
        classes["uncorrected_g"] = classes["class"].map(before["predicted_g"])
        classes["uncorrected_error_percent"] = 100 * classes["class"].map(before["error"])
        as_predicted = [number("uncorrected_error_percent", "error without factors, %", 1, sign=True)]
        total["uncorrected_error_percent"] = 100 * report.uncorrected.error
    yield ReportTable(
        "comparison",
        "Predicted against weighed grams per class",
        classes,
        [text("class", "class"), *grams, *as_predicted, count("batches", "batches")],
        {"class": "Total", **total, "batches": int(len(totals))},
    )
    yield ReportTable(
        "batches",
        "Predicted against weighed grams per batch",
        totals,
        [count("batch", "batch"), count("pictures", "pictures"), *grams],
        on_page=len(totals) <= _LONGEST_ON_PAGE,
    )
    per_batch = percent(comparison.per_batch, error="error_percent")
    yield ReportTable("batch_classes", "The same per batch and class", per_batch, [], on_page=False)


def _scale(report: Report) -> Iterator[ReportTable]:
    if report.coins:
        names = ("picture", "coins", "usable", "given", "from_area", "from_axes", "deviation", "mass_ratio", "message")
        data = pd.DataFrame([{name: getattr(coin, name) for name in names} for coin in report.coins])
        yield ReportTable(
            "coins",
            "Resolution from coins",
            percent(data, deviation="deviation_percent"),
            [
                text("picture", "picture"),
                count("coins", "coins"),
                count("usable", "usable"),
                number("given", "given, px/mm", 2),
                number("from_area", "from the coins, px/mm", 2),
                number("deviation_percent", "difference, %", 1, sign=True),
                number("mass_ratio", "predicted / true mass", 2),
            ],
            on_page=len(data) <= _LONGEST_ON_PAGE,
        )
    if report.factors is not None:
        count_of = report.run.table["class"].value_counts()
        rows = [
            {"class": name, **entry.__dict__, "corrected": int(count_of.get(name, 0))}
            for name, entry in report.factors.classes.items()
        ]
        yield ReportTable(
            "factors",
            "Correction factors that were applied",
            pd.DataFrame(rows),
            [
                text("class", "class"),
                number("factor", "factor", 3),
                span("low", "high", "interval", 3),
                count("batches", "batches"),
                number("weighed_g", "weighed, g"),
                number("predicted_g", "predicted, g"),
                count("corrected", "particles in this run"),
            ],
        )


def _sample(report: Report) -> Iterator[ReportTable]:
    table = report.table
    edge = cut_by_edge(table)
    per_image = table.assign(cut=False if edge is None else edge, unknown=table["mass"].isna()).groupby("baseimg")
    sums = per_image.agg(
        particles=("label", "size"),
        mass_g=("mass", lambda grams: grams.sum(min_count=1)),
        edge_cut=("cut", "sum"),
        unknown_mass=("unknown", "sum"),
    )
    scale_objects = report.run.table.drop(table.index).groupby("baseimg").size()
    sums = sums.join(scale_objects.rename("scale_objects"), how="outer")
    rows = [
        {"picture": image.file_name, "camera": image.camera, "px_per_mm": image.resolution}
        for image in report.run.images
    ]
    data = pd.DataFrame(rows, columns=["picture", "camera", "px_per_mm"])
    for name in sums:
        # Images of two folders with one name share their rows
        data[name] = data["picture"].map(sums[name])
        without = ~data["picture"].isin(sums.index)  # of known images, only grams can be unknown
        data[name] = data[name].where(~without, 0) if name == "mass_g" else data[name].fillna(0).astype("Int64")
    if edge is None:
        data["edge_cut"] = pd.array([pd.NA] * len(data), "Int64")
    yield ReportTable(
        "pictures",
        "Pictures",
        data,
        [
            text("picture", "picture"),
            number("px_per_mm", "px/mm", 2),
            count("particles", "particles"),
            number("mass_g", "mass, g"),
            count("edge_cut", "cut by the edge"),
            count("unknown_mass", "of unknown mass"),
            *([count("scale_objects", "coins")] if data["scale_objects"].any() else []),
        ],
        on_page=len(data) <= _LONGEST_ON_PAGE,
    )
