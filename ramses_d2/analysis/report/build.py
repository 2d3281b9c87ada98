"""The report of a prediction run: what the instances say about the sample, and how sure that is.

:func:`build_report` computes everything once; tables, CSV files, JSON and the page are made of its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2 import __version__
from ramses_d2.analysis.calibration import (
    COIN_CLASS,
    COIN_DIAMETER_MM,
    COIN_MASS_G,
    CoinScale,
    Comparison,
    Factors,
    coin_scales,
    compare_batches,
)
from ramses_d2.analysis.composition import Categories, Composition, categorise, compose
from ramses_d2.analysis.grading import Grading, grade, grade_groups
from ramses_d2.analysis.intervals import Resampling
from ramses_d2.analysis.report.data import Run, WeighedBatches
from ramses_d2.analysis.report.warnings import find_warnings
from ramses_d2.analysis.sample import DEFAULT_MAP, SCALE, ConstituentMap, SieveSize, passes, sieve_series, take_sample
from ramses_d2.errors import RamsesError
from ramses_d2.files import json_values

_BAND_POINTS = 80
# The portion that EN 933-11 is about, in mm
_EN_RANGE = (4, 63)


@dataclass(frozen=True)
class ReportOptions:
    """What a user may say about a report.

    Attributes:
        title, sample, operator: for its head; "" = not shown.
        day: of the report; default today.
        command: how the report was made, "" = not shown.
        mapping, foreign: see :meth:`~.constituents.ConstituentMap.assign`.
        size_range: mm, only for the composition: (4, 63) in EN 933-11; None = all particles.
        sieves, size, weight: see :func:`~.grading.grade`.
        resampling: how intervals are made, None = none.
        coin_class, coin_diameter_mm, coin_mass_g: see :func:`~.coin_scale.coin_scales`.
        gallery: particles in each part of the gallery, 0 = no gallery.
    """

    title: str = "Composition and grading from pictures"
    sample: str = ""
    operator: str = ""
    day: str = field(default_factory=lambda: date.today().isoformat())
    command: str = ""
    mapping: ConstituentMap = DEFAULT_MAP
    foreign: str = "error"
    size_range: tuple[float, float] | None = None
    sieves: str | Sequence[float] = "en-set2"
    size: SieveSize = SieveSize()
    weight: str = "mass"
    resampling: Resampling | None = Resampling()
    coin_class: str = COIN_CLASS
    coin_diameter_mm: float = COIN_DIAMETER_MM
    coin_mass_g: float = COIN_MASS_G
    gallery: int = 8

    @property
    def scale_classes(self) -> frozenset[str]:
        """Coins and the like, which are no part of the sample."""
        return frozenset(name for name, constituent in self.mapping.classes.items() if constituent == SCALE)


@dataclass(frozen=True)
class Report:
    """All figures of a report.

    Attributes:
        run: the run, with corrected masses where factors are applied.
        options: what it was asked for.
        composition, categories: after EN 933-11 and EN 12620.
        grading: after EN 933-1, None = there are no sizes, and ``no_grading`` says why.
        groups, class_groups: the grading of each constituent and of each detailed class, without intervals.
        band: sieve_mm, passing, low, high at openings close enough to draw the grading's interval; may be empty.
        comparison: with weighed batches, in corrected grams; None = there are none, and ``no_comparison`` says why.
        uncorrected: the same with the grams as predicted, where factors are applied.
        batches_file: where the batches are from.
        coins: what the images with coins say of their resolution; ``no_coins`` says why there are none.
        factors: that were applied, None = none.
        size_note: which sizes the composition is of, where these are not those of EN 933-11; else "".
        warnings: sentences that a reader must see first.
    """

    run: Run
    options: ReportOptions
    composition: Composition
    categories: Categories
    grading: Grading | None
    groups: dict[str, Grading]
    class_groups: dict[str, Grading]
    band: pd.DataFrame
    comparison: Comparison | None
    uncorrected: Comparison | None
    batches_file: Path | None
    coins: list[CoinScale]
    factors: Factors | None
    no_grading: str = ""
    no_comparison: str = ""
    no_coins: str = ""
    size_note: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def table(self) -> pd.DataFrame:
        """The particles of the sample: the table of the run without scale objects."""
        table = self.run.table
        return table[~table["class"].isin(self.options.scale_classes)]

    @property
    def mass_g(self) -> float:
        """Grams of the sample: all particles of known mass but scale objects, also outside ``size_range``."""
        left_out = self.composition.left_out
        inside = left_out[~left_out["reason"].isin(["scale object"])]
        return self.composition.mass_g + float(inside["mass_g"].sum())

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``."""
        options = {
            name: json_values(getattr(self.options, name))
            for name in ("title", "sample", "operator", "day", "size_range", "sieves", "size", "weight", "resampling")
        }
        return {
            "format": "ramses-report",
            "version": 1,
            "ramses_d2": __version__,
            "command": self.options.command,
            "run": str(self.run.folder),
            "options": options,
            "warnings": self.warnings,
            "pictures": len(self.run.images),
            "particles": len(self.table),
            "scale_objects": len(self.run.table) - len(self.table),
            "mass_g": self.mass_g,
            "composition": self.composition.to_json(),
            "size_note": self.size_note,
            "categories": self.categories.to_json(),
            "grading": self.grading.to_json() if self.grading else None,
            "no_grading": self.no_grading,
            "gradings": {name: grading.to_json() for name, grading in self.groups.items()},
            "class_gradings": {name: grading.to_json() for name, grading in self.class_groups.items()},
            "comparison": self.comparison.to_json() if self.comparison else None,
            "comparison_uncorrected": self.uncorrected.to_json() if self.uncorrected else None,
            "no_comparison": self.no_comparison,
            "batches_file": str(self.batches_file) if self.batches_file else None,
            "coins": [coin.to_json() for coin in self.coins],
            "factors": self.factors.to_json() if self.factors else None,
            "weights": self.run.weights,
            "prediction": {name: self.run.record.get(name) for name in ("command", "created", "versions", "settings")},
        }


def build_report(run: Run, options: ReportOptions, weighed: WeighedBatches, factors: Factors | None = None) -> Report:
    """Compute all figures of a report.

    Args:
        run: of :func:`~.data.read_run`, uncorrected.
        options: see there.
        weighed: of :func:`~.data.find_batches`.
        factors: to correct masses with, None = leave them.

    Raises:
        RamsesError: an option is wrong, or a class has no constituent.
    """
    corrected = run if factors is None else replace(run, table=factors.apply(run.table))
    table = corrected.table
    common = {"mapping": options.mapping, "foreign": options.foreign}
    # A table without rows may lack the columns of the sizes
    size_range = options.size_range if len(table) else None
    size = options.size if size_range else None
    composition = compose(table, **common, resampling=options.resampling, size_range=size_range, size=size)
    grading, groups, class_groups, band, no_grading = _gradings(table, options, common)
    comparison, no_comparison = _compare(corrected, weighed)
    # Uncorrected: what a coin should weigh is known, so it tells how far the network itself is off
    coins, no_coins = _coins(run.table, options)
    report = Report(
        run=corrected,
        options=options,
        composition=composition,
        categories=categorise(composition),
        grading=grading,
        groups=groups,
        class_groups=class_groups,
        band=band,
        comparison=comparison,
        uncorrected=_compare(run, weighed)[0] if factors is not None else None,
        batches_file=weighed.source,
        coins=coins,
        factors=factors,
        no_coins=no_coins,
        size_note=_size_note(table, options, common),
        no_grading=no_grading,
        no_comparison=no_comparison,
    )
    return replace(report, warnings=find_warnings(report))


def _gradings(
    table: pd.DataFrame, options: ReportOptions, common: dict[str, Any]
) -> tuple[Grading | None, dict[str, Grading], dict[str, Grading], pd.DataFrame, str]:
    """The grading of everything, of each constituent and of each class, the band to draw, or why there is none."""
    openings = sieve_series(options.sieves)
    nothing = (None, {}, {}, pd.DataFrame())
    if table.empty:
        return *nothing, "there are no particles"
    try:
        sizes = options.size.of(table)
    except RamsesError as error:
        return *nothing, str(error)
    if not np.isfinite(sizes).any():
        return *nothing, "no particle has a size in mm, because the resolution of the images is unknown"
    settings = {"size": options.size, "weight": options.weight, **common}
    grading = grade(table, openings, resampling=options.resampling, **settings)
    if not grading.amount > 0:
        return *nothing, f"no particle has both a size and a known {options.weight}"
    groups, class_groups = (
        {name: group for name, group in found.items() if group.amount > 0}
        for found in (grade_groups(table, by, openings, resampling=None, **settings) for by in ("constituent", "class"))
    )
    band = pd.DataFrame()
    if grading.sieves["low"].notna().any():
        smallest, largest = grading.curve["size_mm"].iloc[[0, -1]]
        close = np.geomspace(0.999 * smallest, 1.001 * largest, _BAND_POINTS)
        band = grade(table, close, resampling=options.resampling, **settings).sieves
    return grading, groups, class_groups, band, ""


def _size_note(table: pd.DataFrame, options: ReportOptions, common: dict[str, Any]) -> str:
    """That the composition counts sizes which EN 933-11 leaves out, if it does."""
    if options.size_range is not None or table.empty:
        return ""
    try:
        rows = take_sample(table, **common, size=options.size).rows
    except RamsesError:  # no sizes
        return ""
    smallest, largest = _EN_RANGE
    outside = rows[passes(rows["size_mm"], smallest) | ~passes(rows["size_mm"], largest)]
    if outside.empty:
        return ""
    share = outside["weight"].sum() / rows["weight"].sum() if rows["weight"].sum() > 0 else np.nan
    of_mass = "" if np.isnan(share) else f" and {share:.1%} of the mass"
    return (
        f"all sizes; EN 933-11 takes {smallest} to {largest} mm: --range {smallest} {largest} would leave out"
        f" {len(outside) / len(rows):.1%} of the number{of_mass}"
    )


def _compare(run: Run, weighed: WeighedBatches) -> tuple[Comparison | None, str]:
    """Predicted against weighed grams, or why there is nothing to compare."""
    if weighed.several:
        return None, "several metadata.json lie beside the images: name the one that is meant with --batch"
    if weighed.source is None:
        return None, "no metadata.json with weighed batches was given or found beside the images (--batch)"
    if not weighed.batches:
        return None, f"{weighed.source} has no weighed batches"
    if not run.table["mass"].notna().any():
        return None, "no particle has a known mass"
    comparison = compare_batches(run.table, weighed.batches, [image.file_name for image in run.images])
    if comparison.per_batch.empty:
        why = "; ".join(comparison.left_out) or f"{weighed.source} names no image of this run"
        return None, f"no batch can be compared: {why}"
    return comparison, ""


def _coins(table: pd.DataFrame, options: ReportOptions) -> tuple[list[CoinScale], str]:
    """What the images with coins say, or why they say nothing."""
    needed = {"res", "area", "axis_major_length", "axis_minor_length"}
    if not (table["class"] == options.coin_class).any():
        return [], f"there is no particle of class {options.coin_class}"
    if not needed <= set(table.columns):
        return [], f"annotations.csv has no {' and no '.join(sorted(needed - set(table.columns)))}"
    scales = coin_scales(
        table,
        class_name=options.coin_class,
        diameter_mm=options.coin_diameter_mm,
        mass_g=options.coin_mass_g,
    )
    return [scale for scale in scales if scale.coins], ""
