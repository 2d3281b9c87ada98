"""Categories of EN 12620 for the constituents of coarse recycled aggregate, and how certain each is.

Limits: EN 12620:2002+A1:2008, clause 5.8, Table 20. They are compared with the estimate as it is, not rounded first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .bootstrap import effective_number
from .composition import Composition
from .constituents import CONSTITUENTS, FLOATING, FLOATING_REMARK
from .json_values import json_values

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

    The certainty of a category is the share of the bootstrap replicates that satisfy it, but at most
    1 - (1 - limit)^n, the confidence of the exact binomial bound: replicates hold nothing that was not seen, so every
    one of them satisfies a limit that the sample hardly touches, however small the sample. n is the effective number
    of particles (or pictures, where these are drawn) of the kinds that do not count against the limit: what was seen
    of the others adds nothing to it, so finding more of them never makes one surer.

    Args:
        composition: of :func:`.composition.compose`.
        certain: certainty that ``certain_category`` must have.
    """
    rows, summary = [], []
    for name, group in _TABLE.items():
        fraction, replicates = _fractions(composition, group)
        found = [
            {
                "group": name,
                "category": category,
                "limit": limit,
                "met": None if np.isnan(fraction) else bool(_met(fraction, limit, rule)),
                "certainty": _certainty(composition, group, fraction, replicates, limit, rule),
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


def _fractions(composition: Composition, group: _Group) -> tuple[float, np.ndarray]:
    """The group's fraction, and those of the replicates (R,)."""
    if not group.members:
        return np.nan, np.empty(0)
    table = composition.constituents.set_index("constituent")
    fraction = table.loc[list(group.members), "fraction"].sum(skipna=False)
    return float(fraction), composition.replicates[:, _columns(group)].sum(axis=1)


def _columns(group: _Group) -> np.ndarray:
    """(6,) bool: which of ``CONSTITUENTS`` are members."""
    return np.isin(list(CONSTITUENTS), group.members)


def _met(fraction: float | np.ndarray, limit: float, rule: str) -> np.ndarray:
    """Whether fractions (any shape) satisfy a category, bool of the same shape."""
    fraction = np.asarray(fraction)
    at_least, at_most = fraction >= limit / 100 - _SAME, fraction <= limit / 100 + _SAME
    rules = {"at least": at_least, "below": ~at_least, "at most": at_most, "above": ~at_most}
    return rules[rule] if rule in rules else np.ones_like(fraction, bool)


def _certainty(
    composition: Composition, group: _Group, fraction: float, replicates: np.ndarray, limit: float, rule: str
) -> float:
    """0 to 1; NaN without replicates, where the sample is empty or the group cannot be seen."""
    if np.isnan(fraction) or not len(replicates):
        return np.nan
    if rule == "any":
        return 1.0
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return np.nan
    # What speaks for the category, and how much of everything else would break it
    is_upper = rule in ("at most", "below")
    supporting = ~_columns(group) if is_upper else _columns(group)
    room = limit / 100 if is_upper else 1 - limit / 100
    effective = effective_number(composition.unit_grams[:, supporting].sum(axis=1))
    return min(float(np.mean(_met(known, limit, rule))), 1 - (1 - room) ** effective)


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
