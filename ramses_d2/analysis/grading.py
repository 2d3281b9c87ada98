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

from ramses_d2.analysis.composition import NONE_SEEN, sample_notes
from ramses_d2.analysis.intervals import (
    Resampling,
    interval,
    replicate_weights,
    share_interval,
    unequal_weights,
    unseen_weight,
)
from ramses_d2.analysis.sample import (
    CONSTITUENTS,
    DEFAULT_MAP,
    FINES_SIEVE,
    SCALE,
    WEIGHTS,
    ConstituentMap,
    Sample,
    SieveSize,
    number_passing,
    sieve_series,
    take_sample,
)
from ramses_d2.errors import RamsesError
from ramses_d2.files import json_values

LEVELS = (0.10, 0.30, 0.50, 0.60, 0.90)


def curve_figures(weights: np.ndarray, sizes: np.ndarray, starts: np.ndarray, number_passing: np.ndarray) -> np.ndarray:
    """All figures of a grading.

    Args:
        weights: (r, n) weight of each particle.
        sizes: (m,) different sizes in mm, rising, above 0.
        starts: (m,) the first particle of each size.
        number_passing: (L,) how many of ``sizes`` pass each opening.

    Returns:
        (r, L + P + 2): share that passes each opening, D values of ``LEVELS`` in mm, Cu = D60 / D10 and
        Cc = D30^2 / (D10 D60). NaN in rows without weight.
    """
    shares = _shares(weights, starts)
    # One column of zeros in front: what passes an opening that no size passes
    padded = np.concatenate([np.zeros((len(weights), 1)), shares], axis=1)
    if not len(sizes):
        padded[:] = np.nan
    padded[np.isnan(shares).any(axis=1)] = np.nan
    at_levels = sizes_at(LEVELS, shares, sizes)
    d10, d30, _, d60, _ = at_levels.T
    return np.column_stack([padded[:, number_passing], at_levels, d60 / d10, d30**2 / (d10 * d60)])


def sizes_at(levels: Sequence[float], shares: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The sizes that given shares of the weight do not exceed.

    Straight lines in log(size) between neighbouring sizes that have weight; a level that the smallest of them reaches
    alone has its size.

    Args:
        levels: (P,) shares, above 0 and up to 1.
        shares: (r, m) cumulative share at each size; the last is 1.
        sizes: (m,) in mm, rising, above 0.

    Returns:
        (r, P) in mm; NaN in rows of NaN.
    """
    levels = np.asarray(levels, float)
    found = np.full((len(shares), len(levels)), np.nan)
    logs = np.log(sizes)
    for row, share in enumerate(shares):
        if not len(share) or np.isnan(share[-1]):
            continue
        upper = np.searchsorted(share, levels)
        below = np.where(upper > 0, share[upper - 1], 0.0)
        # Sizes without weight in this row are no points of its curve: go down to where the share was reached
        lower = np.searchsorted(share, below)
        step = (levels - below) / (share[upper] - below)
        found[row] = np.where(below > 0, np.exp(logs[lower] + step * (logs[upper] - logs[lower])), sizes[upper])
    return found


def _shares(weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(r, m) cumulative share of the weight at each size."""
    if not len(starts):
        return np.empty((len(weights), 0))
    cumulative = np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1)
    total = cumulative[:, -1:]
    return np.divide(cumulative, total, out=np.full_like(cumulative, np.nan), where=total > 0)


_POINTS = 200  # of the curve at which the band is computed for the sizes; rising by half a percent of the weight
_LARGEST = 5  # particles whose heaviest stands for the largest of a sample: the largest itself may be flat and light


def passing_band(
    weights: np.ndarray, units: np.ndarray, passing: np.ndarray, resampling: Resampling
) -> tuple[np.ndarray, np.ndarray]:
    """The intervals of passing shares.

    Args:
        weights, units: (n,) of the particles in the order of their sizes.
        passing: (S,) how many of them pass each of the rising openings.

    Returns:
        low, high: (S,) 0 to 1, both rising.
    """
    draws = [np.cumsum(draw * weights, axis=1) for draw in replicate_weights(units, resampling)]
    through = np.concatenate([np.pad(draw, ((0, 0), (1, 0)))[:, passing] for draw in draws])  # (R, S)
    total = np.concatenate([draw[:, -1] for draw in draws])
    num_units = int(units.max()) + 1
    ends = []
    for index, number in enumerate(passing):
        own, rest = (
            np.bincount(units[part], weights[part], minlength=num_units)
            for part in (slice(number), slice(number, None))
        )
        # Whatever stays on a sieve is larger than all that passes, so no lighter than the largest of that
        largest = float(weights[max(0, number - _LARGEST) : number].max(initial=0.0))
        unseen = unseen_weight(own, rest), max(unseen_weight(rest, own), largest)
        ends.append(share_interval(through[:, index], total - through[:, index], unseen, resampling))
    low, high = np.transpose(ends)
    # A larger sieve passes no less: a band that a heavy particle has widened stays as wide until the curve is there
    return np.minimum.accumulate(low[::-1])[::-1], np.maximum.accumulate(high)


def size_intervals(
    levels: Sequence[float], weights: np.ndarray, sizes: np.ndarray, units: np.ndarray, resampling: Resampling
) -> tuple[np.ndarray, np.ndarray]:
    """The intervals of the sizes that given shares of the weight pass.

    Args:
        levels: (P,) shares, rising, above 0 and below 1.
        weights, units: (n,) of the particles in the order of their sizes.
        sizes: (n,) in mm, rising.

    Returns:
        low, high: (P,) in mm; 0 and infinity where the sample sets no bound.
    """
    ends = np.append(np.flatnonzero(np.diff(sizes)) + 1, len(sizes))  # particles up to each different size
    shares = np.cumsum(weights)[ends - 1] / weights.sum()
    chosen = np.unique(np.searchsorted(shares, np.linspace(0, 1, _POINTS)).clip(max=len(ends) - 1))
    low, high = passing_band(weights, units, np.concatenate([[0], ends[chosen]]), resampling)
    at = np.log(sizes[ends[chosen] - 1])

    def where(shares: np.ndarray) -> np.ndarray:
        """The sizes at which a rising line of shares, one per point, reaches the levels."""
        reached = np.exp(np.interp(levels, shares[1:], at))
        return np.select([shares[0] >= levels, shares[-1] < levels], [0.0, np.inf], reached)

    return where(high), where(low)


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
