"""Correction factors per class, from batches that were weighed: grams = factor * predicted grams."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ramses_d2.errors import RamsesError

from .batch_comparison import Comparison, compare_batches
from .bootstrap import Resampling, interval, replicate_sums
from .json_values import json_values
from .report.data import Run, WeighedBatches

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
