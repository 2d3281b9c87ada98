"""What of a run counts: which class stands for which constituent, sieve sizes, and the particles that are weighed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import yaml

from ramses_d2.errors import RamsesError

# EN 933-11: what the laboratory picks apart by hand, in the order in which results are listed
CONSTITUENTS = {
    "Rc": "concrete, mortar, concrete masonry",
    "Ru": "natural stone, unbound and hydraulically bound aggregate",
    "Rb": "bricks, tiles, calcium silicate masonry, non-floating aerated concrete",
    "Ra": "bituminous materials",
    "Rg": "glass",
    "X": "other: clay and soil, metals, non-floating wood, plastic, rubber, gypsum plaster",
}
# Floating material is a volume per kg (cm3/kg), measured in water: an image cannot show it
FLOATING, FLOATING_DESCRIPTION, FLOATING_REMARK = "FL", "floating material (cm3/kg)", "not visible in images"
# What a map says of a coin or a ruler: an object of known size, not a part of the sample
SCALE = "scale"

_RAMSES_CLASSES = {
    "Rc": ("Rc", "Rcu01"),  # Rcu01 is lime mortar; the "Rcu" of product standards is the sum of Rc and Ru
    "Ru": ("Ru", "Ru01", "Ru02", "Ru03", "Ru04", "Ru05", "Ru06"),
    "Rb": ("Rb", "Rb01", "Rb02"),
    "Ra": ("Ra",),
    "Rg": ("Rg",),
    "X": ("X", "X01", "X02", "X03", "X04", "UNKNOWN", "Pl", "SHELLS"),
    SCALE: ("Coin",),
}
_HEADING = """\
# The constituent of EN 933-11 that each class counts as: Rc Ru Rb Ra Rg X, or "scale" for coins and other
# objects of known size, which are no part of the sample. Classes that are not listed keep the built-in entry.
"""


@dataclass(frozen=True)
class ConstituentMap:
    """Which constituent (or ``SCALE``) each class counts as."""

    classes: Mapping[str, str]
    source: str = "built-in"  # for messages: else the name of the YAML file
    own: tuple[str, ...] = ()  # the classes that the file names

    def assign(self, names: pd.Series, foreign: str = "error") -> pd.Series:
        """The constituent of each class name; ``foreign`` is that of classes outside the map, or "error"."""
        if foreign != "error" and foreign not in CONSTITUENTS:
            raise RamsesError(f"classes outside the map as {foreign!r}: give one of {' '.join(CONSTITUENTS)}, or error")
        unlisted = self.unlisted(names)
        if unlisted and foreign == "error":
            more = f" and {len(unlisted) - 5} more" if len(unlisted) > 5 else ""
            raise RamsesError(
                f"no constituent is known for class {', '.join(unlisted[:5])}{more} (map: {self.source}): add a line"
                f' such as "{unlisted[0]}: X" to the YAML file of the constituent map'
            )
        return names.astype(str).map(lambda name: self.classes.get(name, foreign)).astype(object)

    def unlisted(self, names: pd.Series) -> list[str]:
        """Class names that the map does not hold, sorted."""
        return sorted(set(names.astype(str)) - set(self.classes))

    def to_yaml(self) -> str:
        """The map as the text of a YAML file to edit; :func:`load_map` reads it back."""
        # Quotes, because YAML would read a bare No or 12 as something else than a name
        quoted = {json.dumps(name, ensure_ascii=False): constituent for name, constituent in self.classes.items()}
        return _HEADING + "".join(f'{name}: "{constituent}"\n' for name, constituent in quoted.items())


DEFAULT_MAP = ConstituentMap(
    MappingProxyType({name: constituent for constituent, names in _RAMSES_CLASSES.items() for name in names})
)


def load_map(path: str | Path, base: ConstituentMap = DEFAULT_MAP) -> ConstituentMap:
    """Read a YAML file with one ``class: constituent`` line per class; others keep their entry in ``base``."""
    path = Path(path)
    try:
        # The nodes, not the values: every name stays text, and every line has its number
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RamsesError(f"{path}: not a readable constituent map: {' '.join(str(error).split())}") from error
    if not isinstance(root, yaml.MappingNode):
        raise RamsesError(f'{path}: not a constituent map: write one line such as "Rb01: Rb" for each class')
    own: dict[str, str] = {}
    known = [*CONSTITUENTS, SCALE]
    for key, value in root.value:
        where = f"{path} line {key.start_mark.line + 1}"
        if not (isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)):
            raise RamsesError(f'{where}: not one class and one constituent: write a line such as "Rb01: Rb"')
        if key.value in own:
            raise RamsesError(f"{where}: class {key.value} comes twice: keep one of the lines")
        if value.value == FLOATING:
            raise RamsesError(f"{where}: FL is a volume that floats in water, which no image shows: use X")
        if value.value not in known:
            close = get_close_matches(value.value, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise RamsesError(f"{where}: no constituent {value.value!r}: {hint}give one of {' '.join(known)}")
        own[key.value] = value.value
    return ConstituentMap(MappingProxyType({**base.classes, **own}), path.name, tuple(own))


# Openings in mm. EN: the series of EN 12620 / EN 13242 (clause 4.2, Table 1), square holes after EN 933-2.
SIEVE_SERIES: dict[str, tuple[float, ...]] = {
    "en-fine": (0.063, 0.125, 0.25, 0.5, 1, 2, 4),
    "en-basic": (1, 2, 4, 8, 16, 31.5, 63),
    "en-set1": (1, 2, 4, 5.6, 8, 11.2, 16, 22.4, 31.5, 45, 63),
    "en-set2": (1, 2, 4, 6.3, 8, 10, 12.5, 14, 16, 20, 31.5, 40, 63),
    # What ASTM C33 and C136 gradings are given in, out of ASTM E11
    "astm": (0.075, 0.15, 0.3, 0.6, 1.18, 2.36, 4.75, 9.5, 12.5, 19, 25, 37.5, 50, 63, 75, 90, 100),
    "ramses": (0.5, 1, 2, 4, 8, 10, 12.5, 16, 20, 31.5, 63, 100),
}
FINES_SIEVE = 0.063  # mm; EN 933-1: what passes it is called fines
# A particle as large as the opening passes; sizes come from divisions, so "as large" needs this much room
_SAME = 1 + 1e-9


def sieve_series(series: str | Sequence[float]) -> tuple[float, ...]:
    """Rising openings in mm of a name of ``SIEVE_SERIES`` or of openings, also as text: "4,8,16"."""
    if isinstance(series, str) and series in SIEVE_SERIES:
        return SIEVE_SERIES[series]
    try:
        openings = sorted({float(part) for part in (series.split(",") if isinstance(series, str) else series)})
    except (TypeError, ValueError):
        openings = []
    if not openings or not all(np.isfinite(opening) and opening > 0 for opening in openings):
        names = ", ".join(SIEVE_SERIES)
        raise RamsesError(f"sieves {series!r}: give one of {names}, or openings in mm above 0 such as 4,8,16")
    return tuple(openings)


def passes(sizes: np.ndarray, opening: float) -> np.ndarray:
    """(n,) bool: which particles go through; one exactly as large as the opening does."""
    return sizes <= opening * _SAME


def number_passing(rising_sizes: np.ndarray, openings: Sequence[float]) -> np.ndarray:
    """(S,) how many of the (n,) ``rising_sizes`` go through each of the S openings, by the rule of :func:`passes`."""
    return np.searchsorted(rising_sizes, np.asarray(openings, float) * _SAME, side="right")


# measure -> (column in mm, column in px, factor of the latter)
_MEASURES = {
    "feret_min": ("feret_min_mm", "min_feret_diameter", 1.0),
    "inscribed": ("inscribed_diameter_mm", "max_inscribed_radius", 2.0),
    "ellipse_minor": (None, "axis_minor_length", 1.0),
}


@dataclass(frozen=True)
class SieveSize:
    """How the sieve size of a particle is taken from its outline: factor * measure.

    "feret_min" is the smallest caliper width, the usual stand-in for the middle axis that decides in a sieve;
    "inscribed" the largest circle inside; "ellipse_minor" the minor axis of the ellipse of equal moments.

    The factor 1 is right for grains about as thick as they are wide. A flat grain of width b and thickness t goes
    through a square opening along its diagonal: factor sqrt((1 + (t / b)^2) / 2), about 0.7 to 0.9 for coarse aggregate
    (Mora, Kwan and Chan, Cement and Concrete Research 28(6), 1998). An image from above does not show t.
    """

    measure: str = "feret_min"
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.measure not in _MEASURES:
            raise RamsesError(f"sieve size from {self.measure!r}: give one of {', '.join(_MEASURES)}")
        if not (np.isfinite(self.factor) and self.factor > 0):
            raise RamsesError(f"sieve size factor {self.factor}: give a number above 0, such as 0.85")

    def of(self, table: pd.DataFrame) -> np.ndarray:
        """(n,) sieve sizes in mm of a particle table; NaN where the resolution or the measure is unknown or not > 0."""
        in_mm, in_px, factor = _MEASURES[self.measure]
        if in_mm in table:
            sizes = table[in_mm].to_numpy(float)
        elif in_px in table and "res" in table:
            sizes = factor * table[in_px].to_numpy(float) / _positive(table["res"])
        else:
            wanted = f"{in_mm}, or {in_px} and res" if in_mm else f"{in_px} and res"
            raise RamsesError(f"the particle table has no sizes for {self.measure}: it needs {wanted}")
        return _positive(self.factor * sizes)


WEIGHTS = {"mass": "g", "count": "particles", "area": "mm2"}
LEFT_OUT_COLUMNS = ["reason", "class", "constituent", "particles", "particle_share", "area_share", "mass_g"]
SCALE_OBJECT, UNKNOWN_SIZE = "scale object", "unknown size"


@dataclass(frozen=True)
class Sample:
    """The particles that a result is made of, and those that are left out."""

    # One row per particle: class, constituent, baseimg, weight (g, 1 or mm2), size_mm (NaN unless asked for)
    rows: pd.DataFrame
    # ``LEFT_OUT_COLUMNS``, one row per reason and class. Shares are of all particles but scale objects, by number and
    # by area (mm2, or px if the resolution of some is unknown); mass_g sums known masses only
    left_out: pd.DataFrame
    foreign: tuple[str, ...]  # classes that the map does not hold


def take_sample(
    table: pd.DataFrame,
    mapping: ConstituentMap = DEFAULT_MAP,
    foreign: str = "error",
    weight: str = "mass",
    size: SieveSize | None = None,
    size_range: tuple[float, float] | None = None,
) -> Sample:
    """Split a particle table into what counts and what is left out.

    ``weight`` is a key of ``WEIGHTS``; ``size`` is given where sieve sizes are needed. ``size_range`` in mm keeps what
    passes the second sieve and stays on the first. Particles of unknown weight, or of an unknown size that is needed,
    are left out; ``foreign`` as in :meth:`ConstituentMap.assign`.
    """
    if weight not in WEIGHTS:
        raise RamsesError(f"weight {weight!r}: give one of {', '.join(WEIGHTS)}")
    if size_range is not None and not 0 <= size_range[0] < size_range[1]:
        raise RamsesError(f"size range {size_range}: give two sieves in mm, the smaller first, such as 4 and 63")
    if size_range is not None and size is None:
        size = SieveSize()
    for name in ("class", "mass") if weight == "mass" else ("class",):
        if name not in table:
            raise RamsesError(f"the particle table has no column {name}: give the annotations.csv of a prediction")
    areas = _areas_mm2(table)
    if weight == "area" and areas is None:
        raise RamsesError("the particle table has no areas: it needs area_mm2, or area and res")
    grams = _masses(table) if "mass" in table else np.full(len(table), np.nan)
    if areas is None or np.isnan(areas).any():
        shown = table["area"].to_numpy(float) if "area" in table else np.nan
    else:
        shown = areas
    rows = pd.DataFrame(
        {
            "class": table["class"].astype(str).to_numpy(object),
            "constituent": mapping.assign(table["class"], foreign).to_numpy(object),
            "baseimg": table["baseimg"].to_numpy(object) if "baseimg" in table else None,
            "weight": {"mass": grams, "count": np.ones(len(table)), "area": areas}[weight],
            "size_mm": np.nan if size is None else size.of(table),
            "mass_g": grams,
            "area": shown,
        },
        index=range(len(table)),
    )
    # Of several reasons the last one is told
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
    """Count what has a reason; scale objects are not a part of the aggregate that shares are of."""
    aggregate = rows["constituent"] != SCALE
    number, area = int(aggregate.sum()), float(rows.loc[aggregate, "area"].sum())
    lines = []
    for (why, name), part in rows[reason != ""].groupby([reason[reason != ""], "class"], sort=True):
        is_scale = why == SCALE_OBJECT
        share = np.nan if is_scale else len(part) / number
        area_share = np.nan if is_scale or not area > 0 else part["area"].sum(skipna=False) / area
        constituent, grams = part["constituent"].iloc[0], part["mass_g"].sum(min_count=1)
        lines.append((why, name, constituent, len(part), share, area_share, grams))
    return pd.DataFrame(lines, columns=LEFT_OUT_COLUMNS)


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


def _areas_mm2(table: pd.DataFrame) -> np.ndarray | None:
    """(n,) areas, NaN = unknown; None if the table has no columns for them."""
    if "area_mm2" in table:
        areas = table["area_mm2"].to_numpy(float)
    elif "area" in table and "res" in table:
        areas = table["area"].to_numpy(float) / _positive(table["res"]) ** 2
    else:
        return None
    return np.where(np.isfinite(areas), areas, np.nan)


def _positive(values: np.ndarray | pd.Series) -> np.ndarray:
    """``values`` as float, NaN where they are not above 0 and finite."""
    values = np.asarray(values, float)
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)
