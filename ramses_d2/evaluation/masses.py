"""Masses of predictions beside those of the ground truth: pairs by mask IoU, errors, totals, and a power-law baseline.

Shape letters: P predictions, G ground-truth particles, K pairs. A total counts all predictions and all weighed
particles of images where something is weighed, but not predictions on a particle of unknown mass, or in a crowd region.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pycocotools.mask as mask_utils

from ramses_d2.data.images import read_label_map
from ramses_d2.errors import RamsesError

IOU_THRESHOLDS = (0.5, 0.75)


def mask_iou(predicted: Sequence[dict[str, Any]], true: Sequence[dict[str, Any]]) -> np.ndarray:
    """Pairwise IoU of COCO RLEs of one image, float64 (P, G)."""
    if not predicted or not true:
        return np.zeros((len(predicted), len(true)))
    return np.asarray(mask_utils.iou(list(predicted), list(true), [False] * len(true)))


def greedy_match(iou: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Give each prediction, by decreasing score, the free particle it overlaps best: index (P,), -1 = none.

    Leaving out predictions below a score changes nothing for the others.
    """
    matches = np.full(len(scores), -1, dtype=np.int64)
    if iou.size == 0:
        return matches
    free = iou.copy()
    for index in np.argsort(-scores, kind="stable"):
        best = free[index].argmax()
        if free[index, best] >= threshold:
            matches[index] = best
            free[:, best] = -1
    return matches


def ground_truth_table(annotations: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per annotation of a COCO ground truth; class_id counts from 0, NaN is an unknown mass or resolution."""
    table = pd.DataFrame(
        annotations, columns=["image_id", "label", "category_id", "mass", "gt_mass", "area", "resolution"]
    )
    table["class_id"] = table.pop("category_id").astype(np.int64) - 1
    return table.astype({"mass": float, "area": float, "resolution": float})


def prediction_table(
    annotations: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], crowd: Sequence[dict[str, Any]] = ()
) -> pd.DataFrame:
    """One row per COCO result, with the ground-truth annotations (by position, without ``crowd``) it is matched to.

    Columns: image_id, prediction (position in its image), class_id (from 0), score, mass (g, NaN unknown), area (px);
    nearest (particle of highest IoU if that is 0.5 or more, taken or not; -1 = none); for each threshold, in percent,
    match50 (particle, -1 = none) and iou50; in_crowd (matched to none, and half of it lies in a crowd region: nothing
    can be said of it).
    """
    table = pd.DataFrame(results, columns=["image_id", "category_id", "score", "mass"])
    table["class_id"] = table.pop("category_id").astype(np.int64) - 1
    table = table.astype({"score": float, "mass": float})
    table["prediction"] = table.groupby("image_id").cumcount()
    rles = [result["segmentation"] for result in results]
    # One by one: of 256 and more at once, pycocotools 2.0.11 with NumPy 2 raises OverflowError
    table["area"] = [float(mask_utils.area(rle)) for rle in rles]

    in_truth = pd.Series([annotation["image_id"] for annotation in annotations], dtype=object)
    particles = {image_id: rows.index.to_numpy() for image_id, rows in in_truth.groupby(in_truth)}
    columns = {"nearest": np.full(len(table), -1)}
    for percent in map(as_percent, IOU_THRESHOLDS):
        columns |= {f"match{percent}": np.full(len(table), -1), f"iou{percent}": np.full(len(table), np.nan)}
    for image_id, rows in table.groupby("image_id").indices.items():
        if image_id not in particles:
            continue
        here = particles[image_id]
        iou = mask_iou([rles[row] for row in rows], [annotations[row]["segmentation"] for row in here])
        best = iou.argmax(axis=1)
        columns["nearest"][rows] = np.where(iou.max(axis=1) >= IOU_THRESHOLDS[0], here[best], -1)
        for threshold in IOU_THRESHOLDS:
            percent = as_percent(threshold)
            match = greedy_match(iou, table["score"].to_numpy()[rows], threshold)
            paired = match >= 0
            columns[f"match{percent}"][rows[paired]] = here[match[paired]]
            columns[f"iou{percent}"][rows[paired]] = iou[paired, match[paired]]
    columns["in_crowd"] = _in_crowd(table, rles, crowd) & (columns[f"match{as_percent(IOU_THRESHOLDS[0])}"] < 0)
    return table.assign(**columns)


def _in_crowd(table: pd.DataFrame, rles: Sequence[dict[str, Any]], crowd: Sequence[dict[str, Any]]) -> np.ndarray:
    """Which predictions lie in a crowd region of their image, bool (P,)."""
    inside = np.zeros(len(table), dtype=bool)
    images = table.groupby("image_id").indices
    for region in crowd:
        rows = images.get(region["image_id"], ())
        if len(rows):
            # With a crowd region, COCO's IoU is the share of the prediction that lies in it
            share = mask_utils.iou([rles[row] for row in rows], [region["segmentation"]], [True])
            inside[rows] |= np.asarray(share)[:, 0] >= IOU_THRESHOLDS[0]
    return inside


def pair_table(ground_truth: pd.DataFrame, predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The pairs matched at a threshold, by decreasing score within an image; classes are ids."""
    percent = as_percent(threshold)
    paired = predictions[predictions[f"match{percent}"] >= 0]
    paired = paired.sort_values(["image_id", "score"], ascending=[True, False], kind="stable")
    particles = ground_truth.loc[paired[f"match{percent}"].to_numpy()].reset_index(drop=True)
    paired = paired.reset_index(drop=True)
    columns = {
        "image_id": paired["image_id"],
        "label": particles["label"],
        "prediction": paired["prediction"],
        "iou": paired[f"iou{percent}"],
        "score": paired["score"],
        "gt_mass": particles["gt_mass"],
        "resolution": particles["resolution"],
    }
    for name, column in (("class", "class_id"), ("mass", "mass"), ("area", "area")):
        columns |= {f"true_{name}": particles[column], f"predicted_{name}": paired[column]}
    return pd.DataFrame(columns)


def as_percent(threshold: float) -> int:
    """0.5 -> 50, as in AP50."""
    return round(100 * threshold)


SCORE_THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 9))


def particle_errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Errors over K pairs in g; those with an unknown mass on either side are left out.

    MAPE, MedAPE and Bias are the mean and median absolute and the mean signed error, %; MAE and BiasGrams in g; R2.
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
    """Sums of known masses (g), their difference and its percent; 0 g where empty, NaN where all is unknown."""
    predicted_sum, true_sum = _sum(predicted), _sum(true)
    error = predicted_sum - true_sum
    percent = 100 * (error / true_sum) if true_sum > 0 else float("nan")
    return {"predicted": predicted_sum, "true": true_sum, "error": error, "percent": percent}


def in_total(ground_truth: pd.DataFrame, predictions: pd.DataFrame) -> np.ndarray:
    """Which predictions belong in the total, bool (P,); see the module's docstring."""
    weighed = ground_truth["mass"].notna()
    unweighed_images = set(ground_truth["image_id"]) - set(ground_truth["image_id"][weighed])
    nearest = predictions["nearest"].to_numpy()
    # The appended entry is that of nearest = -1: an extra
    on_unknown = np.append(~weighed.to_numpy(), False)[nearest]
    unjudged = on_unknown | predictions["image_id"].isin(unweighed_images).to_numpy()
    return ~(unjudged | predictions["in_crowd"].to_numpy(dtype=bool))


def evaluate_masses(
    ground_truth: pd.DataFrame,
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    report_thresh: float,
    power_law: PowerLaw | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """All mass metrics of a data set, and the pairs at IoU 0.5.

    Returns ``{"all": metrics, "per_class": [metrics], "total_by_score": [...]}`` with nested dicts of counts,
    :func:`particle_errors` and :func:`total_error`. ``report_thresh`` is the score from which a prediction counts as a
    particle. With a baseline, the pairs have ``power_law_mass`` (g), of their predicted class and area.
    """
    predictions = predictions.assign(counted=in_total(ground_truth, predictions))
    reported = predictions[predictions["score"] >= report_thresh]
    pairs = {threshold: pair_table(ground_truth, reported, threshold) for threshold in IOU_THRESHOLDS}
    if power_law is not None:
        for table in pairs.values():
            area_mm2 = table["predicted_area"] / table["resolution"] ** 2
            table["power_law_mass"] = power_law.predict(table["predicted_class"], area_mm2)
    whole = {"class": "all"} | _metrics(ground_truth, reported, pairs)
    per_class = []
    for class_id, name in enumerate(class_names):
        metrics = _metrics(
            ground_truth[ground_truth["class_id"] == class_id],
            reported[reported["class_id"] == class_id],
            {threshold: table[table["true_class"] == class_id] for threshold, table in pairs.items()},
        )
        per_class.append({"class": name} | metrics)
    for metrics in (whole, *per_class):
        sides = ("true", "predicted")
        metrics["share"] = {side: _share(metrics["total"][side], whole["total"][side]) for side in sides}
    counted = predictions[predictions["counted"]]
    by_score = [_total_from_score(ground_truth, counted, threshold) for threshold in SCORE_THRESHOLDS]
    return {"all": whole, "per_class": per_class, "total_by_score": by_score}, pairs[IOU_THRESHOLDS[0]]


def flatten_masses(masses: dict[str, Any]) -> dict[str, float]:
    """The metrics of :func:`evaluate_masses` as the flat floats Detectron2 logs.

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
    for metrics in masses["per_class"]:
        name, pairs = metrics["class"], metrics[f"iou{as_percent(IOU_THRESHOLDS[0])}"]
        flat[f"MAPE-{name}"] = pairs["particle"]["MAPE"]
        flat[f"TotalError-{name}"] = metrics["total"]["percent"]
        flat[f"TotalErrorMatched-{name}"] = pairs["total"]["percent"]
    return flat


def _metrics(ground_truth: pd.DataFrame, reported: pd.DataFrame, pairs: dict[float, pd.DataFrame]) -> dict[str, Any]:
    """Counts and errors of the whole set or of one class."""
    weighed = ground_truth["mass"].notna()
    counted = reported[reported["counted"]]
    metrics = {
        "ground_truth": len(ground_truth),
        "weighed": int(weighed.sum()),
        "estimated": int((weighed & ~ground_truth["gt_mass"].astype(bool)).sum()),
        "predictions": len(reported),
        "excluded": len(reported) - len(counted),
        "without_mass": int(counted["mass"].isna().sum()),
        "total": total_error(counted["mass"].to_numpy(), ground_truth["mass"].to_numpy()),
    }
    return metrics | {f"iou{as_percent(threshold)}": _pair_metrics(table) for threshold, table in pairs.items()}


def _pair_metrics(pairs: pd.DataFrame) -> dict[str, Any]:
    predicted, true = pairs["predicted_mass"].to_numpy(), pairs["true_mass"].to_numpy()
    known = np.isfinite(predicted) & np.isfinite(true)
    metrics = {
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
        metrics["power_law"] = {"MAPE": law, "gain": 100 * (1 - branch / law) if law > 0 else float("nan")}
    return metrics


def _total_from_score(ground_truth: pd.DataFrame, counted: pd.DataFrame, threshold: float) -> dict[str, float]:
    reported = counted[counted["score"] >= threshold]
    total = total_error(reported["mass"].to_numpy(), ground_truth["mass"].to_numpy())
    return {"score": threshold, "predictions": len(reported)} | total


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _sum(masses: np.ndarray) -> float:
    known = np.isfinite(masses)
    return float("nan") if len(masses) and not known.any() else float(np.sum(np.asarray(masses)[known]))


def _share(part: float, whole: float) -> float:
    return 100 * part / whole if whole > 0 else float("nan")


# Particles a class needs for an exponent of its own
MIN_PARTICLES = 5
# Label maps read where the annotations have no areas: evenly spread images, plenty for two numbers a class
MAX_DECODED_IMAGES = 100
# Bodies of one shape and density: mass grows as length^3, area as length^2
SIMILAR_BODIES = 1.5


@dataclass(frozen=True)
class PowerLaw:
    """The baseline a mass branch must beat: mass in g = scale * area in mm2 ^ exponent, by class."""

    laws: Mapping[int, tuple[float, float]]  # class id -> (scale, exponent)
    pooled: tuple[float, float]  # for classes that training lacks

    def predict(self, class_ids: Iterable[int], areas_mm2: np.ndarray) -> np.ndarray:
        """Masses in grams, float64 (K,), of K class ids and areas in mm2; NaN where the area is."""
        laws = [self.laws.get(int(class_id), self.pooled) for class_id in class_ids]
        scales, exponents = np.array(laws, dtype=float).reshape(-1, 2).T
        return scales * np.asarray(areas_mm2, dtype=float) ** exponents


def fit_power_law(dataset_dicts: Sequence[dict[str, Any]]) -> PowerLaw:
    """Fit the baseline on the ground truth of training; repeated dataset dicts count once.

    The exponent of a class is that of least squares in log space, or the one shared by all classes where it has too few
    particles; its scale is then the one of least MAPE. Missing areas are read from the label maps.
    """
    class_ids, areas, masses = training_truth(dataset_dicts)
    if len(masses) == 0:
        raise RamsesError(
            "the training data has no particle with a known mass in an image of known resolution; "
            "a power law needs some"
        )
    x, y = np.log(areas), np.log(masses)
    classes, member = np.unique(class_ids, return_inverse=True)
    count = np.bincount(member)
    centred_x, centred_y = (v - (np.bincount(member, v) / count)[member] for v in (x, y))
    shared = _slope(centred_x, centred_y, otherwise=SIMILAR_BODIES)
    laws = {}
    for class_id in classes.tolist():
        mine = class_ids == class_id
        enough = mine.sum() >= MIN_PARTICLES
        exponent = _slope(x[mine], y[mine], otherwise=shared) if enough else shared
        laws[class_id] = (best_scale(areas[mine], masses[mine], exponent), exponent)
    return PowerLaw(laws, (best_scale(areas, masses, shared), shared))


def training_truth(dataset_dicts: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class ids, areas in mm2 and masses in g of all particles where these are known, (K,) each."""
    images = {each["file_name"]: each for each in dataset_dicts if not math.isnan(each["resolution"])}.values()
    weighed = [[a for a in each["annotations"] if not math.isnan(a["mass"])] for each in images]
    without_area = [i for i, known in enumerate(weighed) if any(math.isnan(a["area"]) for a in known)]
    decoded = set(without_area[:: max(1, math.ceil(len(without_area) / MAX_DECODED_IMAGES))])

    rows = []
    for index, (dataset_dict, known) in enumerate(zip(images, weighed, strict=True)):
        counts = np.bincount(read_label_map(dataset_dict).ravel()) if index in decoded else np.zeros(0, np.int64)
        for annotation in known:
            area, label = annotation["area"], annotation["label"]
            if math.isnan(area) and label < len(counts):
                area = counts[label]
            if area > 0:  # false for NaN too
                rows.append((annotation["category_id"], area / dataset_dict["resolution"] ** 2, annotation["mass"]))
    class_ids, areas, masses = np.array(rows, dtype=float).reshape(-1, 3).T
    return class_ids.astype(np.int64), areas, masses


def _slope(x: np.ndarray, y: np.ndarray, otherwise: float) -> float:
    """Slope of the least-squares line, or ``otherwise`` where all x are equal."""
    x = x - x.mean()
    spread = float(x @ x)
    return float(x @ (y - y.mean())) / spread if spread > 1e-9 else otherwise


def best_scale(areas: np.ndarray, masses: np.ndarray, exponent: float) -> float:
    """The s of least mean |s q - m| / m with q = area ^ exponent: the median of m / q weighted by q / m."""
    ratio = np.sort(masses / areas**exponent)
    weight = np.cumsum(1 / ratio)
    return float(ratio[np.searchsorted(weight, weight[-1] / 2)])
