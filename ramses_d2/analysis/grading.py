"""Grading after EN 933-1: which share of the sample passes each sieve, and the sizes D10 to D90 of its curve.

Conventions: a particle exactly as large as an opening passes it, so passing(b) = share of the weight with size <= b,
and sieve b holds the sizes from b (excluded) to the next larger opening (included). The denominator is all that was
weighed and measured, oversize included. Fractions are 0 to 1.

Letters: n particles, m different sizes, S openings, P levels, R replicates (r of them at a time).
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
from ramses_d2.files import json_values

LEVELS = (0.10, 0.30, 0.50, 0.60, 0.90)
BELOW_SMALLEST, FINES, OVERSIZE = "below smallest sieve", "fines", "oversize"
_SIZES = {**{f"D{100 * level:.0f}": "mm" for level in LEVELS}, "Cu": "", "Cc": ""}  # name -> unit
_POINTS = 200  # of the curve at which the band is computed for the sizes; rising by half a percent of the weight
_LARGEST = 5  # particles whose heaviest stands for the largest of a sample: the largest itself may be flat and light


@dataclass(frozen=True)
class Grading:
    """A grading curve."""

    # One row per sieve, rising: sieve_mm, passing (share that goes through), low, high (its interval), retained (share
    # that stays on this sieve), retained_amount (in ``unit``), retained_particles. The retained shares and the tail
    # "below smallest sieve" (the pan) add up to 1
    sieves: pd.DataFrame
    # name, limit_mm, fraction, low, high, amount, particles, remark ("none seen" or empty) of "below smallest sieve",
    # "fines" (passing 0.063 mm, EN 933-1) and "oversize" (stays on the largest sieve; also in the last row of sieves)
    tails: pd.DataFrame
    # name, value, low, high, unit of D10 ... D90 (mm), Cu = D60 / D10 and Cc = D30^2 / (D10 D60); the ends are 0 or
    # infinity where the sample sets no bound
    sizes: pd.DataFrame
    left_out: pd.DataFrame  # what is not in the curve, by reason (:class:`~ramses_d2.analysis.sample.Sample`)
    particles: int
    amount: float
    weight: str  # "mass", "count" or "area"
    unit: str  # of ``amount``: g, particles or mm2
    size: SieveSize
    resampling: Resampling | None  # None = no intervals
    notes: tuple[str, ...]  # sentences that a reader of the curve must know
    curve: pd.DataFrame = field(repr=False, compare=False)  # size_mm, passing: one row per different particle size

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``; unknown ones are None, ``curve`` is left out."""
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
    """The grading of all particles of a table but scale objects; ``weight`` ("mass", "count", "area") is summed.

    The interval of a passing share reaches what was not seen, as in the composition: ten particles without fines do not
    show that there are none. D values lie on the cumulative curve of the particles themselves, not of the sieves:
    straight lines in log(size) between neighbouring sizes; a level that the smallest particle reaches alone has its
    size. ``mapping`` and ``foreign`` (:meth:`ConstituentMap.assign`) only tell scale objects apart.
    """
    sample = take_sample(table, mapping, foreign, weight, size)
    return _grade(sample, sieve_series(sieves), size, weight, resampling, foreign)


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
    """One grading per constituent (or ``by`` class) that has particles, each as a share of itself, as :func:`grade`.

    In the order of EN 933-11, or of the map.
    """
    sample = take_sample(table, mapping, foreign, weight, size)
    left_out = sample.left_out[sample.left_out["constituent"] != SCALE]
    present = set(sample.rows[by]) | set(left_out[by])
    order = [name for name in (CONSTITUENTS if by == "constituent" else mapping.classes) if name in present]
    gradings = {}
    for name in [*order, *sorted(present - set(order))]:
        rows, missing = (found[found[by] == name].reset_index(drop=True) for found in (sample.rows, left_out))
        part = Sample(rows, missing, ())
        gradings[name] = _grade(part, sieve_series(sieves), size, weight, resampling, foreign)
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

    value = curve_values(weights[None], sizes, starts, number)[0]
    low = high = np.full_like(value, np.nan)
    amount, unequal = float(weights.sum()), ""
    if units is not None and amount > 0:
        draws = replicate_weights(units, resampling)
        replicates = np.concatenate([curve_values(draw * weights, sizes, starts, number) for draw in draws])
        # Plain quantiles serve Cu and Cc; shares and D values take in what was not seen
        low, high = interval(replicates, resampling.confidence)
        unequal = unequal_weights(np.bincount(units, weights), resampling.over)
        shares, levels = slice(len(limits)), slice(len(limits), len(limits) + len(LEVELS))
        low[shares], high[shares] = passing_band(weights, units, passing, resampling)
        low[levels], high[levels] = size_intervals(LEVELS, weights, particle_sizes, units, resampling)
        _open_quotients(low[levels.start :], high[levels.start :])
        low, high = np.minimum(low, value), np.maximum(high, value)

    values = pd.DataFrame({"value": value, "low": low, "high": high})
    at_sieves = values.iloc[1 : len(limits)].reset_index(drop=True)
    retained = np.diff(at_sieves["value"], append=1.0)
    smallest, largest = at_sieves.iloc[0], at_sieves.iloc[-1]
    tails = pd.DataFrame(
        [
            (BELOW_SMALLEST, openings[0], *smallest, passing[1]),
            (FINES, FINES_SIEVE, *values.iloc[0], passing[0]),
            (OVERSIZE, openings[-1], *(1 - largest[["value", "high", "low"]]), len(rows) - passing[-1]),
        ],
        columns=["name", "limit_mm", "fraction", "low", "high", "particles"],
    )
    tails.insert(5, "amount", tails["fraction"] * amount)
    tails["remark"] = np.where(tails["particles"] == 0, NONE_SEEN, "")
    characteristic = values.iloc[len(limits) :].reset_index(drop=True)
    per_size = np.add.reduceat(weights, starts) if len(starts) else weights
    return Grading(
        sieves=pd.DataFrame(
            {
                "sieve_mm": openings,
                "passing": at_sieves["value"],
                "low": at_sieves["low"],
                "high": at_sieves["high"],
                "retained": retained,
                "retained_amount": retained * amount,
                "retained_particles": np.diff(passing[1:], append=len(rows)),
            }
        ),
        tails=tails,
        sizes=characteristic.assign(name=_SIZES.keys(), unit=_SIZES.values())[["name", "value", "low", "high", "unit"]],
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


def curve_values(weights: np.ndarray, sizes: np.ndarray, starts: np.ndarray, number_passing: np.ndarray) -> np.ndarray:
    """(r, S + P + 2) share that passes each opening, D values of ``LEVELS`` in mm, D60 / D10 and D30^2 / (D10 D60).

    ``weights`` (r, n) of particles of rising size, ``sizes`` (m,) the different sizes in mm, ``starts`` (m,) the first
    particle of each, ``number_passing`` (S,) how many of the sizes pass each opening. NaN in rows without weight.
    """
    if len(starts):
        cumulative = np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1)
        total = cumulative[:, -1:]
        shares = np.divide(cumulative, total, out=np.full_like(cumulative, np.nan), where=total > 0)
    else:
        shares = np.empty((len(weights), 0))
    # One column of zeros in front: what passes an opening that no size passes
    padded = np.concatenate([np.zeros((len(weights), 1)), shares], axis=1)
    padded[np.isnan(shares).any(axis=1) | (len(sizes) == 0)] = np.nan
    at_levels = sizes_at(LEVELS, shares, sizes)
    d10, d30, _, d60, _ = at_levels.T
    return np.column_stack([padded[:, number_passing], at_levels, d60 / d10, d30**2 / (d10 * d60)])


def sizes_at(levels: Sequence[float], shares: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(r, P) sizes in mm that shares ``levels`` (P,) of the weight do not exceed.

    ``shares`` (r, m) is the cumulative share at each of the rising ``sizes`` (m,) in mm. Straight lines in log(size)
    between neighbouring sizes that have weight; a level that the smallest reaches alone has its size. NaN for NaN.
    """
    levels = np.asarray(levels, float)
    found = np.full((len(shares), len(levels)), np.nan)
    logs = np.log(sizes)
    for row, share in enumerate(shares):
        if not len(share) or np.isnan(share[-1]):
            continue
        upper = np.searchsorted(share, levels)
        below = np.where(upper > 0, share[upper - 1], 0.0)
        # Sizes without weight in this row are not points of its curve: go down to where the share was reached
        lower = np.searchsorted(share, below)
        step = (levels - below) / (share[upper] - below)
        found[row] = np.where(below > 0, np.exp(logs[lower] + step * (logs[upper] - logs[lower])), sizes[upper])
    return found


def passing_band(
    weights: np.ndarray, units: np.ndarray, passing: np.ndarray, resampling: Resampling
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends (S,) of the passing shares, 0 to 1, both rising.

    ``weights`` and ``units`` (n,) of the particles by rising size, ``passing`` (S,) how many pass each opening.
    """
    draws = [np.cumsum(draw * weights, axis=1) for draw in replicate_weights(units, resampling)]
    through = np.concatenate([np.pad(draw, ((0, 0), (1, 0)))[:, passing] for draw in draws])  # (R, S)
    total = np.concatenate([draw[:, -1] for draw in draws])
    unseen = []
    for number in passing:
        own, rest = (
            np.bincount(units[part], weights[part], minlength=int(units.max()) + 1)
            for part in (slice(number), slice(number, None))
        )
        # What stays on a sieve is larger than all that passes, so no lighter than the largest of that
        largest = float(weights[max(0, number - _LARGEST) : number].max(initial=0.0))
        unseen.append((unseen_weight(own, rest), max(unseen_weight(rest, own), largest)))
    low, high = share_interval(through, total[:, None] - through, np.transpose(unseen), resampling)
    # A larger sieve passes no less: a band that a heavy particle has widened stays as wide until the curve is there
    return np.minimum.accumulate(low[::-1])[::-1], np.maximum.accumulate(high)


def size_intervals(
    levels: Sequence[float], weights: np.ndarray, sizes: np.ndarray, units: np.ndarray, resampling: Resampling
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends (P,) in mm of the sizes that shares ``levels`` of the weight pass; 0 and infinity = no bound.

    ``weights``, ``sizes`` (rising, mm) and ``units`` (n,) of the particles. After Woodruff (Journal of the American
    Statistical Association 47, 1952): a size is in the interval of a quantile if the level is in that of its share.
    """
    # The band at some of the different sizes, and below all of them
    ends = np.append(np.flatnonzero(np.diff(sizes)) + 1, len(sizes))  # particles up to each different size
    shares = np.cumsum(weights)[ends - 1] / weights.sum()
    chosen = np.unique(np.searchsorted(shares, np.linspace(0, 1, _POINTS)).clip(max=len(ends) - 1))
    low, high = passing_band(weights, units, np.concatenate([[0], ends[chosen]]), resampling)
    at = np.log(sizes[ends[chosen] - 1])

    def where(shares: np.ndarray) -> np.ndarray:
        """The sizes at which a rising line of shares, one per point, reaches the levels."""
        reached = np.exp(np.interp(levels, shares[1:], at))
        return np.select([shares[0] >= levels, shares[-1] < levels], [0.0, np.inf], reached)

    # The upper end of the shares reaches a level first, so it gives the smaller size
    return where(high), where(low)


def _open_quotients(low: np.ndarray, high: np.ndarray) -> None:
    """Cu = D60 / D10 and Cc = D30^2 / (D10 D60) have no end where a D that they are made of has none, in place."""
    d10, d30, _, d60, _, cu, cc = range(len(LEVELS) + 2)
    if low[d10] == 0 or high[d60] == np.inf:
        high[cu] = np.inf
    if low[d10] == 0 or high[d30] == np.inf:
        high[cc] = np.inf
    if low[d30] == 0 or high[d60] == np.inf:
        low[cc] = 0.0
