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

from .bootstrap import (
    Resampling,
    effective_number,
    replicate_sums,
    share_interval,
    unequal_weights,
    unit_sums,
    unseen_weight,
)
from .constituents import (
    CONSTITUENTS,
    DEFAULT_MAP,
    FLOATING,
    FLOATING_DESCRIPTION,
    FLOATING_REMARK,
    ConstituentMap,
)
from .json_values import json_values
from .sample import Sample, take_sample
from .sieves import SieveSize

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
