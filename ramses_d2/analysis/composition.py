"""Composition after EN 933-11 and its EN 12620 categories: the mass fraction of each constituent, and how sure it is.

The standard's result is R_i = 100 * mass of constituent i / mass of the sample, by hand sorting of the 4-63 mm portion.
Here the grams come from images, so a result is an estimate and not an EN 933-11 test. Fractions are 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

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

# Sums that product standards limit (EN 12620 Table 20, EN 13242 Table 12)
SUMS = {"Rcu": ("Rc", "Ru"), "Rcug": ("Rc", "Ru", "Rg"), "XRg": ("X", "Rg")}
NONE_SEEN, NOTHING_ELSE_SEEN = "none seen", "nothing else seen"
_VALUES = ["particles", "mass_g", "fraction", "low", "high", "remark"]


@dataclass(frozen=True)
class Composition:
    """Mass fractions of a sample."""

    # One row per constituent of EN 933-11, FL last: constituent, description, particles, mass_g, fraction, low, high
    # (interval), remark. FL has no values: an image does not show what floats
    constituents: pd.DataFrame
    sums: pd.DataFrame  # the same for ``SUMS``
    classes: pd.DataFrame  # class, constituent, and the same, for each class in the sample, in the order of the map
    left_out: pd.DataFrame  # what does not count, by reason (:class:`~ramses_d2.analysis.sample.Sample`)
    particles: int
    mass_g: float
    images: int
    effective_particles: float  # how many particles of equal mass would say as much
    resampling: Resampling | None  # None = no intervals
    map_source: str
    notes: tuple[str, ...]  # sentences that a reader of the values must know
    # Grams of ``CONSTITUENTS`` in the bootstrap replicates (R, 6) and in each unit that is drawn (C, 6)
    replicates: np.ndarray = field(repr=False, compare=False)
    unit_grams: np.ndarray = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``; unknown ones are None, replicates and units are left out."""
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
    """Mass fractions of a particle table per constituent and per class; options as of :func:`take_sample`.

    The table needs class and mass, baseimg for intervals over images, and sizes for ``size_range`` ((4, 63) mm in the
    standard, sieved by the minimum Feret diameter unless ``size`` says otherwise).
    """
    sample = take_sample(table, mapping, foreign, "mass", size, size_range)
    rows, grams = sample.rows, sample.rows["weight"].to_numpy(float)
    constituent_of = dict(zip(rows["class"], rows["constituent"], strict=True))
    names = [name for name in mapping.classes if name in constituent_of]
    names += sorted(set(constituent_of) - set(names))
    counts_as = np.array([constituent_of[name] for name in names], object)
    per_class = rows["class"].to_numpy()[:, None] == np.array(names, object)  # (n, classes) bool

    units, remark = resampling.units(rows["baseimg"]) if resampling else (None, "")
    resampling, unequal = resampling if units is not None else None, ""
    replicates = unit_grams = np.empty((0, len(names)))  # grams of each class
    if units is not None:
        class_grams = per_class * grams[:, None]
        unit_grams = unit_sums(class_grams, units)
        unequal = unequal_weights(unit_grams.sum(axis=1), resampling.over)
        replicates = replicate_sums(class_grams, units, resampling)

    def values(members: np.ndarray) -> dict[str, Any]:
        """``_VALUES`` of a group of classes, (classes,) bool."""
        inside = per_class[:, members].any(axis=1)
        total, own = float(grams.sum()), float(grams[inside].sum())
        fraction = own / total if total > 0 else np.nan
        low, high, remark = np.nan, np.nan, ""
        if resampling is not None and total > 0:
            own_units, rest_units = (unit_grams[:, kind].sum(axis=1) for kind in (members, ~members))
            low, high = share_interval(
                replicates[:, members].sum(axis=1),
                replicates[:, ~members].sum(axis=1),
                (unseen_weight(own_units, rest_units), unseen_weight(rest_units, own_units)),
                resampling,
            )
            low, high = min(low, fraction), max(high, fraction)
            remark = NOTHING_ELSE_SEEN if inside.all() else "" if inside.any() else NONE_SEEN
        return dict(zip(_VALUES, (int(inside.sum()), own, fraction, low, high, remark), strict=True))

    constituents = [
        {"constituent": key, "description": text} | values(counts_as == key) for key, text in CONSTITUENTS.items()
    ]
    constituents.append({"constituent": FLOATING, "description": FLOATING_DESCRIPTION, "remark": FLOATING_REMARK})
    sums = [
        {"constituent": name, "description": " + ".join(keys)} | values(np.isin(counts_as, keys))
        for name, keys in SUMS.items()
    ]
    classes = [
        {"class": name, "constituent": constituent_of[name]} | values(np.arange(len(names)) == index)
        for index, name in enumerate(names)
    ]
    in_constituent = (counts_as[:, None] == np.array([*CONSTITUENTS], object)).astype(float)
    return Composition(
        constituents=_frame(constituents, ["constituent", "description"]),
        sums=_frame(sums, ["constituent", "description"]),
        classes=_frame(classes, ["class", "constituent"]),
        left_out=sample.left_out,
        particles=len(rows),
        mass_g=float(grams.sum()),
        images=int(rows["baseimg"].nunique()),
        effective_particles=effective_number(grams),
        resampling=resampling,
        map_source=mapping.source,
        notes=tuple(note for note in (*sample_notes(sample, foreign), remark, unequal) if note),
        replicates=replicates @ in_constituent,
        unit_grams=unit_grams @ in_constituent,
    )


def _frame(rows: list[dict[str, Any]], keys: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*keys, *_VALUES]).astype({"particles": "Int64"})


def sample_notes(sample: Sample, foreign: str) -> list[str]:
    """What a reader must know of the particles that a result is made of, in sentences."""
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


STANDARD = "EN 12620:2002+A1:2008, Table 20"
CERTAIN = 0.95


class CategoryLimits(NamedTuple):
    """A row block of the standard's table: what is limited, and its categories, strictest first."""

    members: tuple[str, ...]  # constituents that are summed
    limits: tuple[float, ...]  # % by mass (FL: cm3/kg)
    at_least: bool  # the fraction must reach the limit; else it must not exceed it
    declared: bool  # there are categories for a declared value beyond the last limit, and for no requirement


EN_12620_LIMITS = {
    "Rc": CategoryLimits(("Rc",), (90, 80, 70, 50), at_least=True, declared=True),
    "Rcu": CategoryLimits(("Rc", "Ru"), (95, 90, 70, 50), at_least=True, declared=True),
    "Rb": CategoryLimits(("Rb",), (10, 30, 50), at_least=False, declared=True),
    "Ra": CategoryLimits(("Ra",), (1, 5, 10), at_least=False, declared=False),
    "XRg": CategoryLimits(("X", "Rg"), (0.5, 1, 2), at_least=False, declared=False),
    FLOATING: CategoryLimits((), (0.2, 2, 5), at_least=False, declared=False),
}
# Fractions are sums of floats; 0.7 + 0.2 must reach 0.9
_SAME = 1e-9


@dataclass(frozen=True)
class Categories:
    """What a sample would be declared as."""

    # One row per category: group, category, limit (% by mass; FL cm3/kg), met (by the estimate; NA if it cannot be
    # told), certainty (0 to 1, NaN if it cannot be told)
    table: pd.DataFrame
    # One row per group: group, fraction, category (strictest that the estimate meets; None if none), its certainty,
    # certain_category (strictest that is met with ``certain`` or more), remark
    summary: pd.DataFrame
    certain: float = CERTAIN
    standard: str = STANDARD

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``; what cannot be told is None."""
        return json_values(self)


def categorise(composition: Composition, certain: float = CERTAIN) -> Categories:
    """Find the EN 12620 categories of a composition; ``certain`` is what ``certain_category`` asks for."""
    fractions = composition.constituents.set_index("constituent")["fraction"]
    rows, summary = [], []
    for name, group in EN_12620_LIMITS.items():
        fraction = float(fractions[list(group.members)].sum(skipna=False)) if group.members else np.nan
        # (category, limit in %, rule), strictest first
        rule, sign = ("at least", "") if group.at_least else ("at most", "-")
        categories = [(f"{name}{limit:g}{sign}", limit, rule) for limit in group.limits]
        if group.declared:
            categories.append((f"{name}Declared", group.limits[-1], "below" if group.at_least else "above"))
            categories.append((f"{name}NR", np.nan, "any"))
        for category, limit, rule in categories:
            is_met = None if np.isnan(fraction) else _is_met(fraction, limit, rule)
            certainty = _certainty(composition, group.members, fraction, limit, rule)
            rows.append((name, category, limit, is_met, certainty))
        found = rows[-len(categories) :]
        met = next(((category, certainty) for _, category, _, is_met, certainty in found if is_met), (None, np.nan))
        sure = next((category for _, category, *_, certainty in found if certainty >= certain), None)
        remark = ""
        if not group.members:
            remark = f"not assessable: {FLOATING_REMARK}"
        elif np.isnan(fraction):
            remark = "no particle of known mass"
        elif met[0] is None:
            remark = f"above every limit ({group.limits[-1]:g} %)"
        elif np.isnan(met[1]):
            remark = "no intervals"
        summary.append((name, fraction, *met, sure, remark))
    table = pd.DataFrame(rows, columns=["group", "category", "limit", "met", "certainty"]).astype({"met": "boolean"})
    columns = ["group", "fraction", "category", "certainty", "certain_category", "remark"]
    # First as objects: pandas would turn None among texts into NaN
    found = pd.DataFrame(summary, columns=columns, dtype=object).astype({"fraction": float, "certainty": float})
    return Categories(table, found.astype({"group": str, "remark": str}), certain)


def _is_met(fraction: float, limit: float, rule: str) -> bool:
    at_least, at_most = fraction >= limit / 100 - _SAME, fraction <= limit / 100 + _SAME
    return {"at least": at_least, "below": not at_least, "at most": at_most, "above": not at_most, "any": True}[rule]


def _certainty(composition: Composition, members: tuple[str, ...], fraction: float, limit: float, rule: str) -> float:
    """How sure a category is, 0 to 1; NaN without replicates, or where the fraction is unknown.

    The share of the bootstrap replicates that satisfy it, each with one more unit that counts against it: replicates
    hold only what was seen, so all of them would satisfy a limit that the sample hardly touches, however small it is.
    With equal weights it is one minus the p-value of the exact binomial test: 1 - (1 - limit)^n where nothing was seen
    among n. Finding more of what counts against a category never makes it surer, but for the chance of the replicates
    (about 0.01 at 2000 of them).
    """
    if np.isnan(fraction) or not len(composition.replicates):
        return np.nan
    if rule == "any":
        return 1.0
    # What counts against the category, and the share that it may have
    is_maximum = rule in ("at most", "below")
    is_member = np.isin(list(CONSTITUENTS), members)
    against = is_member if is_maximum else ~is_member
    room = limit / 100 if is_maximum else 1 - limit / 100
    one_more = unseen_weight(*(composition.unit_grams[:, kind].sum(axis=1) for kind in (against, ~against)))
    bad, good = (composition.replicates[:, kind].sum(axis=1) for kind in (against, ~against))
    # (bad + e * one_more) / (bad + good + e * one_more) <= room holds for weights e up to ``free``, and
    # P(e <= free) = 1 - exp(-free) of an exponential weight, so its draw needs no random number
    free = np.maximum(0, good * room / (1 - room) - bad) / one_more
    return float(np.mean(-np.expm1(-free)))
