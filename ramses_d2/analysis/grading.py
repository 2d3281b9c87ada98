"""Grading after EN 933-1: which share of the sample passes each sieve.

Conventions: a particle exactly as large as an opening passes it, so passing(b) = share of the weight with size <= b,
and sieve b holds the sizes from b (excluded) to the next larger opening (included). The denominator is all that was
weighed and measured, oversize included. Fractions are 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

from .bootstrap import Resampling, interval, replicate_weights, unequal_weights
from .composition import NONE_SEEN, sample_notes
from .constituents import CONSTITUENTS, DEFAULT_MAP, SCALE, ConstituentMap
from .cumulative_curve import LEVELS, curve_figures
from .grading_band import passing_band, size_intervals
from .json_values import json_values
from .sample import WEIGHTS, Sample, take_sample
from .sieves import FINES_SIEVE, SieveSize, number_passing, sieve_series

BELOW_SMALLEST, FINES, OVERSIZE = "below smallest sieve", "fines", "oversize"
_SIZE_NAMES = (*(f"D{100 * level:.0f}" for level in LEVELS), "Cu", "Cc")
_SIZE_COLUMNS = ["name", "value", "low", "high", "unit"]


@dataclass(frozen=True)
class Grading:
    """A grading curve.

    Attributes:
        sieves: one row per sieve, rising: sieve_mm, passing (share that goes through), low, high (its interval),
            retained (share that stays on this sieve), retained_amount (in ``unit``), retained_particles. The retained
            shares and the tail "below smallest sieve" (the pan) add up to 1.
        tails: name, limit_mm, fraction, low, high, amount, particles, remark ("none seen" or empty) of "below smallest
            sieve", "fines" (passing 0.063 mm, EN 933-1) and "oversize" (stays on the largest sieve; also in the last
            row of ``sieves``).
        sizes: name, value, low, high, unit of D10, D30, D50, D60, D90 (mm), Cu = D60 / D10 and
            Cc = D30^2 / (D10 D60). The ends are 0 or infinity where the sample sets no bound.
        left_out: what is no part of the curve, by reason (:class:`.sample.Sample`).
        particles, amount: that the curve is made of; ``unit`` is g, particles or mm2, by ``weight``.
        weight: "mass", "count" or "area".
        size: how sieve sizes were taken.
        resampling: how intervals were made; None = no intervals.
        notes: sentences a reader of the curve must know.
        curve: size_mm, passing: the cumulative curve of the particles themselves, one row per different size.
    """

    sieves: pd.DataFrame
    tails: pd.DataFrame
    sizes: pd.DataFrame
    left_out: pd.DataFrame
    particles: int
    amount: float
    weight: str
    unit: str
    size: SieveSize
    resampling: Resampling | None
    notes: tuple[str, ...]
    curve: pd.DataFrame = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``; unknown figures are None, ``curve`` is left out."""
        return json_values(self)


def grade(
    table: pd.DataFrame,
    sieves: str | Sequence[float] = "en-set2",
    *,
    size: SieveSize = SieveSize(),  # noqa: B008, it is frozen
    weight: str = "mass",
    mapping: ConstituentMap = DEFAULT_MAP,
    foreign: str = "error",
    resampling: Resampling | None = Resampling(),  # noqa: B008, it is frozen
) -> Grading:
    """The grading of all particles but scale objects.

    The interval of a passing share reaches what was not seen, as in the composition: ten particles without fines do not
    show that there are none. One more that stays on a sieve is taken to be no lighter than the largest that pass it.

    D values lie on the cumulative curve of the particles themselves, not of the sieves: straight lines in
    log(size) between neighbouring sizes; a level that the smallest particle reaches alone has its size.

    Args:
        table: particle table; needs class, sizes, mass (or area), and baseimg for intervals over images.
        sieves: see :func:`.sieves.sieve_series`.
        size: how sieve sizes are taken.
        weight: what is added up: "mass" as in the standard, "count" or "area".
        mapping, foreign: see :meth:`.constituents.ConstituentMap.assign`; here they only tell scale objects apart.
        resampling: how intervals are made; None = none.

    Raises:
        RamsesError: see :func:`.sample.take_sample` and :func:`.sieves.sieve_series`.
    """
    openings = sieve_series(sieves)
    sample = take_sample(table, mapping, foreign, weight, size)
    return _grade(sample, openings, size, weight, resampling, foreign)


def grade_groups(
    table: pd.DataFrame,
    by: str = "constituent",
    sieves: str | Sequence[float] = "en-set2",
    *,
    size: SieveSize = SieveSize(),  # noqa: B008, it is frozen
    weight: str = "mass",
    mapping: ConstituentMap = DEFAULT_MAP,
    foreign: str = "error",
    resampling: Resampling | None = Resampling(),  # noqa: B008, it is frozen
) -> dict[str, Grading]:
    """One grading per constituent or per class that has particles, each as a share of itself.

    Args:
        by: "constituent" or "class".

    Returns:
        gradings by name, in the order of EN 933-11 or of the map; see :func:`grade` for the rest.
    """
    if by not in ("constituent", "class"):
        raise RamsesError(f"gradings by {by!r}: give constituent or class")
    openings = sieve_series(sieves)
    sample = take_sample(table, mapping, foreign, weight, size)
    left_out = sample.left_out[sample.left_out["constituent"] != SCALE]
    present = set(sample.rows[by]) | set(left_out[by])
    order = [name for name in (CONSTITUENTS if by == "constituent" else mapping.classes) if name in present]
    gradings = {}
    for name in [*order, *sorted(present - set(order))]:
        rows = sample.rows[sample.rows[by] == name].reset_index(drop=True)
        part = Sample(rows, left_out[left_out[by] == name].reset_index(drop=True), ())
        gradings[name] = _grade(part, openings, size, weight, resampling, foreign)
    return gradings


def _grade(
    sample: Sample,
    openings: tuple[float, ...],
    size: SieveSize,
    weight: str,
    resampling: Resampling | None,
    foreign: str,
) -> Grading:
    rows = sample.rows.sort_values("size_mm", kind="stable")
    weights, particle_sizes = rows["weight"].to_numpy(float), rows["size_mm"].to_numpy(float)
    sizes, starts = np.unique(particle_sizes, return_index=True)
    limits = (FINES_SIEVE, *openings)
    number, passing = number_passing(sizes, limits), number_passing(particle_sizes, limits)
    units, remark = resampling.units(rows["baseimg"]) if resampling else (None, "")

    value = curve_figures(weights[None], sizes, starts, number)[0]
    low = high = np.full_like(value, np.nan)
    amount, unequal = float(weights.sum()), ""
    if units is not None and amount > 0:
        draws = replicate_weights(units, resampling)
        replicates = np.concatenate([curve_figures(draw * weights, sizes, starts, number) for draw in draws])
        low, high = interval(replicates, resampling.confidence)
        unequal = unequal_weights(np.bincount(units, weights), resampling.over)
        shares, levels = slice(len(limits)), slice(len(limits), len(limits) + len(LEVELS))
        low[shares], high[shares] = passing_band(weights, units, passing, resampling)
        low[levels], high[levels] = size_intervals(LEVELS, weights, particle_sizes, units, resampling)
        _open_quotients(low[levels.start :], high[levels.start :])
        low, high = np.minimum(low, value), np.maximum(high, value)
    figures = pd.DataFrame({"value": value, "low": low, "high": high})
    per_size = np.add.reduceat(weights, starts) if len(starts) else weights
    return Grading(
        **_tables(figures, openings, amount, passing, len(rows)),
        left_out=sample.left_out,
        particles=len(rows),
        amount=amount,
        weight=weight,
        unit=WEIGHTS[weight],
        size=size,
        resampling=resampling if units is not None else None,
        notes=tuple(note for note in (*sample_notes(sample, foreign), remark, unequal) if note),
        curve=pd.DataFrame({"size_mm": sizes, "passing": np.cumsum(per_size) / (amount or np.nan)}),
    )


def _open_quotients(low: np.ndarray, high: np.ndarray) -> None:
    """Cu = D60 / D10 and Cc = D30^2 / (D10 D60) have no end where a D that they are made of has none, in place."""
    d10, d30, _, d60, _, cu, cc = range(len(LEVELS) + 2)
    if low[d10] == 0 or high[d60] == np.inf:
        high[cu] = np.inf
    if low[d10] == 0 or high[d30] == np.inf:
        high[cc] = np.inf
    if low[d30] == 0 or high[d60] == np.inf:
        low[cc] = 0.0


def _tables(
    figures: pd.DataFrame, openings: tuple[float, ...], amount: float, passing: np.ndarray, particles: int
) -> dict[str, pd.DataFrame]:
    """The tables of a grading.

    Args:
        figures: value, low, high of what :func:`.cumulative_curve.curve_figures` lists: fines, sieves, sizes.
        amount: total weight.
        passing: (1 + S,) how many particles pass the fines sieve and each sieve; ``particles`` in all.
    """
    fines, at_sieves = figures.iloc[0], figures.iloc[1 : 1 + len(openings)].reset_index(drop=True)
    sizes = figures.iloc[1 + len(openings) :].reset_index(drop=True)
    smallest, largest = at_sieves.iloc[0], at_sieves.iloc[-1]
    retained = np.diff(at_sieves["value"], append=1.0)
    sieves = pd.DataFrame(
        {
            "sieve_mm": openings,
            "passing": at_sieves["value"],
            "low": at_sieves["low"],
            "high": at_sieves["high"],
            "retained": retained,
            "retained_amount": retained * amount,
            "retained_particles": np.diff(passing[1:], append=particles),
        }
    )
    tails = pd.DataFrame(
        [
            (BELOW_SMALLEST, openings[0], *smallest, passing[1]),
            (FINES, FINES_SIEVE, *fines, passing[0]),
            (OVERSIZE, openings[-1], *(1 - largest[["value", "high", "low"]]), particles - passing[-1]),
        ],
        columns=["name", "limit_mm", "fraction", "low", "high", "particles"],
    )
    tails.insert(5, "amount", tails["fraction"] * amount)
    tails["remark"] = np.where(tails["particles"] == 0, NONE_SEEN, "")
    units = ["mm"] * len(LEVELS) + ["", ""]
    return {"sieves": sieves, "tails": tails, "sizes": sizes.assign(name=_SIZE_NAMES, unit=units)[_SIZE_COLUMNS]}
