"""Scale from a coin: what resolution a coin of known diameter gives, against the one that was given."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ramses_d2.analysis.intervals import Resampling, interval, replicate_sums
from ramses_d2.analysis.report.data import Run, WeighedBatches
from ramses_d2.analysis.sample import cut_by_edge
from ramses_d2.data.batch_masses import Batch, batch_of_images
from ramses_d2.errors import RamsesError
from ramses_d2.files import base_name, json_values

FORMAT, VERSION = "ramses-factors", 1
_HEADING = """\
# Correction factors: grams = factor * grams predicted by the network, per class. Written by tools/report.py calibrate,
# applied by tools/report.py --factors, which names them in the report. Classes that are not listed stay as predicted.
"""


@dataclass(frozen=True)
class ClassFactor:
    """The correction of one class.

    Attributes:
        factor: weighed / predicted grams, summed over the batches.
        low, high: its interval from a bootstrap over the batches; NaN with fewer than 2 of them.
        batches: in which the class was weighed.
        weighed_g, predicted_g: summed over these.
        particles: predicted in these.
    """

    factor: float
    low: float = math.nan
    high: float = math.nan
    batches: int = 0
    weighed_g: float = math.nan
    predicted_g: float = math.nan
    particles: int = 0


@dataclass(frozen=True)
class Factors:
    """Correction factors and where they come from.

    Attributes:
        classes: class -> its factor.
        without: class -> why it was weighed but has no factor.
        origin: run, weights, file of the batches and its hash, numbers of batches, day; all text or numbers.
        name: of the file they were read from, "" = none.
    """

    classes: Mapping[str, ClassFactor]
    without: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def apply(self, table: pd.DataFrame) -> pd.DataFrame:
        """A copy of a particle table with corrected masses; classes without a factor keep theirs."""
        factor = table["class"].map({name: entry.factor for name, entry in self.classes.items()}).astype(float)
        return table.assign(mass=table["mass"] * factor.fillna(1.0))

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``."""
        return json_values(self)

    def to_yaml(self) -> str:
        """The text of a file that :func:`read_factors` reads."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "origin": json_values(dict(self.origin)),
            "factors": {name: _rounded(entry) for name, entry in self.classes.items()},
            "no_factor": dict(self.without),
        }
        return _HEADING + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def calibrate(
    run: Run,
    weighed: WeighedBatches,
    resampling: Resampling = Resampling(),  # noqa: B008, it is frozen
    *,
    day: str | None = None,
) -> tuple[Factors, Comparison]:
    """Correction factors of a run whose batches were weighed.

    The factor of a class is the quotient of sums, weighed over predicted grams, so that heavy batches count more than
    light ones. The bootstrap draws whole batches.

    Args:
        run: with predicted masses, uncorrected.
        weighed: the batches.
        resampling: replicates, confidence and seed of the intervals; always over batches.
        day: to write into the origin; default today.

    Returns:
        the factors, and the comparison that they are made of.

    Raises:
        RamsesError: there is no file of batches, no batch of the run was weighed, or no class has a factor.
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
        # A particle of unknown mass would make the predicted grams too few
        known = rows[rows["unknown_mass"] == 0]
        if known.empty:
            without[name] = "particles of unknown mass in every batch"
        elif not known["predicted_g"].sum() > 0:
            without[name] = "weighed, but no such particle predicted"
        else:
            factors[name] = _factor(known, resampling)
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


def _factor(rows: pd.DataFrame, resampling: Resampling) -> ClassFactor:
    """Args: rows of one class, one per batch."""
    grams = rows[["weighed_g", "predicted_g"]].to_numpy(float)
    weighed, predicted = grams.sum(axis=0)
    low = high = math.nan
    if len(rows) > 1:
        sums = replicate_sums(grams, np.arange(len(rows)), resampling)
        low, high = (float(end) for end in interval(sums[:, 0] / sums[:, 1], resampling.confidence))
    return ClassFactor(
        float(weighed / predicted),
        low,
        high,
        len(rows),
        float(weighed),
        float(predicted),
        int(rows["particles"].sum()),
    )


def read_factors(path: str | Path) -> Factors:
    """Read a file of :meth:`Factors.to_yaml`.

    Raises:
        RamsesError: no such file, or a factor is no number above 0.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RamsesError(f"{path}: not a readable file of factors: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RamsesError(f"{path}: not a file of correction factors; tools/report.py calibrate writes one")
    entries = content.get("factors")
    if not isinstance(entries, dict) or not entries:
        raise RamsesError(f"{path}: no factors in it")
    without, origin = content.get("no_factor") or {}, content.get("origin") or {}
    is_wrong = not (isinstance(without, dict) and isinstance(origin, dict))
    if is_wrong or not isinstance(origin.get("weights") or {}, dict):
        raise RamsesError(f"{path}: no_factor, origin or its weights is no mapping: leave them as calibrate wrote them")
    classes = {str(name): _class_factor(f"{path}, {name}", entry) for name, entry in entries.items()}
    return Factors(classes, dict(without), dict(origin), path.name)


def is_same_file(factors: Factors, batches: Path | None) -> bool:
    """Whether the factors were computed from this very file of batches."""
    return batches is not None and factors.origin.get("batches_sha256") == _sha256(batches)


def _class_factor(where: str, entry: Any) -> ClassFactor:
    given = entry if isinstance(entry, dict) else {"factor": entry}
    unknown = set(given) - set(ClassFactor.__dataclass_fields__)
    if unknown or "factor" not in given:
        raise RamsesError(f"{where}: {sorted(unknown)[0] if unknown else 'no factor'}: see tools/report.py calibrate")
    values = {}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise RamsesError(f"{where}: {name} is {value!r}; give a number")
        values[name] = math.nan if value is None else value
    if not (values["factor"] > 0 and math.isfinite(values["factor"])):
        raise RamsesError(f"{where}: factor is {given['factor']!r}; give a number above 0")
    return ClassFactor(**values)


def _rounded(entry: ClassFactor) -> dict[str, Any]:
    values = json_values(entry)
    return {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in values.items()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


PER_BATCH_COLUMNS = ["batch", "class", "pictures", "particles", "unknown_mass", "weighed_g", "predicted_g"]
_SUMMED = ["particles", "unknown_mass", "weighed_g", "predicted_g"]


@dataclass(frozen=True)
class Comparison:
    """Predicted and weighed grams.

    Attributes:
        per_batch: one row per batch and class that was weighed: batch (number from 1), class, images, particles
            (predicted), unknown_mass (of those, how many count as 0 g), weighed_g, predicted_g, error_g, error
            (predicted / weighed - 1).
        classes: the same summed per class, with ``batches`` in place of batch and images, most grams first.
        totals: the same summed per batch, over the classes that were weighed.
        weighed_g, predicted_g: of everything that was weighed.
        not_weighed: class -> predicted grams in these batches that no weighed figure stands against.
        left_out: why batches are not compared, in sentences.
    """

    per_batch: pd.DataFrame
    classes: pd.DataFrame
    totals: pd.DataFrame
    weighed_g: float
    predicted_g: float
    not_weighed: dict[str, float]
    left_out: list[str]

    @property
    def error(self) -> float:
        """predicted / weighed - 1 of everything; NaN without batches."""
        return self.predicted_g / self.weighed_g - 1 if self.weighed_g > 0 else np.nan

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``."""
        return json_values(self) | {"error": json_values(self.error)}


def compare_batches(table: pd.DataFrame, batches: Sequence[Batch], images: Sequence[str]) -> Comparison:
    """Sum the predicted grams of every batch that was photographed completely.

    A batch of which an image is missing is left out: its predicted grams would be too few for no fault of the network.

    Args:
        table: particle table; needs baseimg, class, mass.
        batches: what was weighed together; classes with NaN grams were not weighed.
        images: file names of all images of the run, also of those without particles.
    """
    usable, left_out = _usable(batches, Counter(base_name(name) for name in images))
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
    per_batch = _with_errors(per_batch.astype({"particles": int, "unknown_mass": int})[PER_BATCH_COLUMNS])
    classes = per_batch.groupby("class", sort=False).agg({"batch": "nunique", **dict.fromkeys(_SUMMED, "sum")})
    totals = per_batch.groupby("batch", sort=False).agg({"pictures": "first", **dict.fromkeys(_SUMMED, "sum")})
    return Comparison(
        per_batch=per_batch,
        classes=_with_errors(
            classes.rename(columns={"batch": "batches"}).sort_values("weighed_g", ascending=False).reset_index()
        ),
        totals=_with_errors(totals.reset_index()),
        weighed_g=float(per_batch["weighed_g"].sum()),
        predicted_g=float(per_batch["predicted_g"].sum()),
        not_weighed=not_weighed.to_dict(),
        left_out=left_out,
    )


def _usable(batches: Sequence[Batch], count: Counter[str]) -> tuple[list[Batch], list[str]]:
    """The batches of which every image is in the run once, and why others are not compared."""
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


def _with_errors(table: pd.DataFrame) -> pd.DataFrame:
    weighed, predicted = (table[name].astype(float) for name in ("weighed_g", "predicted_g"))
    return table.assign(error_g=predicted - weighed, error=predicted / weighed - 1)


# 5 euro cents (Official Journal of the EU, Regulation (EU) No 729/2014: technical specifications of euro coins)
COIN_CLASS, COIN_DIAMETER_MM, COIN_MASS_G = "Coin", 21.25, 3.92
MAX_DEVIATION = 0.03
MAX_ASPECT_RATIO = 1.1
# Diameters from the area and from the axes agree on a whole disc; a bite or a hole drives them apart
MAX_DISAGREEMENT = 0.03
CUT, NOT_ROUND, NOT_WHOLE = "cut by the edge of the picture", "not round", "not a whole disc"


@dataclass(frozen=True)
class CoinScale:
    """What the coins of an image say about its resolution.

    Attributes:
        image: file name.
        coins: coins in the image.
        usable: coins that are whole and round.
        rejected: reason -> number of the others.
        given: resolution of the table in px/mm; NaN = unknown.
        from_area: px/mm from the diameter of the circle of the coin's area, median over the usable coins; NaN = none.
        from_axes: the same from the geometric mean of the axes of its ellipse.
        deviation: from_area / given - 1; NaN = unknown.
        mass_ratio: predicted over true grams, median over the usable coins; NaN = unknown.
        warning: the deviation is larger than allowed, or no resolution was given though a coin tells one.
        message: a sentence for a reader.
    """

    image: str
    coins: int
    usable: int
    rejected: Mapping[str, int]
    given: float
    from_area: float
    from_axes: float
    deviation: float
    mass_ratio: float
    warning: bool
    message: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dump``; unknown figures are None."""
        return json_values(self)


def coin_scales(
    table: pd.DataFrame,
    *,
    class_name: str = COIN_CLASS,
    diameter_mm: float = COIN_DIAMETER_MM,
    mass_g: float = COIN_MASS_G,
    max_deviation: float = MAX_DEVIATION,
) -> list[CoinScale]:
    """Estimate the resolution of every image of a particle table from its coins.

    Images of several folders may have one file name; those of different resolution are told apart by it.

    Args:
        table: particle table; needs baseimg, class, res, area, axis_major_length, axis_minor_length; coins that the
            image cuts are told by edge, predicted grams by mass, where there are such columns.
        class_name: the class of the coins; all are of one kind.
        diameter_mm, mass_g: of one coin.
        max_deviation: from the given resolution, without a warning.

    Returns:
        one entry per image and resolution, in the order of the table, also for images without coins.

    Raises:
        RamsesError: a column is missing, or a diameter or mass is not above 0.
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
    from_area = np.sqrt(4 * coins["area"].to_numpy(float) / np.pi) / diameter_mm
    major, minor = (coins[f"axis_{which}_length"].to_numpy(float) for which in ("major", "minor"))
    from_axes = np.sqrt(major * minor) / diameter_mm
    reasons = _reasons(coins, major, minor, from_area, from_axes)
    usable = reasons == ""
    area_estimate, axes_estimate = _median(from_area[usable]), _median(from_axes[usable])
    masses = coins["mass"].to_numpy(float)[usable] if "mass" in coins else np.empty(0)
    deviation = area_estimate / given - 1
    warning = bool(usable.any()) and not abs(deviation) <= max_deviation
    rejected = {reason: int((reasons == reason).sum()) for reason in (CUT, NOT_ROUND, NOT_WHOLE)}
    rejected = {reason: number for reason, number in rejected.items() if number}
    return CoinScale(
        image=image,
        coins=len(coins),
        usable=int(usable.sum()),
        rejected=rejected,
        given=given,
        from_area=area_estimate,
        from_axes=axes_estimate,
        deviation=deviation,
        mass_ratio=_median(masses / mass_g),
        warning=warning,
        message=_message(image, len(coins), rejected, given, area_estimate, warning),
    )


def _reasons(
    coins: pd.DataFrame, major: np.ndarray, minor: np.ndarray, from_area: np.ndarray, from_axes: np.ndarray
) -> np.ndarray:
    """(n,) why a coin cannot be used, the first that holds; empty = usable."""
    is_cut = cut_by_edge(coins)
    reasons = np.full(len(coins), "", object)
    reasons[~(np.abs(from_area / np.where(from_axes > 0, from_axes, np.nan) - 1) <= MAX_DISAGREEMENT)] = NOT_WHOLE
    reasons[~(major <= MAX_ASPECT_RATIO * minor)] = NOT_ROUND
    if is_cut is not None:
        reasons[is_cut.to_numpy(bool)] = CUT
    return reasons


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else np.nan


def _message(image: str, coins: int, rejected: Mapping[str, int], given: float, estimate: float, warning: bool) -> str:
    if not coins:
        return f"{image}: no coin"
    if np.isnan(estimate):
        why = ", ".join(f"{number} {reason}" for reason, number in rejected.items())
        return f"{image}: no usable coin ({why})"
    says = (
        f"{image}: {'the coin says' if coins == sum(rejected.values()) + 1 else 'the coins say'} {estimate:.2f} px/mm"
    )
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
