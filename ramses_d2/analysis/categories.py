"""Categories of EN 12620 for the constituents of coarse recycled aggregate, and how certain each is.

Limits: EN 12620:2002+A1:2008, clause 5.8, Table 20. They are compared with the estimate as it is, not rounded first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .bootstrap import unseen_weight
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
