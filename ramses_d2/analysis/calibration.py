"""Predicted against weighed batches, the correction factors that follow, and the resolution that coins tell."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from ramses_d2.analysis.intervals import Resampling, interval, replicate_sums
from ramses_d2.analysis.sample import cut_by_edge
from ramses_d2.data.batch_masses import COIN_CLASS, COIN_MASS, Batch, batch_of_images
from ramses_d2.errors import RamsesError
from ramses_d2.files import base_name, json_values

if TYPE_CHECKING:
    from ramses_d2.analysis.report.data import Run, WeighedBatches

# ---- predicted against weighed grams

PER_BATCH_COLUMNS = ["batch", "class", "pictures", "particles", "unknown_mass", "weighed_g", "predicted_g"]
_SUMMED = ["particles", "unknown_mass", "weighed_g", "predicted_g"]


@dataclass(frozen=True)
class Comparison:
    """Predicted and weighed grams."""

    # One row per batch and class that was weighed: batch (number from 1), class, pictures, particles (predicted),
    # unknown_mass (of those, how many count as 0 g), weighed_g, predicted_g, error_g, error (predicted / weighed - 1)
    per_batch: pd.DataFrame
    # The same summed per class, with the number of batches in place of batch and pictures, most grams first
    classes: pd.DataFrame
    totals: pd.DataFrame  # the same summed per batch, over the classes that were weighed
    weighed_g: float
    predicted_g: float
    not_weighed: dict[str, float]  # class -> grams predicted in these batches, where it was not weighed
    left_out: list[str]  # why batches are not compared, in sentences

    @property
    def error(self) -> float:
        """predicted / weighed - 1 of everything; NaN without batches."""
        return self.predicted_g / self.weighed_g - 1 if self.weighed_g > 0 else np.nan

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``."""
        return json_values(self) | {"error": json_values(self.error)}


def compare_batches(table: pd.DataFrame, batches: Sequence[Batch], images: Sequence[str]) -> Comparison:
    """Sum the predicted grams of every batch of which all images are in the run.

    ``table`` needs baseimg, class and mass; classes with NaN grams in a batch were not weighed; ``images`` are the file
    names of all images of the run, also of those without particles.
    """
    usable, left_out = _usable(batches, Counter(map(base_name, images)))
    weighed = pd.DataFrame(
        [
            (batch.number, name, len(batch.images), grams)
            for batch in usable
            for name, grams in batch.grams.items()
            if not np.isnan(grams)
        ],
        columns=["batch", "class", "pictures", "weighed_g"],
    ).set_index(["batch", "class"])
    rows = pd.DataFrame(
        {
            "batch": table["baseimg"].map(base_name).map(batch_of_images(usable)),
            "class": table["class"],
            "unknown_mass": table["mass"].isna(),
            "predicted_g": table["mass"],
        }
    ).dropna(subset="batch")
    predicted = rows.groupby(["batch", "class"]).agg(
        particles=("class", "size"), unknown_mass=("unknown_mass", "sum"), predicted_g=("predicted_g", "sum")
    )
    not_weighed = predicted.loc[~predicted.index.isin(weighed.index), "predicted_g"].groupby("class").sum()
    per_batch = weighed.join(predicted).reset_index()
    per_batch = per_batch.fillna({"particles": 0, "unknown_mass": 0, "predicted_g": 0.0})
    per_batch = per_batch.astype({"particles": int, "unknown_mass": int})[PER_BATCH_COLUMNS]
    classes = per_batch.groupby("class", sort=False).agg({"batch": "nunique", **dict.fromkeys(_SUMMED, "sum")})
    classes = classes.rename(columns={"batch": "batches"}).sort_values("weighed_g", ascending=False).reset_index()
    totals = per_batch.groupby("batch", sort=False).agg({"pictures": "first", **dict.fromkeys(_SUMMED, "sum")})
    per_batch, classes, totals = (
        found.assign(
            error_g=found["predicted_g"].astype(float) - found["weighed_g"].astype(float),
            error=found["predicted_g"].astype(float) / found["weighed_g"].astype(float) - 1,
        )
        for found in (per_batch, classes, totals.reset_index())
    )
    weighed_g, predicted_g = (float(per_batch[name].sum()) for name in ("weighed_g", "predicted_g"))
    return Comparison(per_batch, classes, totals, weighed_g, predicted_g, not_weighed.to_dict(), left_out)


def _usable(batches: Sequence[Batch], count: Counter[str]) -> tuple[list[Batch], list[str]]:
    """The batches of which every image is in the run once, and why others are not compared.

    With an image missing, the predicted grams would be too few through no fault of the network.
    """
    usable, left_out = [], []
    for batch in batches:
        present = [name for name in batch.images if count[name]]
        twice = [name for name in present if count[name] > 1]
        if twice:
            left_out.append(f"batch {batch.number}: two images of this run are called {twice[0]}")
        elif len(present) == len(batch.images) > 0:
            usable.append(batch)
        elif present:
            missing = len(batch.images) - len(present)
            left_out.append(f"batch {batch.number}: {missing} of its {len(batch.images)} images not in this run")
    return usable, left_out


# ---- correction factors

FORMAT, VERSION = "ramses-factors", 1
_HEADING = """\
# Correction factors: grams = factor * grams predicted by the network, per class. Written by tools/report.py calibrate,
# applied by tools/report.py --factors, which names them in the report. Classes that are not listed stay as predicted.
"""


@dataclass(frozen=True)
class ClassFactor:
    """The correction of one class: weighed / predicted grams, summed over the batches."""

    factor: float
    low: float = math.nan  # the interval, from a bootstrap over the batches; NaN with fewer than 2 of them
    high: float = math.nan
    batches: int = 0  # in which the class was weighed; the following are summed over these
    weighed_g: float = math.nan
    predicted_g: float = math.nan
    particles: int = 0


@dataclass(frozen=True)
class Factors:
    """Correction factors and where they come from."""

    classes: Mapping[str, ClassFactor]
    without: Mapping[str, str] = field(default_factory=dict)  # class -> why it was weighed but has no factor
    # Run, weights, file of the batches and its hash, numbers of batches, day; all text or numbers
    origin: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""  # of the file they were read from

    def apply(self, table: pd.DataFrame) -> pd.DataFrame:
        """A copy of a particle table with corrected masses; classes without a factor keep theirs."""
        factor = table["class"].map({name: entry.factor for name, entry in self.classes.items()}).astype(float)
        return table.assign(mass=table["mass"] * factor.fillna(1.0))

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``."""
        return json_values(self)

    def to_yaml(self) -> str:
        """The text of a file that :func:`read_factors` reads; numbers have six digits."""
        factors = {
            name: {key: float(f"{v:.6g}") if isinstance(v, float) else v for key, v in json_values(entry).items()}
            for name, entry in self.classes.items()
        }
        content = {"format": FORMAT, "version": VERSION, "origin": json_values(dict(self.origin))}
        content |= {"factors": factors, "no_factor": dict(self.without)}
        return _HEADING + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def calibrate(
    run: Run,
    weighed: WeighedBatches,
    resampling: Resampling = Resampling(),  # noqa: B008, it is frozen
    *,
    day: str | None = None,
) -> tuple[Factors, Comparison]:
    """Correction factors of a run with weighed batches, and the comparison that they are made of.

    The factor of a class is the quotient of sums, weighed over predicted grams, so that heavy batches count more than
    light ones. The bootstrap draws whole batches; ``day`` (default: today) goes into the origin.
    """
    if weighed.source is None:
        raise RamsesError(
            f"{run.folder}: no metadata.json with weighed batches beside the images; name it with --batch"
        )
    comparison = compare_batches(run.table, weighed.batches, [image.file_name for image in run.images])
    if comparison.per_batch.empty:
        why = f": {comparison.left_out[0]}" if comparison.left_out else ""
        raise RamsesError(
            f"{weighed.source}: none of its {len(weighed.batches)} batches can be compared with {run.folder}{why}; "
            f"predict all images of a weighed batch"
        )
    factors, without = {}, {}
    for name, rows in comparison.per_batch.groupby("class", sort=True):
        rows = rows[rows["unknown_mass"] == 0]  # a particle of unknown mass would make the predicted grams too few
        grams = rows[["weighed_g", "predicted_g"]].to_numpy(float)
        weighed_g, predicted_g = (float(total) for total in grams.sum(axis=0))
        if rows.empty:
            without[name] = "particles of unknown mass in every batch"
        elif not predicted_g > 0:
            without[name] = "weighed, but no such particle predicted"
        else:
            low = high = math.nan
            if len(rows) > 1:
                sums = replicate_sums(grams, np.arange(len(rows)), resampling)
                low, high = (float(end) for end in interval(sums[:, 0] / sums[:, 1], resampling.confidence))
            counts = len(rows), weighed_g, predicted_g, int(rows["particles"].sum())
            factors[name] = ClassFactor(weighed_g / predicted_g, low, high, *counts)
    if not factors:
        raise RamsesError(f"{weighed.source}: no class has a factor: {'; '.join(map(': '.join, without.items()))}")
    origin = {
        "created": day or date.today().isoformat(),
        "run": str(run.folder),
        "weights": run.weights,
        "batches_file": str(weighed.source),
        "batches_sha256": _sha256(weighed.source),
        "batches": int(comparison.per_batch["batch"].nunique()),
        "batches_left_out": len(comparison.left_out),
        "confidence": resampling.confidence,
        "replicates": resampling.replicates,
    }
    return Factors(factors, without, origin), comparison


def read_factors(path: str | Path) -> Factors:
    """Read a file of :meth:`Factors.to_yaml`; ``class: number`` by hand is enough."""
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RamsesError(f"{path}: not a readable file of factors: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RamsesError(f"{path}: not a file of correction factors; tools/report.py calibrate writes one")
    entries, without, origin = (content.get(key) or {} for key in ("factors", "no_factor", "origin"))
    if not isinstance(entries, dict) or not entries:
        raise RamsesError(f"{path}: no factors in it")
    is_wrong = not (isinstance(without, dict) and isinstance(origin, dict))
    if is_wrong or not isinstance(origin.get("weights") or {}, dict):
        raise RamsesError(f"{path}: no_factor, origin or its weights is no mapping: leave them as calibrate wrote them")
    classes = {str(name): _class_factor(f"{path}, {name}", entry) for name, entry in entries.items()}
    return Factors(classes, without, origin, path.name)


def _class_factor(where: str, entry: Any) -> ClassFactor:
    given = entry | {"factor": entry.get("factor")} if isinstance(entry, dict) else {"factor": entry}
    values = {name: math.nan if value is None else value for name, value in given.items()}
    for name, value in values.items():
        is_known = name in asdict(ClassFactor(1.0)) and isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_known or (name == "factor" and not 0 < value < math.inf):
            raise RamsesError(f"{where}: {name} is {given[name]!r}; give a factor above 0, as calibrate writes it")
    return ClassFactor(**values)


def is_same_file(factors: Factors, batches: Path | None) -> bool:
    """Whether the factors were computed from this very file of batches."""
    return batches is not None and factors.origin.get("batches_sha256") == _sha256(batches)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- scale from coins

# 5 euro cents (Official Journal of the EU, Regulation (EU) No 729/2014: technical specifications of euro coins)
COIN_DIAMETER_MM, COIN_MASS_G = 21.25, COIN_MASS
MAX_DEVIATION = 0.03
MAX_ASPECT_RATIO = 1.1
# Diameters from the area and from the axes agree on a whole disc; a bite or a hole drives them apart
MAX_DISAGREEMENT = 0.03
CUT, NOT_ROUND, NOT_WHOLE = "cut by the edge of the image", "not round", "not a whole disc"


@dataclass(frozen=True)
class CoinScale:
    """What the coins of an image say about its resolution; lengths in px/mm, NaN = unknown."""

    image: str
    coins: int
    usable: int  # whole and round
    rejected: Mapping[str, int]  # reason -> number of the others
    given: float  # resolution of the table
    from_area: float  # by the diameter of the circle of the coin's area, median over the usable coins
    from_axes: float  # by the geometric mean of the axes of its ellipse
    deviation: float  # from_area / given - 1
    mass_ratio: float  # predicted over true grams, median over the usable coins
    warning: bool  # the deviation is larger than allowed, or no resolution was given though a coin tells one
    message: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``; unknown ones are None."""
        return json_values(self)


def coin_scales(
    table: pd.DataFrame,
    *,
    class_name: str = COIN_CLASS,
    diameter_mm: float = COIN_DIAMETER_MM,
    mass_g: float = COIN_MASS_G,
    max_deviation: float = MAX_DEVIATION,
) -> list[CoinScale]:
    """Estimate the resolution of every image of a particle table from its coins, in the order of the table.

    Images of several folders may have one file name; those of different resolution are told apart by it. Coins that
    the image cuts are told by the column edge, predicted grams by mass, where there are such columns.
    """
    for name in ("baseimg", "class", "res", "area", "axis_major_length", "axis_minor_length"):
        if name not in table:
            raise RamsesError(f"scale from coins: the particle table has no column {name}")
    if not (diameter_mm > 0 and mass_g > 0):
        raise RamsesError(f"a coin of {diameter_mm} mm and {mass_g} g: give numbers above 0")
    resolutions = table["res"].to_numpy(float)
    given = np.where(np.isfinite(resolutions) & (resolutions > 0), resolutions, np.nan)
    return [
        _scale(str(image), float(resolution), rows[rows["class"] == class_name], diameter_mm, mass_g, max_deviation)
        for (image, resolution), rows in table.groupby(["baseimg", given], sort=False, dropna=False)
    ]


def _scale(
    image: str, given: float, coins: pd.DataFrame, diameter_mm: float, mass_g: float, max_deviation: float
) -> CoinScale:
    major, minor = (coins[f"axis_{which}_length"].to_numpy(float) for which in ("major", "minor"))
    from_area = np.sqrt(4 * coins["area"].to_numpy(float) / np.pi) / diameter_mm
    from_axes = np.sqrt(major * minor) / diameter_mm
    # Why a coin cannot be used; of several reasons the last one is told
    reasons = np.full(len(coins), "", object)
    reasons[~(np.abs(from_area / np.where(from_axes > 0, from_axes, np.nan) - 1) <= MAX_DISAGREEMENT)] = NOT_WHOLE
    reasons[~(major <= MAX_ASPECT_RATIO * minor)] = NOT_ROUND
    if (is_cut := cut_by_edge(coins)) is not None:
        reasons[is_cut.to_numpy(bool)] = CUT
    usable = reasons == ""
    number = Counter(reasons)
    rejected = {reason: number[reason] for reason in (CUT, NOT_ROUND, NOT_WHOLE) if number[reason]}
    estimate = _median(from_area[usable])
    masses = coins["mass"].to_numpy(float)[usable] if "mass" in coins else np.empty(0)
    deviation = estimate / given - 1
    warning = bool(usable.any()) and not abs(deviation) <= max_deviation
    return CoinScale(
        image=image,
        coins=len(coins),
        usable=int(usable.sum()),
        rejected=rejected,
        given=given,
        from_area=estimate,
        from_axes=_median(from_axes[usable]),
        deviation=deviation,
        mass_ratio=_median(masses / mass_g),
        warning=warning,
        message=f"{image}: {_message(len(coins), rejected, given, estimate, warning)}",
    )


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else np.nan


def _message(coins: int, rejected: Mapping[str, int], given: float, estimate: float, warning: bool) -> str:
    if not coins:
        return "no coin"
    if np.isnan(estimate):
        return f"no usable coin ({', '.join(f'{number} {reason}' for reason, number in rejected.items())})"
    says = f"{'the coin says' if coins == sum(rejected.values()) + 1 else 'the coins say'} {estimate:.2f} px/mm"
    if np.isnan(given):
        return f"{says}; no resolution was given: predict again with it to get grams and millimetres"
    deviation = estimate / given - 1
    says += f", which differs by {deviation:+.1%} from the given {given:g}"
    if not warning:
        return says
    # Lengths in mm go with 1 / resolution, the network's grams with 1 / resolution^2
    return (
        f"{says}: if the coin is right, lengths are off by {deviation:+.1%} and grams by"
        f" {(1 + deviation) ** 2 - 1:+.1%}; check the resolution"
    )
