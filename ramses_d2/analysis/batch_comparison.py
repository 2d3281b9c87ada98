"""Predicted against weighed grams: what the particles of a batch should weigh together, by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ramses_d2.data.batch_masses import Batch, batch_of_images
from ramses_d2.data.image_names import base_name

from .json_values import json_values

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
