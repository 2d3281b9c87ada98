"""The report of a prediction run: what the instances say about the sample, and how sure that is.

:func:`build_report` computes everything once; tables, CSV files, JSON and the page are made of its result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
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
    is_same_file,
)
from ramses_d2.analysis.composition import Categories, Composition, categorise, compose
from ramses_d2.analysis.grading import Grading, grade, grade_groups
from ramses_d2.analysis.intervals import Resampling
from ramses_d2.analysis.report.data import Run, WeighedBatches
from ramses_d2.analysis.sample import (
    DEFAULT_MAP,
    SCALE,
    SCALE_OBJECT,
    ConstituentMap,
    SieveSize,
    cut_by_edge,
    passes,
    sieve_series,
    take_sample,
)
from ramses_d2.errors import RamsesError
from ramses_d2.files import json_values

_BAND_POINTS = 80
_EN_RANGE = (4, 63)  # the portion that EN 933-11 is about, in mm
_SAME_RESOLUTION = 0.005  # resolutions that differ by less are the same number, rounded


@dataclass(frozen=True)
class ReportOptions:
    """What a user may say about a report."""

    title: str = "Composition and grading from images"
    sample: str = ""
    operator: str = ""
    day: str = field(default_factory=lambda: date.today().isoformat())
    command: str = ""  # how the report was made
    mapping: ConstituentMap = DEFAULT_MAP
    foreign: str = "error"  # what classes outside the map count as
    size_range: tuple[float, float] | None = None  # mm, of the composition: (4, 63) in EN 933-11; None = all particles
    sieves: str | Sequence[float] = "en-set2"
    size: SieveSize = SieveSize()
    weight: str = "mass"
    resampling: Resampling | None = Resampling()  # None = no intervals
    coin_class: str = COIN_CLASS
    coin_diameter_mm: float = COIN_DIAMETER_MM
    coin_mass_g: float = COIN_MASS_G
    gallery: int = 8  # particles in each part of it, 0 = no gallery

    @property
    def scale_classes(self) -> frozenset[str]:
        """Coins and the like, which are no part of the sample."""
        return frozenset(name for name, constituent in self.mapping.classes.items() if constituent == SCALE)


@dataclass(frozen=True)
class Report:
    """All values of a report; where a part is None or empty, ``no_...`` says why."""

    run: Run  # with corrected masses where factors are applied
    options: ReportOptions
    composition: Composition
    categories: Categories
    grading: Grading | None = None
    no_grading: str = ""
    gradings: dict[str, Grading] = field(default_factory=dict)  # of each constituent, without intervals
    band: pd.DataFrame = field(default_factory=pd.DataFrame)  # sieves close enough to draw the grading's interval
    comparison: Comparison | None = None  # with weighed batches
    comparison_uncorrected: Comparison | None = None  # the same with the grams as predicted, where factors are applied
    no_comparison: str = ""
    batches_file: Path | None = None
    coins: list[CoinScale] = field(default_factory=list)
    no_coins: str = ""
    factors: Factors | None = None
    size_note: str = ""  # which sizes the composition is of, where these are not those of EN 933-11

    @property
    def table(self) -> pd.DataFrame:
        """The particles of the sample: the table of the run without scale objects."""
        return self.run.table[~self.run.table["class"].isin(self.options.scale_classes)]

    @property
    def mass_g(self) -> float:
        """Grams of the sample: all particles of known mass but scale objects, also outside ``size_range``."""
        left_out = self.composition.left_out
        return self.composition.mass_g + float(left_out.loc[left_out["reason"] != SCALE_OBJECT, "mass_g"].sum())

    @cached_property
    def warnings(self) -> list[str]:
        """Sentences that a reader must see first, the most serious ones in front."""
        return [sentence(words) for words in _warnings(self)]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``."""
        options, run = self.options, self.run
        head = ("title", "sample", "operator", "day", "size_range", "sieves", "size", "weight", "resampling")
        parts = ("composition", "size_note", "categories", "grading", "no_grading", "gradings")
        parts += ("comparison", "comparison_uncorrected", "no_comparison", "batches_file", "coins", "factors")
        return {
            "format": "ramses-report",
            "version": 1,
            "ramses_d2": __version__,
            "command": options.command,
            "run": str(run.folder),
            "options": {name: json_values(getattr(options, name)) for name in head},
            "warnings": self.warnings,
            "pictures": len(run.images),
            "particles": len(self.table),
            "scale_objects": len(run.table) - len(self.table),
            "mass_g": self.mass_g,
            **{name: _plain(getattr(self, name)) for name in parts},
            "weights": run.weights,
            "prediction": {name: run.record.get(name) for name in ("command", "created", "versions", "settings")},
        }


def _plain(part: Any) -> Any:
    """A part of a report for JSON, under the keys that files have: there an image is a picture."""
    if hasattr(part, "to_json"):
        names = {"image": "picture", "images": "pictures"}
        return {names.get(name, name): value for name, value in part.to_json().items()}
    if isinstance(part, dict):
        return {name: _plain(value) for name, value in part.items()}
    return list(map(_plain, part)) if isinstance(part, list) else str(part) if isinstance(part, Path) else part


def build_report(run: Run, options: ReportOptions, weighed: WeighedBatches, factors: Factors | None = None) -> Report:
    """Compute all values of a report of an uncorrected run; ``factors`` correct its masses."""
    corrected = run if factors is None else replace(run, table=factors.apply(run.table))
    table, common = corrected.table, {"mapping": options.mapping, "foreign": options.foreign}
    # A table without rows may lack the columns of the sizes
    ranged = {"size_range": options.size_range, "size": options.size} if options.size_range and len(table) else {}
    composition = compose(table, **common, resampling=options.resampling, **ranged)
    uncorrected = {} if factors is None else _compare(run, weighed)
    return Report(
        corrected,
        options,
        composition,
        categorise(composition),
        **_gradings(table, options, common),
        **_compare(corrected, weighed),
        comparison_uncorrected=uncorrected.get("comparison"),
        batches_file=weighed.source,
        # Uncorrected: what a coin should weigh is known, so it tells how far the network itself is off
        **_coins(run.table, options),
        factors=factors,
        size_note=_size_note(table, options, common),
    )


def _gradings(table: pd.DataFrame, options: ReportOptions, common: dict[str, Any]) -> dict[str, Any]:
    """The grading of everything, those of the constituents, the band to draw; or why there is none."""
    openings = sieve_series(options.sieves)  # wrong ones are an error, not a missing part
    settings = {"size": options.size, "weight": options.weight, **common}
    if table.empty:
        return {"no_grading": "there are no particles"}
    try:
        sizes = options.size.of(table)
    except RamsesError as error:
        return {"no_grading": str(error)}
    if not np.isfinite(sizes).any():
        return {"no_grading": "no particle has a size in mm, because the resolution of the images is unknown"}
    grading = grade(table, openings, resampling=options.resampling, **settings)
    if not grading.amount > 0:
        return {"no_grading": f"no particle has both a size and a known {options.weight}"}
    groups = grade_groups(table, sieves=openings, resampling=None, **settings)
    found = {"grading": grading, "gradings": {name: group for name, group in groups.items() if group.amount > 0}}
    if grading.sieves["low"].notna().any():
        smallest, largest = grading.curve["size_mm"].iloc[[0, -1]]
        close = np.geomspace(0.999 * smallest, 1.001 * largest, _BAND_POINTS)
        found["band"] = grade(table, close, resampling=options.resampling, **settings).sieves
    return found


def _size_note(table: pd.DataFrame, options: ReportOptions, common: dict[str, Any]) -> str:
    """That the composition counts sizes which EN 933-11 leaves out, if it does."""
    smallest, largest = _EN_RANGE
    try:
        rows = take_sample(table, **common, size=options.size).rows
    except RamsesError:  # no sizes
        return ""
    outside = rows[passes(rows["size_mm"], smallest) | ~passes(rows["size_mm"], largest)]
    if options.size_range is not None or outside.empty:
        return ""
    total = rows["weight"].sum()
    of_mass = f" and {outside['weight'].sum() / total:.1%} of the mass" if total > 0 else ""
    return (
        f"all sizes; EN 933-11 takes {smallest} to {largest} mm: --range {smallest} {largest} would leave out"
        f" {len(outside) / len(rows):.1%} of the number{of_mass}"
    )


def _compare(run: Run, weighed: WeighedBatches) -> dict[str, Any]:
    """Predicted against weighed grams, or why there is nothing to compare."""
    if weighed.several:
        return {"no_comparison": "several metadata.json lie beside the images: name the right one with --batch"}
    if weighed.source is None:
        return {"no_comparison": "no metadata.json with weighed batches was given or found beside the images (--batch)"}
    if not weighed.batches:
        return {"no_comparison": f"{weighed.source} has no weighed batches"}
    if run.table["mass"].isna().all():
        return {"no_comparison": "no particle has a known mass"}
    comparison = compare_batches(run.table, weighed.batches, [image.file_name for image in run.images])
    if comparison.per_batch.empty:
        why = "; ".join(comparison.left_out) or f"{weighed.source} names no image of this run"
        return {"no_comparison": f"no batch can be compared: {why}"}
    return {"comparison": comparison}


def _coins(table: pd.DataFrame, options: ReportOptions) -> dict[str, Any]:
    """What the images with coins say of their resolution, or why they say nothing."""
    if not (table["class"] == options.coin_class).any():
        return {"no_coins": f"there is no particle of class {options.coin_class}"}
    missing = sorted({"res", "area", "axis_major_length", "axis_minor_length"} - set(table.columns))
    if missing:
        return {"no_coins": f"annotations.csv has no {' and no '.join(missing)}"}
    coin = {"diameter_mm": options.coin_diameter_mm, "mass_g": options.coin_mass_g}
    return {"coins": [scale for scale in coin_scales(table, class_name=options.coin_class, **coin) if scale.coins]}


def _warnings(report: Report) -> Iterator[str]:
    """What a reader must know before reading a value, and what to do."""
    run, table, options, factors = report.run, report.table, report.options, report.factors
    if run.record.get("complete") is False:
        yield "The prediction had not finished when this report was made: run tools/predict.py again."
    if run.failed:
        yield f"{many(len(run.failed), 'image')} could not be predicted: {'; '.join(run.failed[:3])}"
    yield from map(str, run.record.get("notes") or [])
    unused = [name for name in options.mapping.own if name not in set(run.table["class"])]
    if unused:
        listed = ", ".join(unused[:5])
        yield f"The constituent map names {listed}, which nothing here has; classes it does not name count as usual."
    if table.empty:
        yield "No particle was found: there are no values."
    differing = [i for i in run.images if abs(i.resolution / i.listed_resolution - 1) > _SAME_RESOLUTION]
    if differing:
        first, number = differing[0], many(len(differing), "image")
        yield (
            f"{number} predicted with another resolution than metadata.json lists, such as {first.file_name} with"
            f" {first.resolution:g} instead of {first.listed_resolution:g} px/mm: wrong grams and mm if that is right"
        )
    unknown = run.table.loc[run.table["res"].isna(), "baseimg"].nunique()
    if unknown:
        yield f"{many(unknown, 'image')} of unknown resolution, without grams and mm: predict again with --resolution"
    usable = sum(coin.usable > 0 for coin in report.coins)
    doubtful = [coin for coin in report.coins if coin.warning]
    if len(doubtful) == 1:
        yield f"Coin: {doubtful[0].message}"
    elif doubtful:
        deviations = [100 * coin.deviation for coin in doubtful if np.isfinite(coin.deviation)]
        by = f" (median {np.median(deviations):+.1f} %)" if deviations else ""
        yield (
            f"Coins tell another resolution than the one given in {len(doubtful)} of {usable} images with a usable"
            f" coin{by}: check the resolution, because lengths go with it and grams with its square."
        )
    massless, cut = int(table["mass"].isna().sum()), cut_by_edge(table)
    if massless:
        share = f"{massless / len(table):.1%} of all"
        yield f"{many(massless, 'particle')} of unknown mass ({share}), listed apart and in no share of the mass."
    if cut is not None and cut.any():
        total, number = table["mass"].sum(), many(int(cut.sum()), "particle")
        grams = f" and {table.loc[cut, 'mass'].sum() / total:.1%} of the grams" if total > 0 else ""
        yield (
            f"{number} cut by the edge of the image ({cut.mean():.1%} of the number{grams}): what lies outside is"
            " neither weighed nor measured."
        )
    if factors is not None:
        name = factors.name or "a calibration"
        yield f"Grams were multiplied by the correction factors of {name}, whose uncertainty is in no interval."
        if without := sorted(set(table["class"]) - set(factors.classes)):
            yield f"No correction factor for {', '.join(without)}: their grams are as predicted."
        own, theirs = run.weights.get("sha256"), (factors.origin.get("weights") or {}).get("sha256")
        if own and theirs and own != str(theirs):
            yield "The correction factors come from other weights of the network: calibrate again with these."
        if report.comparison is not None and is_same_file(factors, report.batches_file):
            yield (
                "The correction factors were computed from the very batches they are compared with: the errors below"
                " do not tell how large they are on other batches."
            )
    if report.comparison is not None:
        yield from (f"Not compared with its weighing: {reason}." for reason in report.comparison.left_out)


def percent_text(fraction: float, decimals: int | None = None, *, sign: bool = False) -> str:
    """A fraction in %, with as many decimals as it needs where none are given; never broken over lines."""
    places = "g" if decimals is None else f".{decimals}f"
    return f"{100 * fraction:{'+' if sign else ''}{places}}\u00a0%".replace("-", "\u2212")


def many(number: int, name: str, several: str = "") -> str:
    """``number`` things: "1 image", "2 images"."""
    return f"{number} {name if number == 1 else several or name + 's'}"


def sentence(words: str) -> str:
    """Words with a capital, a full stop, and a space before every %."""
    words = re.sub(r"(?<=\d) ?%", "\u00a0%", words)
    return words[0].upper() + words[1:] + ("" if words.endswith(".") else ".")
