"""The tables of a report: unrounded, each a CSV file; and the texts of their cells on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ramses_d2.analysis.report.build import Report
from ramses_d2.analysis.sample import cut_by_edge

# All that a report may have, and what earlier versions wrote
TABLE_NAMES = (
    *("composition", "sums", "classes", "left_out", "categories", "category_limits", "grading", "tails", "sizes"),
    *("passing_by_constituent", "comparison", "batches", "batch_classes", "coins", "factors", "pictures"),
    *("grading_by_class", "sizes_by_class"),
)
NOTHING = "–"
# Fraction -> the same in %; deviation and the others likewise
_PERCENT = {"fraction": "percent", "particle_share": "particle_percent", "area_share": "area_percent"}
_PERCENT |= {
    name: f"{name}_percent" for name in ("low", "high", "passing", "retained", "certainty", "error", "deviation")
}
_COIN_COLUMNS = ["picture", "coins", "usable", "given", "from_area", "from_axes", "deviation", "mass_ratio", "message"]


def report_tables(report: Report) -> dict[str, pd.DataFrame]:
    """All tables that the report has values for, by name."""
    composition, grading, comparison = report.composition, report.grading, report.comparison
    found = {"composition": percent(composition.constituents), "sums": percent(composition.sums)}
    found |= {name: percent(part) for name in ("classes", "left_out") if len(part := getattr(composition, name))}
    limits, summary = percent(report.categories.table), percent(report.categories.summary)
    certainties = _certainties(limits)
    found["categories"] = summary.assign(certainties=[certainties.get(group, "") for group in summary["group"]])
    found["category_limits"] = limits
    if grading is not None:
        found["grading"], found["tails"] = percent(grading.sieves), percent(grading.tails)
        found["sizes"] = grading.sizes[["name", "unit", "value", "low", "high"]].copy()
        found["passing_by_constituent"] = grading.sieves[["sieve_mm"]].copy()
        for name, group in report.gradings.items():
            found["sizes"][name] = group.sizes["value"]
            found["passing_by_constituent"][name] = 100 * group.sieves["passing"]
    if comparison is not None:
        found["comparison"] = classes = percent(comparison.classes)
        found["batches"], found["batch_classes"] = percent(comparison.totals), percent(comparison.per_batch)
        if report.comparison_uncorrected is not None:
            before = report.comparison_uncorrected.classes.set_index("class")
            classes["uncorrected_g"] = classes["class"].map(before["predicted_g"])
            classes["uncorrected_error_percent"] = 100 * classes["class"].map(before["error"])
    if report.coins:
        coins = pd.DataFrame([vars(coin) for coin in report.coins]).rename(columns={"image": "picture"})
        found["coins"] = percent(coins[_COIN_COLUMNS])
    if report.factors is not None:
        factors = pd.DataFrame([{"class": name, **vars(entry)} for name, entry in report.factors.classes.items()])
        count_of = report.run.table["class"].value_counts()
        found["factors"] = factors.assign(corrected=factors["class"].map(count_of).fillna(0).astype(int))
    found["pictures"] = _images(report)
    return found


def percent(table: pd.DataFrame) -> pd.DataFrame:
    """A copy in which fractions became percentages, under a name that says so."""
    names = {name: renamed for name, renamed in _PERCENT.items() if name in table}
    return table.assign(**{name: 100 * table[name].astype(float) for name in names}).rename(columns=names)


def _certainties(limits: pd.DataFrame) -> dict[str, str]:
    """Group -> its categories with a limit, each with its certainty, parted by "; "."""
    limits = limits[limits["certainty_percent"].notna() & ~limits["category"].str.endswith(("NR", "Declared"))]
    texts = [
        f"{category} {certainty:.{0 if certainty in (0, 100) else 1}f} %"
        for category, certainty in zip(limits["category"], limits["certainty_percent"], strict=True)
    ]
    return limits.assign(text=texts).groupby("group")["text"].agg("; ".join).to_dict()


def _images(report: Report) -> pd.DataFrame:
    """One row per image, also without particles; images of two folders with one name share their particles."""
    table, edge = report.table, cut_by_edge(report.table)
    rows = table.assign(cut=False if edge is None else edge, unknown=table["mass"].isna()).groupby("baseimg")
    sums = rows.agg(
        particles=("label", "size"),
        mass_g=("mass", lambda grams: grams.sum(min_count=1)),
        edge_cut=("cut", "sum"),
        unknown_mass=("unknown", "sum"),
    )
    scale_objects = report.run.table.drop(table.index).groupby("baseimg").size()
    sums = sums.join(scale_objects.rename("scale_objects"), how="outer")
    rows = [(image.file_name, image.camera, image.resolution) for image in report.run.images]
    data = pd.DataFrame(rows, columns=["picture", "camera", "px_per_mm"]).join(sums, on="picture")
    data.loc[~data["picture"].isin(sums.index), "mass_g"] = 0  # it shows nothing: 0 g, and not unknown ones
    counts = sums.columns.drop("mass_g")
    data[counts] = data[counts].fillna(0).astype("Int64")
    return data if edge is not None else data.assign(edge_cut=pd.array([pd.NA] * len(data), "Int64"))


def page_table(
    data: pd.DataFrame, columns: Sequence[tuple[str, str, str]], total: Mapping[str, Any]
) -> list[list[tuple[str, bool]]]:
    """Headings, rows and (with ``total``) the last row of a table on the page; each cell with whether it is a number.

    A column is its key in ``data`` (two, parted by a space, are the ends of a range), its heading and its form: "text",
    "list" (parts between "; ") or a number's format, in which "?" are as many decimals as give the largest value four
    digits. Columns that ``data`` lacks, and those of empty text, are left out.
    """
    shown = []
    for key, heading, form in columns:
        keys, is_number = key.split(), form not in ("text", "list")
        if keys[0] not in data or not (is_number or any(map(str, data[keys[0]]))):
            continue
        if "?" in form:
            largest = pd.to_numeric(data[keys].stack(), errors="coerce").abs().max()
            places = next((n for n, limit in enumerate((1000, 100, 10)) if largest >= limit), 3 if largest > 0 else 0)
            form = form.replace("?", str(places))
        # A unit stays with its name
        texts = [heading.replace(", ", ",\u00a0")]
        texts += [_range([cell_text(value, form) for value in ends]) for ends in data[keys].to_numpy(object)]
        if total:
            texts.append(cell_text(total[key], form) if key in total else "")
        shown.append([(text, is_number) for text in texts])
    return [list(row) for row in zip(*shown, strict=True)]


def _range(ends: list[str]) -> str:
    return NOTHING if set(ends) == {NOTHING} else f"\u00a0{NOTHING}\u00a0".join(ends)


def cell_text(value: Any, form: str) -> str:
    """The text of a value, see :func:`page_table`; unknown ones are a dash."""
    if pd.isna(value):
        return NOTHING
    if form == "text":
        return str(value)
    if form == "list":  # lines break between the parts only
        return " · ".join(str(value).replace(" ", "\u00a0").replace("-", "\u2011").split(";\u00a0"))
    if value == math.inf:  # an interval without an upper end
        return "\u221e"
    text = format(value, form)
    if not any(digit in text for digit in "123456789"):  # no sign before a zero
        return text.lstrip("+-")
    # A minus sign as long as a plus; thousands apart by a space that does not break
    return text.replace(",", "\u202f").replace("-", "\u2212")
