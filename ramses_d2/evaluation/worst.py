"""The images with the worst predictions.

The *badness* of an image counts the particles that went wrong in it, from the score on that counts: each missed
particle, each prediction without a particle and each pair of different classes counts 1; any other pair counts its
relative mass error |predicted - true| / true, 1 at the most, where both masses are known. Pairs are those of masks at
IoU 0.5; predictions in crowd regions do not count.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .outcome import Outcome


def image_errors(outcome: Outcome) -> pd.DataFrame:
    """What went wrong in each image, the worst first.

    Returns:
        one row per image: image_id, particles, predictions, missed, false, wrong_class, mass_error (sum over the
        pairs of equal classes) and badness.
    """
    pairs, extras = outcome.pairs, outcome.reported[outcome.reported["match50"] < 0]
    wrong = pairs["true_class"] != pairs["predicted_class"]
    true = pairs["true_mass"]
    error = ((pairs["predicted_mass"] - true).abs() / true.where(true > 0)).clip(upper=1).fillna(0)
    ids = pd.Index([image["id"] for image in outcome.truth["images"]], name="image_id")
    counts = {
        "particles": outcome.particles.groupby("image_id").size(),
        "predictions": outcome.reported.groupby("image_id").size(),
        "pairs": pairs.groupby("image_id").size(),
        "false": extras.groupby("image_id").size(),
        "wrong_class": wrong.groupby(pairs["image_id"]).sum(),
    }
    table = pd.DataFrame({name: series.reindex(ids, fill_value=0).astype(np.int64) for name, series in counts.items()})
    table["missed"] = table["particles"] - table.pop("pairs")
    table["mass_error"] = error[~wrong].groupby(pairs["image_id"]).sum().reindex(ids, fill_value=0.0)
    table["badness"] = table[["missed", "false", "wrong_class", "mass_error"]].sum(axis=1)
    order = ["particles", "predictions", "missed", "false", "wrong_class", "mass_error", "badness"]
    return table[order].sort_values("badness", ascending=False, kind="stable").reset_index()
