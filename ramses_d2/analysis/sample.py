"""Which particles a figure is made of, and which are left out, by reason: nothing disappears without a line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ramses_d2.errors import RamsesError

from .constituents import DEFAULT_MAP, SCALE, ConstituentMap
from .sieves import SieveSize, passes

WEIGHTS = {"mass": "g", "count": "particles", "area": "mm2"}
LEFT_OUT_COLUMNS = ["reason", "class", "constituent", "particles", "particle_share", "area_share", "mass_g"]
SCALE_OBJECT, UNKNOWN_SIZE = "scale object", "unknown size"


@dataclass(frozen=True)
class Sample:
    """The particles of a figure.

    Attributes:
        rows: class, constituent, baseimg, weight (g, 1 or mm2), size_mm (NaN unless asked for), one row per particle.
        left_out: ``LEFT_OUT_COLUMNS``, one row per reason and class. Shares are of all particles but scale objects,
            by number and by area (mm2, or px if the resolution of some is unknown); mass_g counts known masses only.
        foreign: classes that the map does not hold.
    """

    rows: pd.DataFrame
    left_out: pd.DataFrame
    foreign: tuple[str, ...]


def take_sample(
    table: pd.DataFrame,
    mapping: ConstituentMap = DEFAULT_MAP,
    foreign: str = "error",
    weight: str = "mass",
    size: SieveSize | None = None,
    size_range: tuple[float, float] | None = None,
) -> Sample:
    """Split a particle table into what counts and what is left out.

    Args:
        table: particle table; needs class, and mass, area, res ... as asked for.
        mapping, foreign: see :meth:`ConstituentMap.assign`.
        weight: key of ``WEIGHTS``; particles of unknown weight are left out.
        size: sieve size, if the figure needs one; particles of unknown size are left out.
        size_range: in mm; keep what passes the second sieve and stays on the first.

    Raises:
        RamsesError: a column is missing, a class has no constituent, a mass is below 0, or a range is upside down.
    """
    if weight not in WEIGHTS:
        raise RamsesError(f"weight {weight!r}: give one of {', '.join(WEIGHTS)}")
    if size_range is not None and not 0 <= size_range[0] < size_range[1]:
        raise RamsesError(f"size range {size_range}: give two sieves in mm, the smaller first, such as 4 and 63")
    if size_range is not None and size is None:
        size = SieveSize()
    _require(table, ["class"])
    rows = pd.DataFrame(
        {
            "class": table["class"].astype(str).to_numpy(object),
            "constituent": mapping.assign(table["class"], foreign).to_numpy(object),
            "baseimg": table["baseimg"].to_numpy(object) if "baseimg" in table else None,
            "weight": _weights(table, weight),
            "size_mm": np.nan if size is None else size.of(table),
            "mass_g": _masses(table) if "mass" in table else np.nan,
            "area": _areas(table),
        },
        index=range(len(table)),
    )
    reason = pd.Series("", index=rows.index, dtype=object)
    if size_range is not None:
        inside = passes(rows["size_mm"], size_range[1]) & ~passes(rows["size_mm"], size_range[0])
        reason[~inside] = f"outside {size_range[0]:g}-{size_range[1]:g} mm"
    if size is not None:
        reason[rows["size_mm"].isna()] = UNKNOWN_SIZE
    reason[rows["weight"].isna()] = f"unknown {weight}"
    reason[rows["constituent"] == SCALE] = SCALE_OBJECT
    # Sorted, so that the draws of a bootstrap do not depend on the order of the table
    used = rows.loc[reason == "", ["class", "constituent", "baseimg", "weight", "size_mm"]]
    used = used.sort_values(["class", "weight", "size_mm"], kind="stable")
    return Sample(used.reset_index(drop=True), _left_out(rows, reason), tuple(mapping.unlisted(table["class"])))


def cut_by_edge(table: pd.DataFrame) -> pd.Series | None:
    """(n,) bool: which particles the edge of their image cuts; None if the table has no column edge.

    An empty text comes back from a CSV file as NaN, and where such a table was written again, as the text "nan".
    """
    if "edge" not in table:
        return None
    edges = table["edge"].astype(object)
    return edges.notna() & ~edges.astype(str).str.strip().str.lower().isin(("", "nan"))


def _left_out(rows: pd.DataFrame, reason: pd.Series) -> pd.DataFrame:
    """Count what has a reason; shares are of the aggregate, which scale objects are no part of."""
    aggregate = rows["constituent"] != SCALE
    number, area = int(aggregate.sum()), float(rows.loc[aggregate, "area"].sum())
    lines = []
    for (why, name), part in rows[reason != ""].groupby([reason[reason != ""], "class"], sort=True):
        is_scale = why == SCALE_OBJECT
        lines.append(
            {
                "reason": why,
                "class": name,
                "constituent": part["constituent"].iloc[0],
                "particles": len(part),
                "particle_share": np.nan if is_scale else len(part) / number,
                "area_share": np.nan if is_scale or not area > 0 else part["area"].sum(skipna=False) / area,
                "mass_g": part["mass_g"].sum(min_count=1),
            }
        )
    return pd.DataFrame(lines, columns=LEFT_OUT_COLUMNS)


def _weights(table: pd.DataFrame, weight: str) -> np.ndarray:
    """(n,) float, NaN = unknown."""
    if weight == "count":
        return np.ones(len(table))
    if weight == "mass":
        _require(table, ["mass"])
        return _masses(table)
    areas = _areas_mm2(table)
    if areas is None:
        raise RamsesError("the particle table has no areas: it needs area_mm2, or area and res")
    return areas


def _masses(table: pd.DataFrame) -> np.ndarray:
    """(n,) grams, NaN = unknown."""
    masses = table["mass"].to_numpy(float)
    below = np.flatnonzero(masses < 0)
    if len(below):
        row = table.iloc[below[0]]
        where = ", ".join(f"{name} {row[name]}" for name in ("baseimg", "label") if name in table)
        raise RamsesError(
            f"particle table row {below[0] + 1} ({where}): mass {row['mass']} g is below 0:"
            " correct it, or leave it empty"
        )
    return np.where(np.isfinite(masses), masses, np.nan)


def _areas(table: pd.DataFrame) -> np.ndarray:
    """(n,) areas to take shares of: mm2 if all are known, else px; NaN without either."""
    areas = _areas_mm2(table)
    if areas is not None and not np.isnan(areas).any():
        return areas
    return table["area"].to_numpy(float) if "area" in table else np.full(len(table), np.nan)


def _areas_mm2(table: pd.DataFrame) -> np.ndarray | None:
    if "area_mm2" in table:
        areas = table["area_mm2"].to_numpy(float)
    elif "area" in table and "res" in table:
        resolution = table["res"].to_numpy(float)
        areas = table["area"].to_numpy(float) / np.where(resolution > 0, resolution, np.nan) ** 2
    else:
        return None
    return np.where(np.isfinite(areas), areas, np.nan)


def _require(table: pd.DataFrame, columns: list[str]) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise RamsesError(f"the particle table has no column {missing[0]}: give the annotations.csv of a prediction")
