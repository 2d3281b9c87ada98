"""Composition after EN 933-11: what share of the mass each constituent has, and how sure that is.

The standard's result is R_i = 100 * mass of constituent i / mass of the sample, by hand sorting of the 4-63 mm portion.
Here the grams come from images, so a result is an estimate and not an EN 933-11 test. Fractions are 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.analysis.intervals import (
    Resampling,
    effective_number,
    replicate_sums,
    share_interval,
    unequal_weights,
    unit_sums,
    unseen_weight,
)
from ramses_d2.analysis.sample import (
    CONSTITUENTS,
    DEFAULT_MAP,
    FLOATING,
    FLOATING_DESCRIPTION,
    FLOATING_REMARK,
    ConstituentMap,
    Sample,
    SieveSize,
    take_sample,
)
from ramses_d2.files import json_values

STANDARD = "EN 12620:2002+A1:2008, Table 20"
CERTAIN = 0.95
# Fractions are sums of floats; 0.7 + 0.2 must reach 0.9
_SAME = 1e-9


@dataclass(frozen=True)
class _Group:
    """One row block of the table: what is limited, and the categories, strictest first.

    Attributes:
        members: constituents that are summed.
        limits: in % by mass (FL: cm3/kg).
        at_least: the fraction must reach the limit; else it must not exceed it.
        declared: there are categories for a declared value beyond the last limit, and for no requirement.
    """

    members: tuple[str, ...]
    limits: tuple[float, ...]
    at_least: bool
    declared: bool


_TABLE = {
    "Rc": _Group(("Rc",), (90, 80, 70, 50), at_least=True, declared=True),
    "Rcu": _Group(("Rc", "Ru"), (95, 90, 70, 50), at_least=True, declared=True),
    "Rb": _Group(("Rb",), (10, 30, 50), at_least=False, declared=True),
    "Ra": _Group(("Ra",), (1, 5, 10), at_least=False, declared=False),
    "XRg": _Group(("X", "Rg"), (0.5, 1, 2), at_least=False, declared=False),
    FLOATING: _Group((), (0.2, 2, 5), at_least=False, declared=False),
}


@dataclass(frozen=True)
class Categories:
    """What a sample would be declared as.

    Attributes:
        table: one row per category: group, category, limit (% by mass; FL cm3/kg), met (by the estimate; NA if it
            cannot be told), certainty (0 to 1, NaN if it cannot be told).
        summary: one row per group: group, fraction, category (strictest that the estimate meets; None if none),
            certainty of that category, certain_category (strictest that is met with ``certain`` or more), remark.
        certain: the certainty that is asked of ``certain_category``.
        standard: edition and table of the limits.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    certain: float = CERTAIN
    standard: str = STANDARD

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``; what cannot be told is None."""
        return json_values(self)


def categorise(composition: Composition, certain: float = CERTAIN) -> Categories:
    """Find the EN 12620 categories of a composition.

    The certainty of a category is the share of the bootstrap replicates that satisfy it, each with one more unit that
    counts against it (:func:`.bootstrap.unseen_weight`): replicates hold nothing that was not seen, so every one of
    them would satisfy a limit that the sample hardly touches, however small the sample. With equal weights it is one
    minus the p-value of the exact binomial test: 1 - (1 - limit)^n where nothing was seen among n. What was seen of
    the others adds nothing to it, so finding more of them makes nobody surer, but for the chance of the replicates
    (about 0.01 at 2000 of them).

    Args:
        composition: of :func:`.composition.compose`.
        certain: certainty that ``certain_category`` must have.
    """
    rows, summary = [], []
    for name, group in _TABLE.items():
        fraction = _fraction(composition, group)
        found = [
            {
                "group": name,
                "category": category,
                "limit": limit,
                "met": None if np.isnan(fraction) else _met(fraction, limit, rule),
                "certainty": _certainty(composition, group, fraction, limit, rule),
            }
            for category, limit, rule in _categories(name, group)
        ]
        rows += found
        summary.append(_summary(name, group, fraction, found, certain))
    table = pd.DataFrame(rows).astype({"met": "boolean"})
    found = pd.DataFrame(summary)
    for column in ("category", "certain_category"):  # pandas would turn None among texts into NaN
        found[column] = pd.Series([row[column] for row in summary], dtype=object)
    return Categories(table, found, certain)


def _categories(name: str, group: _Group) -> list[tuple[str, float, str]]:
    """(category, limit in %, rule) of a group, strictest first."""
    rule = "at least" if group.at_least else "at most"
    found = [(f"{name}{limit:g}{'' if group.at_least else '-'}", limit, rule) for limit in group.limits]
    if group.declared:
        found.append((f"{name}Declared", group.limits[-1], "below" if group.at_least else "above"))
        found.append((f"{name}NR", np.nan, "any"))
    return found


def _fraction(composition: Composition, group: _Group) -> float:
    """0 to 1; NaN where the sample is empty or the group cannot be seen."""
    table = composition.constituents.set_index("constituent")
    return float(table.loc[list(group.members), "fraction"].sum(skipna=False)) if group.members else np.nan


def _columns(group: _Group) -> np.ndarray:
    """(6,) bool: which of ``CONSTITUENTS`` are members."""
    return np.isin(list(CONSTITUENTS), group.members)


def _met(fraction: float, limit: float, rule: str) -> bool:
    at_least, at_most = fraction >= limit / 100 - _SAME, fraction <= limit / 100 + _SAME
    return {"at least": at_least, "below": not at_least, "at most": at_most, "above": not at_most, "any": True}[rule]


def _certainty(composition: Composition, group: _Group, fraction: float, limit: float, rule: str) -> float:
    """0 to 1; NaN without replicates, where the sample is empty or the group cannot be seen."""
    if np.isnan(fraction) or not len(composition.replicates):
        return np.nan
    if rule == "any":
        return 1.0
    # What counts against the category, and the share that it may have
    against = _columns(group) if rule in ("at most", "below") else ~_columns(group)
    room = limit / 100 if rule in ("at most", "below") else 1 - limit / 100
    one_more = unseen_weight(*(composition.unit_grams[:, kind].sum(axis=1) for kind in (against, ~against)))
    bad, good = (composition.replicates[:, kind].sum(axis=1) for kind in (against, ~against))
    # A replicate has room for this many of the unit that may be unseen; P(exponential weight <= that)
    free = np.maximum(0, good * room / (1 - room) - bad) / one_more
    return float(np.mean(-np.expm1(-free)))


def _summary(name: str, group: _Group, fraction: float, found: list[dict[str, Any]], certain: float) -> dict[str, Any]:
    met = [row for row in found if row["met"]]
    sure = [row for row in found if row["certainty"] >= certain]
    remark = ""
    if not group.members:
        remark = f"not assessable: {FLOATING_REMARK}"
    elif np.isnan(fraction):
        remark = "no particle of known mass"
    elif not met:
        remark = f"above every limit ({group.limits[-1]:g} %)"
    elif np.isnan(met[0]["certainty"]):
        remark = "no intervals"
    return {
        "group": name,
        "fraction": fraction,
        "category": met[0]["category"] if met else None,
        "certainty": met[0]["certainty"] if met else np.nan,
        "certain_category": sure[0]["category"] if sure else None,
        "remark": remark,
    }


# Sums that product standards limit (EN 12620 Table 20, EN 13242 Table 12)
SUMS = {"Rcu": ("Rc", "Ru"), "Rcug": ("Rc", "Ru", "Rg"), "XRg": ("X", "Rg")}
NONE_SEEN, NOTHING_ELSE_SEEN = "none seen", "nothing else seen"


@dataclass(frozen=True)
class Composition:
    """Mass fractions of a sample.

    Attributes:
        constituents: one row per constituent of EN 933-11, all of them, FL last: constituent, description, particles,
            mass_g, fraction, low, high (interval), remark. FL has no figures: no image shows what floats.
        sums: the same for ``SUMS``.
        classes: the same for each class in the sample, in the order of the map; with the column class in front.
        left_out: what is no part of the fractions, by reason (:class:`.sample.Sample`).
        particles, mass_g, images: that the fractions are made of.
        effective_particles: how many particles of equal mass would say as much.
        resampling: how intervals were made; None = no intervals.
        map_source: which constituent map.
        notes: sentences a reader of the figures must know.
        replicates: (R, 6) grams of ``CONSTITUENTS`` in the bootstrap replicates, (0, 6) without.
        unit_grams: (C, 6) grams of ``CONSTITUENTS`` in each particle or image that is drawn, (0, 6) without.
    """

    constituents: pd.DataFrame
    sums: pd.DataFrame
    classes: pd.DataFrame
    left_out: pd.DataFrame
    particles: int
    mass_g: float
    images: int
    effective_particles: float
    resampling: Resampling | None
    map_source: str
    notes: tuple[str, ...]
    replicates: np.ndarray = field(repr=False, compare=False)
    unit_grams: np.ndarray = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``; unknown figures are None, replicates and units are left out."""
        return json_values(self)


def compose(
    table: pd.DataFrame,
    mapping: ConstituentMap = DEFAULT_MAP,
    *,
    foreign: str = "error",
    resampling: Resampling | None = Resampling(),  # noqa: B008, it is frozen
    size_range: tuple[float, float] | None = None,
    size: SieveSize | None = None,
) -> Composition:
    """Mass fractions per constituent and per class.

    Args:
        table: particle table; needs class and mass, baseimg for intervals over images, and sizes for ``size_range``.
        mapping: class -> constituent.
        foreign: the constituent of classes that ``mapping`` does not hold, or "error".
        resampling: how intervals are made; None = none.
        size_range: in mm; only what passes the second sieve and stays on the first, as (4, 63) in the standard.
        size: the sieve size for ``size_range``; default minimum Feret.

    Raises:
        RamsesError: see :func:`.sample.take_sample`.
    """
    sample = take_sample(table, mapping, foreign, "mass", size, size_range)
    rows, grams = sample.rows, sample.rows["weight"].to_numpy(float)
    present = set(rows["class"])
    class_names = [name for name in mapping.classes if name in present]
    class_names += sorted(present - set(class_names))
    per_class = rows["class"].to_numpy()[:, None] == np.array(class_names, object)  # (n, classes) bool
    constituent_of = dict(zip(rows["class"], rows["constituent"], strict=True))
    in_constituent = np.array(
        [[constituent_of[name] == key for key in CONSTITUENTS] for name in class_names], float
    ).reshape(-1, len(CONSTITUENTS))

    units, remark = resampling.units(rows["baseimg"]) if resampling else (None, "")
    unequal = ""
    replicates = unit_grams = np.empty((0, len(class_names)))
    if units is not None:
        class_grams = per_class * grams[:, None]
        unit_grams = unit_sums(class_grams, units)
        unequal = unequal_weights(unit_grams.sum(axis=1), resampling.over)
        replicates = replicate_sums(class_grams, units, resampling)
    figures = _Figures(grams, replicates, unit_grams, resampling if units is not None else None)

    def members(keys: Sequence[str]) -> np.ndarray:
        return np.isin(np.array([constituent_of[name] for name in class_names], object), keys)

    constituents = [
        {"constituent": key, "description": text} | figures.row(per_class, members([key]))
        for key, text in CONSTITUENTS.items()
    ]
    floating = {"constituent": FLOATING, "description": FLOATING_DESCRIPTION} | figures.no_row(FLOATING_REMARK)
    sums_of = [
        {"constituent": name, "description": " + ".join(keys)} | figures.row(per_class, members(keys))
        for name, keys in SUMS.items()
    ]
    classes = [
        {"class": name, "constituent": constituent_of[name]}
        | figures.row(per_class, np.arange(len(class_names)) == index)
        for index, name in enumerate(class_names)
    ]
    return Composition(
        constituents=_frame([*constituents, floating], ["constituent", "description"]),
        sums=_frame(sums_of, ["constituent", "description"]),
        classes=_frame(classes, ["class", "constituent"]),
        left_out=sample.left_out,
        particles=len(rows),
        mass_g=float(grams.sum()),
        images=int(rows["baseimg"].nunique()),
        effective_particles=effective_number(grams),
        resampling=resampling if units is not None else None,
        map_source=mapping.source,
        notes=tuple(note for note in (*sample_notes(sample, foreign), remark, unequal) if note),
        replicates=replicates @ in_constituent,
        unit_grams=unit_grams @ in_constituent,
    )


def sample_notes(sample: Sample, foreign: str) -> list[str]:
    """What a reader must know of the particles that a figure is made of, in sentences."""
    notes = []
    if sample.rows.empty:
        notes.append("no particle of known weight: there are no figures")
    left_out = sample.left_out[sample.left_out["particle_share"].notna()]
    for reason, part in left_out.groupby("reason", sort=True):
        number, share, area = part[["particles", "particle_share", "area_share"]].sum(skipna=False)
        by_area = "" if np.isnan(area) else f", {area:.1%} by area"
        what = "1 particle" if number == 1 else f"{number:.0f} particles"
        notes.append(f"{reason}: {what} ({share:.1%} by number{by_area}) left out here")
    if sample.foreign:
        notes.append(f"not in the constituent map, counted as {foreign}: {', '.join(sample.foreign)}")
    return notes


@dataclass(frozen=True)
class _Figures:
    """Particles, grams, fraction and interval of groups of classes."""

    grams: np.ndarray  # (n,)
    replicates: np.ndarray  # (R, classes) grams
    unit_grams: np.ndarray  # (C, classes)
    resampling: Resampling | None

    def row(self, per_class: np.ndarray, members: np.ndarray) -> dict[str, Any]:
        """Args: per_class (n, classes) bool; members (classes,) bool, the classes of the group."""
        inside = per_class[:, members].any(axis=1)
        total, own = float(self.grams.sum()), float(self.grams[inside].sum())
        fraction = own / total if total > 0 else np.nan
        low, high, remark = self._interval(fraction, inside, members)
        return {
            "particles": int(inside.sum()),
            "mass_g": own,
            "fraction": fraction,
            "low": low,
            "high": high,
            "remark": remark,
        }

    def no_row(self, remark: str) -> dict[str, Any]:
        return {"particles": None, **dict.fromkeys(("mass_g", "fraction", "low", "high"), np.nan), "remark": remark}

    def _interval(self, fraction: float, inside: np.ndarray, members: np.ndarray) -> tuple[float, float, str]:
        if self.resampling is None or np.isnan(fraction):
            return np.nan, np.nan, ""
        own, rest = (self.unit_grams[:, kind].sum(axis=1) for kind in (members, ~members))
        low, high = share_interval(
            self.replicates[:, members].sum(axis=1),
            self.replicates[:, ~members].sum(axis=1),
            (unseen_weight(own, rest), unseen_weight(rest, own)),
            self.resampling,
        )
        remark = "" if inside.any() else NONE_SEEN
        remark = NOTHING_ELSE_SEEN if inside.all() else remark
        return min(low, fraction), max(high, fraction), remark


def _frame(rows: list[dict[str, Any]], keys: list[str]) -> pd.DataFrame:
    columns = [*keys, "particles", "mass_g", "fraction", "low", "high", "remark"]
    return pd.DataFrame(rows, columns=columns).astype({"particles": "Int64"})
