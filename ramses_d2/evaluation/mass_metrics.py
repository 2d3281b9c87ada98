"""How far off the grams are: per particle over matched pairs, and in total.

Which masses count:

* A particle is *weighed* where its mass is known, one by one or (``gt_mass`` False, counted as *estimated*)
  from a batch. Pairs with a particle that is not weighed, or a prediction without a mass, are left out of all
  errors.
* **Total error, all**: the grams of every prediction against those of every weighed particle: misses count,
  extras count, and a prediction counts for the class it names. A prediction is left out, and counted as
  *excluded*, where there is nothing to hold it against: it overlaps a particle of unknown mass by IoU 0.5 or
  more, it lies in a crowd region of COCO data, or it lies in an image with particles of which none is weighed. In an
  image without particles everything is an extra. A prediction without a mass adds 0 g, and is counted as
  *without_mass*.
* **Total error, matched**: the pairs alone, both sides under the true class.

Errors are signed, predicted - true; percentages refer to the truth. NaN = undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .matching import IOU_THRESHOLDS, as_percent, pair_table
from .power_law import PowerLaw

SCORE_THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 9))


def particle_errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Errors over matched pairs; those with an unknown mass on either side are left out.

    Args:
        predicted: (K,) g.
        true: (K,) g.

    Returns:
        MAPE, MedAPE, Bias (mean, median absolute and mean signed error in percent), MAE, BiasGrams (g), R2.
    """
    known = np.isfinite(predicted) & np.isfinite(true)
    predicted, true = np.asarray(predicted)[known], np.asarray(true)[known]
    if len(true) == 0:
        return dict.fromkeys(("MAPE", "MedAPE", "MAE", "R2", "Bias", "BiasGrams"), float("nan"))
    error = predicted - true
    relative = 100 * error[true > 0] / true[true > 0]
    spread = float(np.sum((true - true.mean()) ** 2))
    return {
        "MAPE": _mean(np.abs(relative)),
        "MedAPE": float(np.median(np.abs(relative))) if len(relative) else float("nan"),
        "MAE": _mean(np.abs(error)),
        "R2": 1 - float(error @ error) / spread if spread > 0 else float("nan"),
        "Bias": _mean(relative),
        "BiasGrams": _mean(error),
    }


def total_error(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Sums of known masses and their difference; the two sides need not correspond.

    Args:
        predicted: (P,) g.
        true: (G,) g.

    Returns:
        predicted, true, error (g) and percent. A side is 0 g where it is empty, NaN where all is unknown.
    """
    predicted_sum, true_sum = _sum(predicted), _sum(true)
    error = predicted_sum - true_sum
    percent = 100 * (error / true_sum) if true_sum > 0 else float("nan")
    return {"predicted": predicted_sum, "true": true_sum, "error": error, "percent": percent}


def in_total(truth: pd.DataFrame, predictions: pd.DataFrame) -> np.ndarray:
    """Which predictions belong in the total of all, bool (P,); see the module's docstring.

    Args:
        truth: :func:`ramses_d2.evaluation.matching.truth_table`.
        predictions: :func:`ramses_d2.evaluation.matching.prediction_table`.
    """
    weighed = truth["mass"].notna()
    unweighed_images = set(truth["image_id"]) - set(truth["image_id"][weighed])
    nearest = predictions["nearest"].to_numpy()
    # The appended entry is that of nearest = -1: an extra
    on_unknown = np.append(~weighed.to_numpy(), False)[nearest]
    unjudged = on_unknown | predictions["image_id"].isin(unweighed_images).to_numpy()
    return ~(unjudged | predictions["in_crowd"].to_numpy(dtype=bool))


def evaluate_masses(
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    report_thresh: float,
    power_law: PowerLaw | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """All mass figures of a data set.

    Args:
        truth: :func:`ramses_d2.evaluation.matching.truth_table`.
        predictions: :func:`ramses_d2.evaluation.matching.prediction_table`.
        class_names: class order.
        report_thresh: score from which a prediction counts as a particle.
        power_law: baseline, applied to predicted class and area of the pairs.

    Returns:
        ``{"all": figures, "per_class": [figures], "total_by_score": [...]}``, where figures are nested dicts
        of counts, :func:`particle_errors` and :func:`total_error`; and the pairs at IoU 0.5, as
        :func:`ramses_d2.evaluation.matching.pair_table`, with ``power_law_mass`` (g) if there is a baseline.
    """
    predictions = predictions.assign(counted=in_total(truth, predictions))
    reported = predictions[predictions["score"] >= report_thresh]
    pairs = {threshold: pair_table(truth, reported, threshold) for threshold in IOU_THRESHOLDS}
    if power_law is not None:
        for table in pairs.values():
            area_mm2 = table["predicted_area"] / table["resolution"] ** 2
            table["power_law_mass"] = power_law.predict(table["predicted_class"], area_mm2)
    whole = {"class": "all"} | _figures(truth, reported, pairs)
    per_class = []
    for class_id, name in enumerate(class_names):
        figures = _figures(
            truth[truth["class_id"] == class_id],
            reported[reported["class_id"] == class_id],
            {threshold: table[table["true_class"] == class_id] for threshold, table in pairs.items()},
        )
        per_class.append({"class": name} | figures)
    for figures in (whole, *per_class):
        figures["share"] = {
            side: _share(figures["total"][side], whole["total"][side]) for side in ("true", "predicted")
        }
    counted = predictions[predictions["counted"]]
    by_score = [_total_from_score(truth, counted, threshold) for threshold in SCORE_THRESHOLDS]
    return {"all": whole, "per_class": per_class, "total_by_score": by_score}, pairs[IOU_THRESHOLDS[0]]


def flatten_masses(masses: dict[str, Any]) -> dict[str, float]:
    """The figures of :func:`evaluate_masses` as the flat floats Detectron2 logs.

    Errors without a suffix are over the pairs at IoU 0.5, with 75 those at 0.75; TotalError is that of all
    predictions, TotalErrorMatched that of the pairs, in percent, and in g with Grams.
    """
    whole = masses["all"]
    flat: dict[str, float] = {}
    for threshold in IOU_THRESHOLDS:
        at = whole[f"iou{as_percent(threshold)}"]
        suffix = "" if threshold == IOU_THRESHOLDS[0] else str(as_percent(threshold))
        flat |= {f"{name}{suffix}": value for name, value in at["particle"].items()}
        flat[f"TotalErrorMatched{suffix}"] = at["total"]["percent"]
        flat[f"TotalErrorMatchedGrams{suffix}"] = at["total"]["error"]
        flat[f"class_accuracy{suffix}"] = at["class_accuracy"]
        flat[f"pairs{suffix}"] = float(at["pairs"])
        if "power_law" in at:
            flat[f"power_law_MAPE{suffix}"] = at["power_law"]["MAPE"]
            flat[f"gain{suffix}"] = at["power_law"]["gain"]
    flat |= {"TotalError": whole["total"]["percent"], "TotalErrorGrams": whole["total"]["error"]}
    flat |= {name: float(whole[name]) for name in ("predictions", "ground_truth", "weighed", "excluded")}
    for figures in masses["per_class"]:
        name, pairs = figures["class"], figures[f"iou{as_percent(IOU_THRESHOLDS[0])}"]
        flat[f"MAPE-{name}"] = pairs["particle"]["MAPE"]
        flat[f"TotalError-{name}"] = figures["total"]["percent"]
        flat[f"TotalErrorMatched-{name}"] = pairs["total"]["percent"]
    return flat


def _figures(truth: pd.DataFrame, reported: pd.DataFrame, pairs: dict[float, pd.DataFrame]) -> dict[str, Any]:
    """Counts and errors of the whole set or of one class."""
    weighed = truth["mass"].notna()
    counted = reported[reported["counted"]]
    figures = {
        "ground_truth": len(truth),
        "weighed": int(weighed.sum()),
        "estimated": int((weighed & ~truth["gt_mass"].astype(bool)).sum()),
        "predictions": len(reported),
        "excluded": len(reported) - len(counted),
        "without_mass": int(counted["mass"].isna().sum()),
        "total": total_error(counted["mass"].to_numpy(), truth["mass"].to_numpy()),
    }
    return figures | {f"iou{as_percent(threshold)}": _pair_figures(table) for threshold, table in pairs.items()}


def _pair_figures(pairs: pd.DataFrame) -> dict[str, Any]:
    predicted, true = pairs["predicted_mass"].to_numpy(), pairs["true_mass"].to_numpy()
    known = np.isfinite(predicted) & np.isfinite(true)
    figures = {
        "pairs": len(pairs),
        "weighed_pairs": int(known.sum()),
        "class_accuracy": _mean(100.0 * (pairs["true_class"] == pairs["predicted_class"]).to_numpy()),
        "particle": particle_errors(predicted, true),
        "total": total_error(predicted[known], true[known]),
    }
    if "power_law_mass" in pairs:
        baseline = pairs["power_law_mass"].to_numpy()
        both = known & np.isfinite(baseline)
        law = particle_errors(baseline[both], true[both])["MAPE"]
        branch = particle_errors(predicted[both], true[both])["MAPE"]
        figures["power_law"] = {"MAPE": law, "gain": 100 * (1 - branch / law) if law > 0 else float("nan")}
    return figures


def _total_from_score(truth: pd.DataFrame, counted: pd.DataFrame, threshold: float) -> dict[str, float]:
    reported = counted[counted["score"] >= threshold]
    total = total_error(reported["mass"].to_numpy(), truth["mass"].to_numpy())
    return {"score": threshold, "predictions": len(reported)} | total


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _sum(masses: np.ndarray) -> float:
    known = np.isfinite(masses)
    return float("nan") if len(masses) and not known.any() else float(np.sum(np.asarray(masses)[known]))


def _share(part: float, whole: float) -> float:
    return 100 * part / whole if whole > 0 else float("nan")
